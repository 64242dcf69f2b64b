// The stem: max_pool3x3s2p1(relu(batch_norm(conv))) of uint8 images, and only its result in memory.
//
// Batch normalisation is folded into the weights, by running or by the batch's statistics, the latter
// from the patch moments (weights.cuh); its shift and ReLU come after the maximum, which they do not
// change. The convolution is that of conv_forward.cu. An MMA's 16 rows are the even and the odd columns
// of 8 pooled outputs, so that a thread holds both for one of them: it takes the maximum of three rows,
// then of its two columns and of the odd column to the left, which another lane of the warp holds, or
// the next warp. For the backward pass one byte an output says where the maximum was.
//
// Bytes: 48 read and O x size written, and O for the code, per pooled output; 256 images of 256x256 to
// 64 channels are 50 MB and 134 MB in bfloat16, 67 MB of codes. Instructions of a warp for 8 pooled
// outputs x 32 channels: 24 MMA (16 if fast) and 3 more for the row that tiles share, 4 ldmatrix, 48
// maxima, 8 shuffles, 8 multiply-adds; 60 more to form the patches, once for all channels. The products
// decide: 2 x 24 x 64 multiply-adds an output of the convolution are 25.8 Gflop for the images above,
// and an eighth more for the rows that tiles share. Two blocks of 8 warps fit a multiprocessor (128
// registers a thread, 75 KB of shared memory a block).
//
// Other than 3 channels, or float64 results, take a plain kernel, one thread per result.
#include "cuda/plain.cuh"
#include "cuda/weights.cuh"

namespace npr::cuda {
namespace {

constexpr uint8_t kClosed = 9;  // code of an output that ReLU closed

// ---- Tensor cores ----------------------------------------------------------------------------------

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlocks = 2;  // blocks of a multiprocessor

// A tile is 4 x 64 pooled outputs under 9 x 128 of the convolution. The first column of pooled outputs
// is only there for its odd column, unless it is the image's first.
constexpr int kPooledRows = 4, kPooledCols = 8 * kWarps;
using Tile = PatchTile<Half, 2 * kPooledRows + 1, 2 * kPooledCols>;

Tiling tiling_of(const Images& images) {
  const int64_t down = ceil_div(pooled(images.rows()), kPooledRows);
  const int64_t across = std::max<int64_t>(1, ceil_div(pooled(images.cols()) - 1, kPooledCols - 1));
  return Tiling::of(images, down, across, 2 * kPooledRows, 2 * (kPooledCols - 1), -1, 0);
}

struct Problem {
  Tiling tiling;
  PackedWeights weights;
  int64_t outputs;
  uint8_t* code;
  bool fast;
  bool aligned;  // whole vectors of results and codes lie on their boundaries
};

constexpr int kTiles = PackedWeights::kTiles;

// Of 16 outputs of the convolution, or their maxima over rows: [tile of channels][as an MMA gives them]. Numbers 0 and
// 1 of a tile are the even column's, 2 and 3 the odd column's.
using Products = float[kTiles][4];

__device__ void fill(Products& products, float value) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) products[j][i] = value;
  }
}

// The convolution's outputs, in row `y` of the tile, that this warp pools.
__device__ void convolve(Products& products, const Tile& patches, const WeightFragments& weights, int y, bool fast) {
  const int lane = lane_index(), row = lane % 16;
  const int position = y * Tile::kCols + warp_index() * 16 + 2 * (row % 8) + row / 8;
  uint32_t channels01[4], channel2[4];
  load_matrices<false>(channels01, patches.patch(lane / 16, position));
  load_matrices<false>(channel2, patches.patch(2, position));
  fill(products, 0);
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (!fast) multiply_add<Half>(products[j], channels01, weights.words[0][j]);
    multiply_add<Half>(products[j], channel2, weights.words[1][j]);
    multiply_add<Half>(products[j], channels01, weights.words[2][j]);
  }
}

// Maxima over the rows of a pooling window, and, if asked for, which row of the three each came from: two bits an
// element.
template <bool kSave>
struct RowMaxima {
  Products values;
  uint32_t rows;

  __device__ static int shift(int j, int i) { return 2 * (4 * j + i); }
  __device__ int row(int j, int i) const { return rows >> shift(j, i) & 3; }

  __device__ void start(const Products& products) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[j][i] = products[j][i];
    }
    rows = 0;
  }

  // The earlier row wins a tie, as in PyTorch.
  __device__ void add(const Products& products, uint32_t row) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (kSave && products[j][i] > values[j][i]) {
          rows = (rows & ~(3u << shift(j, i))) | row << shift(j, i);
        }
        values[j][i] = max_or_nan(values[j][i], products[j][i]);
      }
    }
  }
};

// The odd column of a warp's last pooled output, for the warp to the right.
struct Edge {
  float values[4][kTiles][2];  // of lanes 28..31
  uint32_t rows[4];
};

struct Shared {
  Tile patches;
  Edge edges[2][kWarps];
};

template <class T, bool kSave>
__global__ void __launch_bounds__(kThreads, kBlocks) stem_forward_kernel(Problem p, T* out) {
  constexpr int kRun = kVector<T>;
  auto& shared = dynamic_shared<Shared>();
  const int lane = lane_index(), warp = warp_index(), g = lane / 4, t = lane % 4;
  const int rows = p.tiling.rows, cols = p.tiling.cols;
  const int pooled_rows = int(pooled(rows)), pooled_cols = int(pooled(cols));
  const int64_t groups = ceil_div(p.outputs, kGroup);
  int turn = 0;  // of the two sets of edges

  for_each_tile(p.tiling, shared.patches, [&](const Tiling::Position& tile) {
    const int first_row = (tile.row + 1) / 2, col = tile.col / 2 + warp * 8 + g;
    const bool has_odd = 2 * col + 1 < cols, emits = col < pooled_cols && (tile.col == 0 || warp > 0 || g > 0);
    const bool any = 2 * (col - g) < cols;  // of the warp's columns

    for (int64_t group = 0; group < groups; ++group) {
      WeightFragments weights;
      weights.load(p.weights, group);
      Products products;
      fill(products, -INFINITY);
      if (any && first_row > 0) convolve(products, shared.patches, weights, 0, p.fast);

      for (int y = 0; y < kPooledRows; ++y) {
        const int row = first_row + y;
        if (row >= pooled_rows) break;
        RowMaxima<kSave> maxima;
        maxima.start(products);
        if (any) {
          convolve(products, shared.patches, weights, 2 * y + 1, p.fast);
          maxima.add(products, 1);
          if (2 * row + 1 < rows) {
            convolve(products, shared.patches, weights, 2 * y + 2, p.fast);
            maxima.add(products, 2);
          }
        }

        // The odd column to the left.
        Edge& edge = shared.edges[turn][warp];
        if (g == 7) {
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) edge.values[t][j][i] = maxima.values[j][2 + i];
          }
          if (kSave) edge.rows[t] = maxima.rows;
        }
        float left[kTiles][2];
        uint32_t left_rows = 0;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) left[j][i] = __shfl_up_sync(~0u, maxima.values[j][2 + i], 4);
        }
        if (kSave) left_rows = __shfl_up_sync(~0u, maxima.rows, 4);
        __syncthreads();
        if (g == 0) {
          const Edge& neighbour = shared.edges[turn][max(warp - 1, 0)];
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) left[j][i] = warp > 0 ? neighbour.values[t][j][i] : -INFINITY;
          }
          if (kSave) left_rows = neighbour.rows[t];
        }
        turn ^= 1;
        if (!emits) continue;

#pragma unroll
        for (int run = 0; run < 8 / kRun; ++run) {
          const int64_t channel = group * kGroup + run * 4 * kRun + t * kRun, count = p.outputs - channel;
          if (count <= 0) continue;
          float unscale[kRun], shift[kRun], values[kRun];
          load_floats(unscale, p.weights.unscale + channel);
          load_floats(shift, p.weights.shift + channel);
          uint32_t codes[kRun / 4] = {};
#pragma unroll
          for (int v = 0; v < kRun; ++v) {
            const int j = run * kRun / 2 + v / 2, i = v % 2;
            const float even = maxima.values[j][i], odd = has_odd ? maxima.values[j][2 + i] : -INFINITY;
            const float value = max_or_nan(max_or_nan(left[j][i], even), odd);
            const float normalised = fmaf(value, unscale[v], shift[v]);
            values[v] = normalised <= 0 ? 0 : normalised;  // NaN stays
            if constexpr (kSave) {
              // Of equal maxima, the first in row-major order.
              int code = 3 * (left_rows >> RowMaxima<kSave>::shift(j, 2 + i) & 3);
              if (left[j][i] != value) code = kClosed;
              if (even == value) code = min(code, 3 * maxima.row(j, i) + 1);
              if (odd == value) code = min(code, 3 * maxima.row(j, 2 + i) + 2);
              if (!(normalised > 0)) code = kClosed;
              codes[v / 4] |= uint32_t(code) << (8 * (v % 4));
            }
          }
          const int64_t at = ((int64_t(tile.image) * pooled_rows + row) * pooled_cols + col) * p.outputs + channel;
          store_vector<T>(out + at, values, count, p.aligned);
          if constexpr (kSave) store_codes(p.code + at, codes, count, p.aligned);
        }
      }
    }
  });
}

template <class T, bool kSave>
Status launch_stem_forward(const Problem& problem, T* out, Stream stream) {
  const unsigned blocks = persistent_blocks(problem.tiling.count, kBlocks);
  return launch<Shared>("stem_forward_kernel", stem_forward_kernel<T, kSave>, blocks, kThreads, stream, problem, out);
}

template <class T>
Status stem_forward_tensor_cores(const StemForward& op, const Folding& folding, void* workspace, Stream stream) {
  const PackedWeights weights = PackedWeights::at(workspace, op.outputs);
  const Status prepared =
      prepare_packed<kVector<T>>(folding, channel_scale(op.channel_scale, kChannels), weights, op.fast, stream);
  if (!prepared.ok()) return prepared;
  const bool aligned = op.outputs % kVector<T> == 0 && reinterpret_cast<uintptr_t>(op.out) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(op.code) % kVector<T> == 0;
  const Problem problem{tiling_of(op.images), weights, op.outputs, op.code, op.fast, aligned};
  T* out = static_cast<T*>(op.out);
  return op.code != nullptr ? launch_stem_forward<T, true>(problem, out, stream)
                            : launch_stem_forward<T, false>(problem, out, stream);
}

// ---- Plain -----------------------------------------------------------------------------------------

template <class Compute, class T>
__global__ void __launch_bounds__(kPlainThreads)
    stem_forward_plain(Images images, PlainWeights<Compute> weights, int64_t outputs, T* out, uint8_t* code) {
  const int64_t rows = images.rows(), cols = images.cols(), pooled_rows = pooled(rows), pooled_cols = pooled(cols);
  const int64_t total = images.batch * pooled_rows * pooled_cols * outputs;
  const int64_t step = int64_t(gridDim.x) * kPlainThreads;
  for (int64_t i = int64_t(blockIdx.x) * kPlainThreads + threadIdx.x; i < total; i += step) {
    const int64_t output = i % outputs, col = i / outputs % pooled_cols, row = i / outputs / pooled_cols % pooled_rows;
    const uint8_t* image = images.data + i / outputs / pooled_cols / pooled_rows * images.stride_n;
    const Compute* weight = weights.folded + output * images.taps();
    Compute largest = -INFINITY;
    int where = 0;
    for (int position = 0; position < 9; ++position) {
      const int64_t y = 2 * row - 1 + position / 3, x = 2 * col - 1 + position % 3;
      if (y < 0 || y >= rows || x < 0 || x >= cols) continue;
      Compute sum = 0;
      for (int64_t c = 0; c < images.channels; ++c) {
        for (int tap = 0; tap < kTaps; ++tap) {
          sum += weight[c * kTaps + tap] * Compute(difference(images, image + c * images.stride_c, y, x, tap));
        }
      }
      if (sum > largest || isnan(sum)) {
        largest = sum;
        where = position;
      }
    }
    const Compute normalised = largest + weights.shift[output];
    const Compute result = normalised <= 0 ? Compute(0) : normalised;
    if constexpr (std::is_same_v<Compute, T>) {
      out[i] = result;
    } else {
      out[i] = from_float<T>(result);
    }
    if (code != nullptr) code[i] = normalised > 0 ? where : kClosed;
  }
}

template <class Compute, class T>
Status stem_forward_plainly(const StemForward& op, const Folding& folding, void* workspace, Stream stream) {
  const auto weights = PlainWeights<Compute>::at(workspace, op.outputs, op.images.taps());
  const Status prepared = prepare_plain(folding, channel_scale(op.channel_scale, op.images.channels), weights, stream);
  if (!prepared.ok()) return prepared;
  const int64_t total = op.images.batch * op.outputs * pooled(op.images.rows()) * pooled(op.images.cols());
  const unsigned blocks = persistent_blocks(ceil_div(total, kPlainThreads), 8);
  return launch("stem_forward_plain", stem_forward_plain<Compute, T>, blocks, kPlainThreads, stream, op.images, weights,
                op.outputs, static_cast<T*>(op.out), op.code);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t stem_forward_workspace(const StemForward& op) {
  return std::max(PackedWeights::bytes(op.outputs), PlainWeights<double>::bytes(op.outputs, op.images.taps()));
}

Status stem_forward(const StemForward& op, void* workspace, Stream stream) {
  if (op.images.channels > kMaxChannels) return too_many_channels();
  Folding folding{};
  folding.outputs = op.outputs;
  folding.channels = op.images.channels;
  folding.weight = op.weight;
  folding.batch_norm = true;
  folding.moments = op.moments;
  folding.bn_weight = op.bn_weight;
  folding.bn_bias = op.bn_bias;
  folding.mean = op.mean;
  folding.var = op.var;
  folding.eps = op.eps;
  folding.used_mean = op.used_mean;
  folding.used_var = op.used_var;
  if (op.images.channels != kChannels || op.type == Type::f64) {
    switch (op.type) {
      case Type::f32: return stem_forward_plainly<float, float>(op, folding, workspace, stream);
      case Type::bf16: return stem_forward_plainly<float, BFloat>(op, folding, workspace, stream);
      case Type::f16: return stem_forward_plainly<float, Half>(op, folding, workspace, stream);
      default: return stem_forward_plainly<double, double>(op, folding, workspace, stream);
    }
  }
  switch (op.type) {
    case Type::bf16: return stem_forward_tensor_cores<BFloat>(op, folding, workspace, stream);
    case Type::f16: return stem_forward_tensor_cores<Half>(op, folding, workspace, stream);
    default: return stem_forward_tensor_cores<float>(op, folding, workspace, stream);
  }
}

}  // namespace npr::cuda
