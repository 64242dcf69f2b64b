// The fused convolution: uint8 images in, convolution of their NPR residual out.
//
// An implicit GEMM on tensor cores: outputs x 24 patch elements (patches.cuh) times 24 x O weights in
// two float16 terms (weights.cuh), so K = 48, three m16n8k16 steps. Differences and products are
// exact; what rounds is the low term, at 2^-22 of the channel's largest weight, and the float32 sums.
//
// Bytes: 3 x 4 read and O x size written per output (one cell); 256 images of 256x256 to 64 channels
// are 50 MB and 537 MB in bfloat16, so stores decide. They are 16 bytes a thread, straight from the
// accumulators, whose channel order (channels_last) or position order (NCHW) is dealt out for that.
// Instructions of a warp for 16 outputs x 64 channels, bfloat16, counted in sm_90 code: 24 MMA (16 if
// fast), 2 ldmatrix, 32 multiply-adds, 16 conversions, 4 stores, 8 loads of factors, some 100 to find
// addresses and bounds; and some 60 to form the patches.
//
// Blocks are persistent: the bytes of a block's next tile arrive while it multiplies the present one.
// Two of 8 warps fit a multiprocessor, by registers (128 a thread); each has 33 KB of shared memory.
// Other than 3 channels, or float64 results, take a plain kernel, one thread per result.
#include "cuda/plain.cuh"
#include "cuda/weights.cuh"

namespace npr::cuda {
namespace {

// ---- Tensor cores ----------------------------------------------------------------------------------

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlocks = 2;  // blocks of a multiprocessor
constexpr int kBlockOutputs = 2 * kGroup;

using Tile = PatchTile<Half, 8, 64>;

struct Problem {
  Tiling tiling;
  PackedWeights weights;
  int64_t outputs;
  bool fast;
  bool aligned;  // whole vectors of results lie on 16-byte boundaries
};

// Rows of the MMA are 16 neighbouring outputs, columns are channels: out [N, rows, cols, O].
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) conv_forward_channels_last(Problem p, T* out) {
  constexpr int kRun = kVector<T>;
  __shared__ Tile patches;
  __shared__ __align__(16) float unscale[kBlockOutputs], shift[kBlockOutputs];

  const int64_t first_output = int64_t(blockIdx.y) * kBlockOutputs;
  for (int i = threadIdx.x; i < kBlockOutputs; i += kThreads) {
    unscale[i] = p.weights.unscale[first_output + i];
    shift[i] = p.weights.shift[first_output + i];
  }
  WeightFragments weights[2];
#pragma unroll
  for (int group = 0; group < 2; ++group) weights[group].load(p.weights, 2 * blockIdx.y + group);

  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int rows = p.tiling.rows, cols = p.tiling.cols;
  const int64_t eight_columns = 8 * p.outputs, of_thread = g * p.outputs + first_output + t * kRun;
  for_each_tile(p.tiling, patches, [&](const Tiling::Position& tile) {
    constexpr int kSegments = Tile::kCols / 16;
    for (int i = warp_index(); i < Tile::kRows * kSegments; i += kWarps) {
      const int y = i / kSegments, x = i % kSegments * 16;
      const int row = tile.row + y, col = tile.col + x;
      if (row >= rows || col >= cols) continue;

      const int position = y * Tile::kCols + x + lane % 16;
      uint32_t channels01[4], channel2[4];
      load_matrices<false>(channels01, patches.patch(lane / 16, position));
      load_matrices<false>(channel2, patches.patch(2, position));

      T* results = out + ((int64_t(tile.image) * rows + row) * cols + col) * p.outputs + of_thread;
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        float sums[PackedWeights::kTiles][4] = {};
#pragma unroll
        for (int j = 0; j < PackedWeights::kTiles; ++j) {
          if (!p.fast) multiply_add<Half>(sums[j], channels01, weights[group].words[0][j]);
          multiply_add<Half>(sums[j], channel2, weights[group].words[1][j]);
          multiply_add<Half>(sums[j], channels01, weights[group].words[2][j]);
        }
#pragma unroll
        for (int run = 0; run < 8 / kRun; ++run) {
          const int offset = group * kGroup + run * 4 * kRun, channel = offset + t * kRun;
          const int64_t count = p.outputs - first_output - channel;
          if (count <= 0) continue;
          float factors[kRun], terms[kRun];
          load_floats(factors, unscale + channel);
          load_floats(terms, shift + channel);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (col + g + 8 * half >= cols) continue;
            float values[kRun];
#pragma unroll
            for (int v = 0; v < kRun; ++v) {
              const float sum = sums[run * kRun / 2 + v / 2][2 * half + v % 2];
              values[v] = fmaf(sum, factors[v], terms[v]);
            }
            store_vector<T>(results + half * eight_columns + offset, values, count, p.aligned);
          }
        }
      }
    }
  });
}

// Rows of the MMA are channels, columns are positions, 32 of an output row at a time: out [N, O, rows, cols].
// A warp keeps the weights of one of the two groups of channels.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) conv_forward_planar(Problem p, T* out) {
  constexpr int kRun = kVector<T>, kTiles = PackedWeights::kTiles;
  __shared__ Tile patches;

  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int64_t group = 2 * blockIdx.y + warp_index() % 2;
  WeightFragments weights;
  weights.load(p.weights, group);
  float unscale[kTiles], shift[kTiles];  // of channel g of each tile
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int64_t channel = group * kGroup + spread<kRun>(j, g);
    unscale[j] = p.weights.unscale[channel];
    shift[j] = p.weights.shift[channel];
  }

  const int rows = p.tiling.rows, cols = p.tiling.cols;
  for_each_tile(p.tiling, patches, [&](const Tiling::Position& tile) {
    constexpr int kSegments = Tile::kCols / 32;
    for (int i = warp_index() / 2; i < Tile::kRows * kSegments; i += kWarps / 2) {
      const int y = i / kSegments, x = i % kSegments * 32;
      const int row = tile.row + y, col = tile.col + x;
      if (row >= rows || col >= cols) continue;

      float sums[kTiles / 2][4][4] = {};  // [two tiles of channels][tile of positions]
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int position = y * Tile::kCols + x + spread<kRun>(j, lane % 8);
        uint32_t words[4];  // channels 0, 1, 2, 2
        load_matrices<false>(words, patches.patch(min(lane / 8, 2), position));
        const uint32_t channels01[2] = {words[0], words[1]}, channel2[2] = {words[2], words[3]};
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) {
          const auto step = [&](int s, const uint32_t (&operand)[2]) {
            const auto& tiles = weights.words[s];
            const uint32_t rows16[4] = {tiles[2 * pair][0], tiles[2 * pair + 1][0], tiles[2 * pair][1],
                                        tiles[2 * pair + 1][1]};
            multiply_add<Half>(sums[pair][j], rows16, operand);
          };
          if (!p.fast) step(0, channels01);
          step(1, channel2);
          step(2, channels01);
        }
      }
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
        const int64_t channel = group * kGroup + spread<kRun>(c, g);
        if (channel >= p.outputs) continue;
        T* plane = out + ((tile.image * p.outputs + channel) * rows + row) * cols;
#pragma unroll
        for (int run = 0; run < 8 / kRun; ++run) {
          const int x_out = col + run * 4 * kRun + t * kRun;
          if (x_out >= cols) continue;
          float values[kRun];
#pragma unroll
          for (int v = 0; v < kRun; ++v) {
            values[v] = fmaf(sums[c / 2][run * kRun / 2 + v / 2][c % 2 * 2 + v % 2], unscale[c], shift[c]);
          }
          store_vector<T>(plane + x_out, values, cols - x_out, p.aligned);
        }
      }
    }
  });
}

template <class T>
Status conv_forward_tensor_cores(const ConvForward& op, Device device, const Folding& folding, void* workspace,
                                 Stream stream) {
  const Tiling tiling = Tiling::of<Tile>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const PackedWeights weights = PackedWeights::at(workspace, op.outputs);
  const Status prepared =
      prepare_packed<kVector<T>>(folding, channel_scale(op.channel_scale, kChannels), weights, op.fast, stream);
  if (!prepared.ok()) return prepared;

  const int64_t run = op.channels_last ? op.outputs : op.images.cols();
  const bool aligned = run % kVector<T> == 0 && reinterpret_cast<uintptr_t>(op.out) % 16 == 0;
  const Problem problem{tiling, weights, op.outputs, op.fast, aligned};
  const dim3 grid(persistent_blocks(tiling.count, device, kBlocks), unsigned(ceil_div(op.outputs, kBlockOutputs)));
  T* out = static_cast<T*>(op.out);
  return op.channels_last
             ? launch("conv_forward_channels_last", conv_forward_channels_last<T>, grid, kThreads, stream, problem, out)
             : launch("conv_forward_planar", conv_forward_planar<T>, grid, kThreads, stream, problem, out);
}

// ---- Plain -----------------------------------------------------------------------------------------

template <class Compute, class T>
__global__ void __launch_bounds__(kThreads)
    conv_forward_plain(Images images, PlainWeights<Compute> weights, int64_t outputs, bool channels_last, T* out) {
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * outputs * rows * cols;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    int64_t rest = i, output = 0;
    if (channels_last) output = rest % outputs, rest /= outputs;
    const int64_t col = rest % cols, row = rest / cols % rows;
    rest /= cols * rows;
    if (!channels_last) output = rest % outputs, rest /= outputs;
    const uint8_t* image = images.data + rest * images.stride_n;

    const Compute* weight = weights.folded + output * patch_size(images);
    Compute sum = weights.shift[output];
    for (int64_t c = 0; c < images.channels; ++c) {
      for (int tap = 0; tap < kTaps; ++tap) {
        sum += weight[c * kTaps + tap] * Compute(difference(images, image + c * images.stride_c, row, col, tap));
      }
    }
    if constexpr (std::is_same_v<Compute, T>) {
      out[i] = sum;
    } else {
      out[i] = from_float<T>(sum);
    }
  }
}

template <class Compute, class T>
Status conv_forward_plainly(const ConvForward& op, Device device, const Folding& folding, void* workspace,
                            Stream stream) {
  const auto weights = PlainWeights<Compute>::at(workspace, op.outputs, patch_size(op.images));
  const Status prepared = prepare_plain(folding, channel_scale(op.channel_scale, op.images.channels), weights, stream);
  if (!prepared.ok()) return prepared;
  const int64_t total = op.images.batch * op.outputs * op.images.rows() * op.images.cols();
  const unsigned blocks = persistent_blocks(ceil_div(total, kThreads), device, 8);
  return launch("conv_forward_plain", conv_forward_plain<Compute, T>, blocks, kThreads, stream, op.images, weights,
                op.outputs, op.channels_last, static_cast<T*>(op.out));
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t conv_forward_workspace(const ConvForward& op, Device) {
  return std::max(PackedWeights::bytes(op.outputs), PlainWeights<double>::bytes(op.outputs, patch_size(op.images)));
}

Status conv_forward(const ConvForward& op, Device device, void* workspace, Stream stream) {
  if (op.images.channels > kMaxChannels) return too_many_channels();
  Folding folding{};
  folding.outputs = op.outputs;
  folding.channels = op.images.channels;
  folding.weight = op.weight;
  folding.bias = op.bias;
  if (op.images.channels != kChannels || op.type == Type::f64) {
    switch (op.type) {
      case Type::f32: return conv_forward_plainly<float, float>(op, device, folding, workspace, stream);
      case Type::bf16: return conv_forward_plainly<float, BFloat>(op, device, folding, workspace, stream);
      case Type::f16: return conv_forward_plainly<float, Half>(op, device, folding, workspace, stream);
      default: return conv_forward_plainly<double, double>(op, device, folding, workspace, stream);
    }
  }
  switch (op.type) {
    case Type::bf16: return conv_forward_tensor_cores<BFloat>(op, device, folding, workspace, stream);
    case Type::f16: return conv_forward_tensor_cores<Half>(op, device, folding, workspace, stream);
    default: return conv_forward_tensor_cores<float>(op, device, folding, workspace, stream);
  }
}

}  // namespace npr::cuda
