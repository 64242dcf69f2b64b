// The fused convolution: uint8 images in, convolution of their residual out.
//
// An implicit GEMM on tensor cores: outputs x K patch elements (patches.cuh), 24 of npr, times K x O weights in two
// float16 terms (packed.cuh): of npr, three m16n8k16 steps; of haar four, of both residuals seven. Differences and
// products are exact; what rounds is the low term, at 2^-22 of the channel's largest weight, and the float32 sums.
//
// Bytes: 3 x 4 read and O x size written per output (one cell); 256 images of 256x256 to 64 channels
// are 50 MB and 537 MB in bfloat16, so stores decide. They are 16 bytes a thread, straight from the
// accumulators, whose channel order (channels_last) or position order (NCHW) is dealt out for that.
// Instructions of a warp for 16 outputs x 64 channels, npr, bfloat16, counted in sm_90 code: 24 MMA (16 if
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

template <int kResidual>
using TileOf = PatchTile<kResidual, Half, 8, kTileCols<kResidual>>;

template <int kResidual, class T>
struct Problem {
  Tiling tiling;
  PackedWeights<kResidual, kVector<T>> weights;
  int64_t outputs;
  bool fast;
  bool aligned;  // whole vectors of results lie on 16-byte boundaries
};

// Rows of the MMA are 16 neighbouring outputs, columns are channels: out [N, rows, cols, O]. A warp keeps the weights
// of both groups of channels, or of one where registers do not hold them.
template <int kResidual, class T>
__global__ void __launch_bounds__(kThreads, kBlocks) conv_forward_channels_last(Problem<kResidual, T> p, T* out) {
  constexpr int kRun = kVector<T>, kOctets = Slots<kResidual>::kOctets;
  constexpr int kGroups = kOctets > kChannels ? 1 : 2, kShare = 2 / kGroups;  // warps that share outputs
  using Operands = Steps<kOctets>;
  using Tile = TileOf<kResidual>;
  __shared__ Tile patches;
  __shared__ __align__(16) float unscale[kBlockOutputs], shift[kBlockOutputs];

  const int64_t first_output = int64_t(blockIdx.y) * kBlockOutputs;
  for (int i = threadIdx.x; i < kBlockOutputs; i += kThreads) {
    unscale[i] = p.weights.unscale[first_output + i];
    shift[i] = p.weights.shift[first_output + i];
  }
  const int first_group = kGroups == 2 ? 0 : warp_index() % 2;
  WeightFragments<kOctets> weights[kGroups];
#pragma unroll
  for (int i = 0; i < kGroups; ++i) weights[i].load(p.weights, 2 * blockIdx.y + first_group + i);

  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int rows = p.tiling.rows, cols = p.tiling.cols;
  const int64_t eight_columns = 8 * p.outputs, of_thread = g * p.outputs + first_output + t * kRun;
  for_each_tile(p.tiling, patches, [&](const Tiling::Position& tile) {
    constexpr int kSegments = Tile::kCols / 16;
    for (int i = warp_index() / kShare; i < Tile::kRows * kSegments; i += kWarps / kShare) {
      const int y = i / kSegments, x = i % kSegments * 16;
      const int row = tile.row + y, col = tile.col + x;
      if (row >= rows || col >= cols) continue;

      const int position = y * Tile::kCols + x + lane % 16;
      FragmentA operands[Operands::kOperands];
#pragma unroll
      for (int pair = 0; pair < Operands::kPairs; ++pair) {
        load_matrices<false>(operands[pair].words, patches.patch(2 * pair + lane / 16, position));
      }
      if (Operands::kAlone) {
        load_matrices<false>(operands[Operands::kOperands - 1].words, patches.patch(kOctets - 1, position));
      }

      T* results = out + ((int64_t(tile.image) * rows + row) * cols + col) * p.outputs + of_thread;
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
        const int group = first_group + i;
        Accumulator sums[kGroupTiles] = {};
#pragma unroll
        for (int j = 0; j < kGroupTiles; ++j) {
#pragma unroll
          for (int step = 0; step < Operands::kCount; ++step) {
            if (Operands::low(step) && p.fast) continue;
            multiply_add<Half>(sums[j], operands[Operands::operand(step)], weights[i].tile(step, j));
          }
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
              const float sum = sums[run * kRun / 2 + v / 2].values[2 * half + v % 2];
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
template <int kResidual>
constexpr int kPlanarBlocks = Slots<kResidual>::kOctets > 4 ? 1 : kBlocks;  // where weights need more registers

template <int kResidual, class T>
__global__ void __launch_bounds__(kThreads, kPlanarBlocks<kResidual>)
    conv_forward_planar(Problem<kResidual, T> p, T* out) {
  constexpr int kRun = kVector<T>, kTiles = kGroupTiles, kOctets = Slots<kResidual>::kOctets;
  using Operands = Steps<kOctets>;
  using Tile = TileOf<kResidual>;
  __shared__ Tile patches;

  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int64_t group = 2 * blockIdx.y + warp_index() % 2;
  WeightFragments<kOctets> weights;
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

      Accumulator sums[kTiles / 2][4] = {};  // [two tiles of channels][tile of positions]
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int position = y * Tile::kCols + x + spread<kRun>(j, lane % 8);
        FragmentB operands[2 * ((Operands::kOperands + 1) / 2)];  // an octet alone is there twice
#pragma unroll
        for (int four = 0; four < kOctets; four += 4) {
          uint32_t words[4];
          load_matrices<false>(words, patches.patch(min(four + lane / 8, kOctets - 1), position));
          operands[four / 2] = {words[0], words[1]}, operands[four / 2 + 1] = {words[2], words[3]};
        }
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) {
#pragma unroll
          for (int step = 0; step < Operands::kCount; ++step) {
            if (Operands::low(step) && p.fast) continue;
            multiply_add<Half>(sums[pair][j], weights.tiles(step, pair), operands[Operands::operand(step)]);
          }
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
            values[v] = fmaf(sums[c / 2][run * kRun / 2 + v / 2].values[c % 2 * 2 + v % 2], unscale[c], shift[c]);
          }
          store_vector<T>(plane + x_out, values, cols - x_out, p.aligned);
        }
      }
    }
  });
}

template <int kResidual, class T>
Status conv_forward_tensor_cores(const ConvForward& op, Device device, void* workspace, Stream stream) {
  const Tiling tiling = Tiling::of<TileOf<kResidual>>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const auto weights = PackedWeights<kResidual, kVector<T>>::at(workspace, op.outputs);
  const Status prepared =
      prepare_weights(folding_of(op), op.channel_scale, weights, weights.channels(op.outputs), op.fast, stream);
  if (!prepared.ok()) return prepared;

  const int64_t run = op.channels_last ? op.outputs : op.images.cols();
  const bool aligned = run % kVector<T> == 0 && reinterpret_cast<uintptr_t>(op.out) % 16 == 0;
  const Problem<kResidual, T> problem{tiling, weights, op.outputs, op.fast, aligned};
  const int resident = op.channels_last ? kBlocks : kPlanarBlocks<kResidual>;
  const dim3 grid(persistent_blocks(tiling.count, device, resident), unsigned(ceil_div(op.outputs, kBlockOutputs)));
  T* out = static_cast<T*>(op.out);
  return op.channels_last
             ? launch("conv_forward_channels_last", conv_forward_channels_last<kResidual, T>, grid, kThreads, stream,
                      problem, out)
             : launch("conv_forward_planar", conv_forward_planar<kResidual, T>, grid, kThreads, stream, problem, out);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t conv_forward_workspace(const ConvForward& op, Device) { return weights_bytes(op.source(), op.outputs); }

Status conv_forward(const ConvForward& op, Device device, void* workspace, Stream stream) {
  if (const Status status = check_channels(op.source()); !status.ok()) return status;
  if (op.images.channels != kChannels || op.type == Type::f64)
    return conv_forward_plainly(op, device, workspace, stream);
  return with_residual(op.residual, [&](auto residual) {
    switch (op.type) {
      case Type::bf16: return conv_forward_tensor_cores<residual(), BFloat>(op, device, workspace, stream);
      case Type::f16: return conv_forward_tensor_cores<residual(), Half>(op, device, workspace, stream);
      default: return conv_forward_tensor_cores<residual(), float>(op, device, workspace, stream);
    }
  });
}

}  // namespace npr::cuda
