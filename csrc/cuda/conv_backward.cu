// The gradients of the fused convolution's weight and bias.
//
//     grad_weight[o][k] = scale sum over outputs p of grad[p][o] d[p][k]        grad_bias[o] = sum of grad[p][o]
//
// An implicit GEMM, 64 channels x the slots of a patch, whose sum runs over all outputs: patches come from
// shared memory (patches.cuh), gradients from global memory straight to fragments (gradients.cuh), so
// they are read once. Blocks are persistent; each leaves partial sums, which a second kernel adds in
// their order: no atomics, the same bits in every run on one device.
//
// Bytes: 12 + O x size of the gradient are read per output; 256 images of 256x256, 64 channels: 50 MB and
// 537 MB in bfloat16, 1074 MB in float32. Instructions of a warp for 16 outputs x 32 channels, npr: 6 MMA a
// term (1 or 3 of them), 2 more for the bias, 2 ldmatrix, 4 loads, 32 additions, and 8 to permute or
// 100 to split; 15 more to form the patches. Two blocks of 8 warps fit a multiprocessor (100 to 128
// registers a thread, 33 KB of shared memory a block), one of both residuals together.
//
// Other than 3 channels, or float64 gradients, take a plain kernel, a block for each (o, c).
#include "cuda/gradients.cuh"
#include "cuda/plain.cuh"

namespace npr::cuda {
namespace {

// ---- Tensor cores ----------------------------------------------------------------------------------

template <int kResidual, class T>
using TileOf = PatchTile<kResidual, T, 8, kTileCols<kResidual>>;

struct Problem {
  Tiling tiling;
  Gradient grad;
  int64_t outputs;
  bool bias;
  float* partial;
};

template <int kResidual, class T, Layout layout>
__global__ void __launch_bounds__(Blocks<kResidual, T>::kThreads, Blocks<kResidual, T>::kResident)
    conv_backward_kernel(Problem p) {
  using Operand = GradientOperand<T>;
  using Tile = TileOf<kResidual, Operand>;
  using Octets = Slots<kResidual>;
  constexpr int kWarps = Blocks<kResidual, T>::kWarps;
  constexpr int kSegments = Tile::kCols / kGradientOutputs, kItems = Tile::kRows * kSegments;
  __shared__ union {
    Tile patches;
    BlockSums<kResidual> sums;
  } shared;

  const int half = warp_index() % 2, first_item = warp_index() / 2;
  const int64_t channel = int64_t(blockIdx.y) * kSumChannels + half * kGradientChannels;
  const int position_in_item = output_of<layout>(lane_index() % 16);
  const FragmentB ones = ones_beside<Operand>();
  WarpSums<kResidual> sums = {};

  // The gradients of the next item are on their way while those of the present one are multiplied.
  GradientBlock<T, layout> next;
  const auto load = [&](const Tiling::Position& tile, int item) {
    next.load(p.grad, tile.image, channel, p.outputs, tile.row + item / kSegments,
              tile.col + item % kSegments * kGradientOutputs, p.tiling.rows, p.tiling.cols);
  };
  const auto begin = [&](const Tiling::Position& tile) { load(tile, first_item); };
  for_each_tile(p.tiling, shared.patches, begin, [&](const Tiling::Position& tile) {
    for (int item = first_item; item < kItems; item += kWarps / 2) {
      const int y = item / kSegments, x = item % kSegments * kGradientOutputs;
      FragmentA terms[2][kTerms<T>];
      next.split(0, terms[0]);
      next.split(1, terms[1]);
      if (item + kWarps / 2 < kItems) load(tile, item + kWarps / 2);
      if (tile.row + y >= p.tiling.rows || tile.col + x >= p.tiling.cols) continue;

      PatchFragments<kResidual, Operand> fragments;
      const int position = y * Tile::kCols + x + position_in_item;
      fragments.template load<Tile::kStride>(shared_address(shared.patches.patch(lane_index() / 16, position)));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int c = 0; c < Octets::kColumns; ++c) {
          Accumulator product = {};
          if (c < Octets::kOctets) {
            fragments.multiply(product, terms[m], c);
          } else if (p.bias) {
#pragma unroll
            for (int term = kTerms<T> - 1; term >= 0; --term) multiply_add<Operand>(product, terms[m][term], ones);
          } else {
            continue;
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[m][c].values[i] += product.values[i];
        }
      }
    }
  });
  store_partial<kResidual, layout>(sums, half, shared.sums, p.partial);
}

template <int kResidual, class T>
Status gather_on_tensor_cores(const ConvBackward& op, Device device, const SumsWorkspace& workspace, Stream stream) {
  const Tiling tiling = Tiling::of<TileOf<kResidual, GradientOperand<T>>>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const Problem problem{tiling, op.grad, op.outputs, op.grad_bias != nullptr, workspace.partial};
  const unsigned blocks = persistent_blocks(tiling.count, device, Blocks<kResidual, T>::kResident);
  const dim3 grid(blocks, unsigned(ceil_div(op.outputs, kSumChannels)));
  const auto run = [&](const char* name, void (*kernel)(Problem)) {
    return launch(name, kernel, grid, Blocks<kResidual, T>::kThreads, stream, problem);
  };
  Status status;
  switch (layout_of(op.grad, op.outputs, op.images.cols())) {
    case Layout::channels_last:
      status = run("conv_backward_channels_last", conv_backward_kernel<kResidual, T, Layout::channels_last>);
      break;
    case Layout::planar:
      status = run("conv_backward_planar", conv_backward_kernel<kResidual, T, Layout::planar>);
      break;
    default: status = run("conv_backward_strided", conv_backward_kernel<kResidual, T, Layout::strided>);
  }
  return status.ok() ? workspace.reduce<kResidual>(op.outputs, int(blocks), stream) : status;
}

Status gather(const ConvBackward& op, Device device, const SumsWorkspace& sums, Stream stream) {
  if (op.images.channels != kChannels || op.grad.type == Type::f64) {
    return conv_backward_sums_plainly(op, sums.sums, stream);
  }
  return with_residual(op.residual, [&](auto residual) {
    switch (op.grad.type) {
      case Type::f32: return gather_on_tensor_cores<residual(), float>(op, device, sums, stream);
      case Type::bf16: return gather_on_tensor_cores<residual(), BFloat>(op, device, sums, stream);
      default: return gather_on_tensor_cores<residual(), Half>(op, device, sums, stream);
    }
  });
}

// ---- From sums to gradients ------------------------------------------------------------------------

// A thread per output and tap, and one for the bias.
constexpr int kFinishThreads = 256;

__global__ void __launch_bounds__(kFinishThreads)
    conv_backward_finish(const double* sums, Source source, int64_t outputs, ChannelScale scale, void* grad_weight,
                         void* grad_bias, Type type) {
  const int64_t i = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x, taps = source.taps();
  if (i >= outputs * (taps + 1)) return;
  const int64_t output = i / (taps + 1), k = i % (taps + 1);
  if (k == taps) {
    if (grad_bias != nullptr) store_double(grad_bias, type, output, sums[i]);
    return;
  }
  const Element at = element(source, int(k));
  store_gradient(grad_weight, type, source, at, output, sums[i] * scale.value[at.weight_channel]);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t conv_backward_workspace(const ConvBackward& op, Device device) {
  return SumsWorkspace::bytes(op, op.outputs, device);
}

Status conv_backward(const ConvBackward& op, Device device, void* workspace, Stream stream) {
  if (const Status status = check_channels(op.source()); !status.ok()) return status;
  const SumsWorkspace sums = SumsWorkspace::at(workspace, op, op.outputs);
  if (const Status status = gather(op, device, sums, stream); !status.ok()) return status;
  const auto blocks = unsigned(ceil_div(op.outputs * (op.source().taps() + 1), kFinishThreads));
  return launch("conv_backward_finish", conv_backward_finish, blocks, kFinishThreads, stream,
                static_cast<const double*>(sums.sums), op.source(), op.outputs,
                channel_scale(op.channel_scale, op.source()), op.grad_weight, op.grad_bias, op.type);
}

}  // namespace npr::cuda
