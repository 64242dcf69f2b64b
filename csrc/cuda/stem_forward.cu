// The stem: max_pool3x3s2p1(relu(batch_norm(conv))) of uint8 images, and only its result in memory.
//
// Batch normalisation is folded into the weights, by running or by the batch's statistics, the latter
// from the patch moments (weights.cuh); a sum starts at its shift, so that ReLU compares with zero, and
// zero is what maxima take for positions outside the image. The convolution is that of conv_forward.cu.
// An MMA's 16 rows are the even and the odd columns of 8 pooled outputs, so that a thread holds both for
// one of them: it takes the maximum of three rows, then of its two columns and of the odd column to the
// left, which the thread four before it sends. For the backward pass one byte an output says where the
// maximum was. Without it, rounding to bfloat16 and ReLU come before the maximum, which they do not
// change: then half as many registers hold what is compared, three pairs of channels at once.
//
// Bytes: 48 read and O x size written, and O for the code, per pooled output; 256 images of 256x256 to
// 64 channels are 50 MB and 134 MB in bfloat16, 67 MB of codes. Instructions of a warp for 8 pooled
// outputs x 32 channels, in bfloat16 without codes: 24 MMA (16 if fast), 4 ldmatrix, 16 conversions, 12
// maxima, 4 multiplications and some 40 more, with an eighth of the MMA again for the row that tiles
// share; 70 to form the patches, once for all channels. They decide: the products alone, 2 x 24 x 64
// multiply-adds an output of the convolution, are 25.8 Gflop for the images above. Two blocks of 8 warps
// fit a multiprocessor (128 registers a thread, 81 KB of shared memory a block, 98 KB with codes; where
// it has less than 200 KB, one block with codes).
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

// What a thread holds of one row of the convolution, or of the maxima of three: 8 channels of a pooled output's even
// column and of its odd one. They are float32 or, kPacked, pairs of bfloat16 numbers after ReLU. Zero stands for what
// lies outside the image, since ReLU comes in any case.
template <bool kPacked>
struct Columns {
  using Element = std::conditional_t<kPacked, uint32_t, float>;
  static constexpr int kCount = kPacked ? kTiles : 2 * kTiles;

  Element even[kCount], odd[kCount];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) even[i] = odd[i] = 0;
  }
};

__device__ float largest_of(float a, float b, float c) { return max_or_nan(max_or_nan(a, b), c); }
__device__ uint32_t largest_of(uint32_t a, uint32_t b, uint32_t c) { return max_of_pairs(a, b, c); }

// What a group of channels is multiplied by, and what its sums start from.
struct GroupWeights {
  WeightFragments fragments;
  float start[kTiles][4];

  __device__ void load_start(const PackedWeights& weights, int64_t group) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) load_floats(start[j], weights.start_of(group, j));
  }
};

// This lane's rows of the matrices that a warp multiplies: patches of the 16 columns that it pools.
struct PatchReader {
  const uint4 *channels01, *channel2;  // in the first row of the tile

  // An odd column beyond the image, whose last is `last_col` of the tile, is replaced by the even one beside it.
  __device__ PatchReader(const Tile& tile, int last_col) {
    const int lane = lane_index(), row = lane % 16, even = warp_index() * 16 + 2 * (row % 8);
    const int position = even + (even < last_col ? row / 8 : 0);
    channels01 = tile.patch(lane / 16, position);
    channel2 = tile.patch(2, position);
  }

  // patch_row() permutes within 32 positions, so rows of the tile are a constant distance apart.
  static_assert(Tile::kCols % 32 == 0);

  // The convolution's outputs in row `y` of the tile.
  template <bool kPacked>
  __device__ void convolve(Columns<kPacked>& columns, const GroupWeights& weights, int y, bool fast) const {
    uint32_t a01[4], a2[4];
    load_matrices<false>(a01, channels01 + y * Tile::kCols);
    load_matrices<false>(a2, channel2 + y * Tile::kCols);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const auto& words = weights.fragments.words;
      float products[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) products[i] = weights.start[j][i];
      multiply_add<Half>(products, a2,
                         words[1][j]);  // first, since it is not conditional, and so needs no copy of start
      if (!fast) multiply_add<Half>(products, a01, words[0][j]);
      multiply_add<Half>(products, a01, words[2][j]);
      if constexpr (kPacked) {
        columns.even[j] = pack_rectified(products[0], products[1]);
        columns.odd[j] = pack_rectified(products[2], products[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          columns.even[2 * j + i] = products[i];
          columns.odd[2 * j + i] = products[2 + i];
        }
      }
    }
  }
};

// Replaces `middle` by the maxima of three rows.
template <bool kPacked>
__device__ void find_largest(Columns<kPacked>& middle, const Columns<kPacked>& above, const Columns<kPacked>& below) {
#pragma unroll
  for (int i = 0; i < Columns<kPacked>::kCount; ++i) {
    middle.even[i] = largest_of(above.even[i], middle.even[i], below.even[i]);
    middle.odd[i] = largest_of(above.odd[i], middle.odd[i], below.odd[i]);
  }
}

// Which rows maxima are from, as 16-bit numbers, two channels to a word: 1, 4 or 7, as codes are for the even column.
struct Codes {
  uint32_t even[kTiles], odd[kTiles];
};

NPR_HOST_DEVICE constexpr uint32_t pair_of(uint32_t number) { return number | number << 16; }

// Of equal maxima, the first row's counts, as in PyTorch.
__device__ void find_largest(float& middle, float above, float below, uint32_t& code, int half) {
  if (middle > above) code ^= (1 ^ 4) << (16 * half);
  middle = max_or_nan(above, middle);
  if (below > middle) code |= 7 << (16 * half);
  middle = max_or_nan(middle, below);
}

__device__ void find_largest(Columns<false>& middle, Codes& codes, const Columns<false>& above,
                             const Columns<false>& below) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    codes.even[j] = codes.odd[j] = pair_of(1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * j + half;
      find_largest(middle.even[i], above.even[i], below.even[i], codes.even[j], half);
      find_largest(middle.odd[i], above.odd[i], below.odd[i], codes.odd[j], half);
    }
  }
}

// Of equal maxima, the first in row-major order: the smallest code of three columns.
__device__ void find_codes(uint32_t (&first)[kTiles], const Codes& codes, const uint32_t (&left_codes)[kTiles],
                           const float (&largest)[2 * kTiles], const Columns<false>& own,
                           const float (&left)[2 * kTiles]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    uint32_t at_left = left_codes[j] - pair_of(1), at_even = codes.even[j], at_odd = codes.odd[j] + pair_of(1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * j + half;
      const uint32_t none = 0xff << (16 * half);
      const bool open = largest[i] > 0;
      if (!open || left[i] != largest[i]) at_left |= none;
      if (!open || own.even[i] != largest[i]) at_even |= none;
      if (!open || own.odd[i] != largest[i]) at_odd |= none;
    }
    first[j] = min_of_pairs(min_of_pairs(at_left, at_even, at_odd), pair_of(kClosed), pair_of(kClosed));
  }
}

// Results in bfloat16.
__device__ void round(uint32_t (&words)[kTiles], const uint32_t (&pairs)[kTiles], const uint32_t (&unscale)[kTiles]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) words[j] = multiply_pairs(pairs[j], unscale[j]);
}

__device__ void round(uint32_t (&words)[kTiles], const float (&values)[2 * kTiles], const uint32_t (&unscale)[kTiles]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    words[j] = multiply_pairs(pack_rectified(values[2 * j], values[2 * j + 1]), unscale[j]);
  }
}

// What is sent by way of shared memory: words that each thread receives from the thread four before it, in this warp or
// the one to the left: what those hold of the odd column to the left. The first four threads receive zeros.
template <int kVectors>
struct Exchange {
  uint4 words[2][kVectors][kThreads + 4];  // two sets, so that one barrier will do between writing and reading

  __device__ void clear() {
    if (threadIdx.x >= 4) return;
#pragma unroll
    for (int i = 0; i < 2 * kVectors; ++i) words[i / kVectors][i % kVectors][threadIdx.x] = {};
  }

  template <class Word, int kCount>
  __device__ void put(int set, int vector, const Word (&from)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      words[set][vector + i / 4][threadIdx.x + 4] = {as_word(from[i]), as_word(from[i + 1]), as_word(from[i + 2]),
                                                     as_word(from[i + 3])};
    }
  }

  template <class Word, int kCount>
  __device__ void get(int set, int vector, Word (&to)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint4 four = words[set][vector + i / 4][threadIdx.x];
      assign(to[i], four.x), assign(to[i + 1], four.y), assign(to[i + 2], four.z), assign(to[i + 3], four.w);
    }
  }

  __device__ static uint32_t as_word(float value) { return __float_as_uint(value); }
  __device__ static uint32_t as_word(uint32_t value) { return value; }
  __device__ static void assign(float& to, uint32_t word) { to = __uint_as_float(word); }
  __device__ static void assign(uint32_t& to, uint32_t word) { to = word; }
};

// Results that are rounded to bfloat16 can be rounded before the maximum, unless codes tell apart what rounding makes
// equal.
template <class T, bool kSave>
constexpr bool kPacks = std::is_same_v<T, BFloat> && !kSave;

template <class T, bool kSave>
struct Shared {
  static constexpr int kValues = Columns<kPacks<T, kSave>>::kCount / 4;

  Tile patches;
  Exchange<kValues + (kSave ? 1 : 0)> exchange;
};
static_assert(sizeof(Shared<float, true>) <= 99 << 10);  // what a block may have on sm_86, sm_89 and sm_120

// Blocks that the registers must leave room for: where a multiprocessor has 100 KB of shared memory, one fits.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kResident = 1;
#else
constexpr int kResident = kBlocks;
#endif

template <class T, bool kSave>
__global__ void __launch_bounds__(kThreads, kResident) stem_forward_kernel(Problem p, T* out) {
  constexpr bool kPacked = kPacks<T, kSave>;
  constexpr int kRun = kVector<T>;
  using Values = Columns<kPacked>;
  auto& shared = dynamic_shared<Shared<T, kSave>>();
  const int lane = lane_index(), warp = warp_index(), g = lane / 4, t = lane % 4;
  const int rows = p.tiling.rows, cols = p.tiling.cols;
  const int pooled_rows = int(pooled(rows)), pooled_cols = int(pooled(cols));
  const int64_t groups = ceil_div(p.outputs, kGroup);
  shared.exchange.clear();

  for_each_tile(p.tiling, shared.patches, [&](const Tiling::Position& tile) {
    const PatchReader patches(shared.patches, cols - 1 - tile.col);
    const int first_row = (tile.row + 1) >> 1, col = tile.col / 2 + warp * 8 + g;
    const bool emits = col < pooled_cols && (tile.col == 0 || warp > 0 || g > 0);
    const bool any = 2 * (col - g) < cols;     // of the warp's columns
    const int last_row = rows - 1 - tile.row;  // of the image
    const int64_t first_at = ((int64_t(tile.image) * pooled_rows + first_row) * pooled_cols + col) * p.outputs;

    for (int64_t group = 0; group < groups; ++group) {
      GroupWeights weights;
      weights.fragments.load(p.weights, group);
      weights.load_start(p.weights, group);
      const int64_t first_channel = group * kGroup + t * kRun;
      const int channels = int(p.outputs - first_channel);  // from there on
      const float* unscale_from = p.weights.unscale + first_channel;
      int64_t at = first_at + first_channel;
      uint32_t unscale_pairs[kTiles];
      if constexpr (std::is_same_v<T, BFloat>) {
        float unscale[8];
        load_floats(unscale, unscale_from);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) unscale_pairs[j] = pack<BFloat>(unscale[2 * j], unscale[2 * j + 1]);
      }

      Values shared_rows[2], maxima;  // the rows of the convolution that two pooled ones share, in turn above and below
      Codes codes;
      if (first_row > 0) {
        patches.convolve(shared_rows[0], weights, 0, p.fast);
      } else {
        shared_rows[0].clear();
      }

#pragma unroll 2
      for (int y = 0; y < kPooledRows; ++y, at += pooled_cols * p.outputs) {
        constexpr int kValues = Shared<T, kSave>::kValues;
        if (any) {
          const Values& above = shared_rows[y % 2];
          Values& below = shared_rows[1 - y % 2];
          if (!kPacked) weights.load_start(p.weights, group);  // registers are short
          patches.convolve(maxima, weights, 2 * y + 1, p.fast);
          if (!kPacked) weights.load_start(p.weights, group);
          patches.convolve(below, weights, min(2 * y + 2, last_row), p.fast);  // if not there, the one above again
          if constexpr (kSave) {
            find_largest(maxima, codes, above, below);
            shared.exchange.put(y % 2, kValues, codes.odd);
          } else {
            find_largest(maxima, above, below);
          }
          shared.exchange.put(y % 2, 0, maxima.odd);
        }
        __syncthreads();
        if (!any) continue;

        typename Values::Element left[Values::kCount], largest[Values::kCount];
        shared.exchange.get(y % 2, 0, left);
#pragma unroll
        for (int i = 0; i < Values::kCount; ++i) largest[i] = largest_of(left[i], maxima.even[i], maxima.odd[i]);
        const bool stores = emits && y < pooled_rows - first_row;
        uint32_t words[kTiles];
        if constexpr (std::is_same_v<T, BFloat>) round(words, largest, unscale_pairs);
        uint32_t first_codes[kTiles];
        if constexpr (kSave) {
          uint32_t left_codes[kTiles];
          shared.exchange.get(y % 2, kValues, left_codes);
          find_codes(first_codes, codes, left_codes, largest, maxima, left);
        }
#pragma unroll
        for (int run = 0; run < 8 / kRun; ++run) {
          const int64_t offset = at + run * 4 * kRun;
          const int count = channels - run * 4 * kRun;
          if (!stores || count <= 0) continue;
          if constexpr (std::is_same_v<T, BFloat>) {
            store_words(out + offset, words, count, p.aligned);
          } else {
            float values[kRun], unscale[kRun];
            load_floats(unscale, unscale_from + run * 4 * kRun);
#pragma unroll
            for (int v = 0; v < kRun; ++v) values[v] = max_or_nan(largest[run * kRun + v] * unscale[v], 0);
            store_vector<T>(out + offset, values, count, p.aligned);
          }
          if constexpr (kSave) {
            uint32_t bytes[kRun / 4];
#pragma unroll
            for (int i = 0; i < kRun / 4; ++i) {
              const int j = run * kRun / 2 + 2 * i;
              bytes[i] = permute_bytes(first_codes[j], first_codes[j + 1], 0x6420);
            }
            store_codes(p.code + offset, bytes, count, p.aligned);
          }
        }
      }
    }
  });
}

template <class T, bool kSave>
Status launch_stem_forward(const Problem& problem, Device device, T* out, Stream stream) {
  const unsigned blocks = persistent_blocks(problem.tiling.count, device, kBlocks);
  return launch<Shared<T, kSave>>("stem_forward_kernel", stem_forward_kernel<T, kSave>, blocks, kThreads, stream,
                                  problem, out);
}

template <class T>
Status stem_forward_tensor_cores(const StemForward& op, Device device, const Folding& folding, void* workspace,
                                 Stream stream) {
  const Tiling tiling = tiling_of(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const PackedWeights weights = PackedWeights::at(workspace, op.outputs);
  const Status prepared =
      prepare_packed<kVector<T>>(folding, channel_scale(op.channel_scale, kChannels), weights, op.fast, stream);
  if (!prepared.ok()) return prepared;
  const bool aligned = op.outputs % kVector<T> == 0 && reinterpret_cast<uintptr_t>(op.out) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(op.code) % kVector<T> == 0;
  const Problem problem{tiling, weights, op.outputs, op.code, op.fast, aligned};
  T* out = static_cast<T*>(op.out);
  return op.code != nullptr ? launch_stem_forward<T, true>(problem, device, out, stream)
                            : launch_stem_forward<T, false>(problem, device, out, stream);
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
    const Compute* weight = weights.folded + output * patch_size(images);
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
Status stem_forward_plainly(const StemForward& op, Device device, const Folding& folding, void* workspace,
                            Stream stream) {
  const auto weights = PlainWeights<Compute>::at(workspace, op.outputs, patch_size(op.images));
  const Status prepared = prepare_plain(folding, channel_scale(op.channel_scale, op.images.channels), weights, stream);
  if (!prepared.ok()) return prepared;
  const int64_t total = op.images.batch * op.outputs * pooled(op.images.rows()) * pooled(op.images.cols());
  const unsigned blocks = persistent_blocks(ceil_div(total, kPlainThreads), device, 8);
  return launch("stem_forward_plain", stem_forward_plain<Compute, T>, blocks, kPlainThreads, stream, op.images, weights,
                op.outputs, static_cast<T*>(op.out), op.code);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t stem_forward_workspace(const StemForward& op, Device) {
  return std::max(PackedWeights::bytes(op.outputs), PlainWeights<double>::bytes(op.outputs, patch_size(op.images)));
}

Status stem_forward(const StemForward& op, Device device, void* workspace, Stream stream) {
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
      case Type::f32: return stem_forward_plainly<float, float>(op, device, folding, workspace, stream);
      case Type::bf16: return stem_forward_plainly<float, BFloat>(op, device, folding, workspace, stream);
      case Type::f16: return stem_forward_plainly<float, Half>(op, device, folding, workspace, stream);
      default: return stem_forward_plainly<double, double>(op, device, folding, workspace, stream);
    }
  }
  switch (op.type) {
    case Type::bf16: return stem_forward_tensor_cores<BFloat>(op, device, folding, workspace, stream);
    case Type::f16: return stem_forward_tensor_cores<Half>(op, device, folding, workspace, stream);
    default: return stem_forward_tensor_cores<float>(op, device, folding, workspace, stream);
  }
}

}  // namespace npr::cuda
