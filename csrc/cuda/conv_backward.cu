// The gradients of the fused convolution's weight and bias.
//
//     grad_weight[o][k] = scale sum over outputs p of grad[p][o] d[p][k]        grad_bias[o] = sum of grad[p][o]
//
// An implicit GEMM, 64 channels x 24 patch elements, whose sum runs over all outputs: patches come from
// shared memory (patches.cuh), gradients from global memory straight to fragments (gradients.cuh), so
// they are read once. Blocks are persistent; each leaves partial sums, which a second kernel adds in
// their order: no atomics, the same bits in every run on one device.
//
// Bytes: 12 + O x size of the gradient are read per output; 256 images of 256x256, 64 channels: 50 MB and
// 537 MB in bfloat16, 1074 MB in float32. Instructions of a warp for 16 outputs x 32 channels: 6 MMA a
// term (1 or 3 of them), 2 more for the bias, 2 ldmatrix, 4 loads, 32 additions, and 8 to permute or
// 100 to split; 15 more to form the patches. Two blocks of 8 warps fit a multiprocessor (100 to 128
// registers a thread, 40 KB of shared memory a block).
//
// Other than 3 channels, or float64 gradients, take a plain kernel, a block for each (o, c).
#include "cuda/gradients.cuh"

namespace npr::cuda {
namespace {

// ---- Tensor cores ----------------------------------------------------------------------------------

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlocks = 2;  // blocks of a multiprocessor

struct Problem {
  Tiling tiling;
  Gradient grad;
  int64_t outputs;
  bool bias;
  float* partial;
};

template <class T, Layout layout>
__global__ void __launch_bounds__(kThreads, kBlocks) conv_backward_kernel(Problem p) {
  using Operand = GradientOperand<T>;
  using Tile = PatchTile<Operand, 8, 64>;
  constexpr int kSegments = Tile::kCols / kGradientOutputs, kItems = Tile::kRows * kSegments;
  __shared__ Tile patches;
  __shared__ float block_sums[kSumChannels][kSums];

  const int half = warp_index() % 2, first_item = warp_index() / 2;
  const int64_t channel = int64_t(blockIdx.y) * kSumChannels + half * kGradientChannels;
  const int position_in_item = output_of<layout>(lane_index() % 16);
  uint32_t ones[2];
  load_ones<Operand>(ones);
  WarpSums sums = {};

  // The gradients of the next item are on their way while those of the present one are multiplied.
  GradientBlock<T, layout> next;
  const auto load = [&](const Tiling::Position& tile, int item) {
    next.load(p.grad, tile.image, channel, p.outputs, tile.row + item / kSegments,
              tile.col + item % kSegments * kGradientOutputs, p.tiling.rows, p.tiling.cols);
  };
  const auto begin = [&](const Tiling::Position& tile) { load(tile, first_item); };
  for_each_tile(p.tiling, patches, begin, [&](const Tiling::Position& tile) {
    for (int item = first_item; item < kItems; item += kWarps / 2) {
      const int y = item / kSegments, x = item % kSegments * kGradientOutputs;
      uint32_t terms[2][kTerms<T>][4];
      next.split(0, terms[0]);
      next.split(1, terms[1]);
      if (item + kWarps / 2 < kItems) load(tile, item + kWarps / 2);
      if (tile.row + y >= p.tiling.rows || tile.col + x >= p.tiling.cols) continue;

      uint32_t fragments[kChannels][2];
      load_patches(fragments, patches, y * Tile::kCols + x + position_in_item);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int c = 0; c < kChannels + 1; ++c) {
          if (c == kChannels && !p.bias) continue;
          float product[4] = {};
#pragma unroll
          for (int term = kTerms<T> - 1; term >= 0; --term) {
            multiply_add<Operand>(product, terms[m][term], c < kChannels ? fragments[c < kChannels ? c : 0] : ones);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[m][c][i] += product[i];
        }
      }
    }
  });
  store_partial<layout>(sums, half, block_sums, p.partial);
}

template <class T>
Status conv_backward_tensor_cores(const ConvBackward& op, Device device, const SumsWorkspace& workspace,
                                  Stream stream) {
  const Tiling tiling = Tiling::of<PatchTile<BFloat, 8, 64>>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const Problem problem{tiling, op.grad, op.outputs, op.grad_bias != nullptr, workspace.partial};
  const unsigned blocks = persistent_blocks(tiling.count, device, kBlocks);
  const dim3 grid(blocks, unsigned(ceil_div(op.outputs, kSumChannels)));
  const auto run = [&](const char* name, void (*kernel)(Problem)) {
    return launch(name, kernel, grid, kThreads, stream, problem);
  };
  Status status;
  switch (layout_of(op.grad, op.outputs, op.images.cols())) {
    case Layout::channels_last:
      status = run("conv_backward_channels_last", conv_backward_kernel<T, Layout::channels_last>);
      break;
    case Layout::planar: status = run("conv_backward_planar", conv_backward_kernel<T, Layout::planar>); break;
    default: status = run("conv_backward_strided", conv_backward_kernel<T, Layout::strided>);
  }
  return status.ok() ? workspace.reduce(op.outputs, int(blocks), stream) : status;
}

// ---- Plain -----------------------------------------------------------------------------------------

// Block (o, c): the sums of output channel o with the taps of channel c, and with 1 where c is 0.
__global__ void __launch_bounds__(kPlainThreads) conv_backward_plain(Images images, Gradient grad, double* sums) {
  const int64_t output = blockIdx.x, channel = blockIdx.y, taps = patch_size(images);
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * rows * cols;
  double sum[kTaps + 1] = {};
  for (int64_t i = threadIdx.x; i < total; i += kPlainThreads) {
    const int64_t col = i % cols, row = i / cols % rows, image = i / cols / rows;
    const double g = load_gradient(grad, image, output, row, col);
    const uint8_t* plane = images.data + image * images.stride_n + channel * images.stride_c;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) sum[tap] += g * difference(images, plane, row, col, tap);
    sum[kTaps] += g;
  }
  store_plain_sums(sum, output, channel, taps, sums);
}

// ---- From sums to gradients ------------------------------------------------------------------------

// A thread per (o, c).
__global__ void __launch_bounds__(kPlainThreads)
    conv_backward_finish(const double* sums, int64_t outputs, int64_t channels, ChannelScale scale, void* grad_weight,
                         void* grad_bias, Type type) {
  const int64_t i = int64_t(blockIdx.x) * kPlainThreads + threadIdx.x;
  if (i >= outputs * channels) return;
  const int64_t output = i / channels, channel = i % channels;
  const double* row = sums + output * (channels * kTaps + 1);
  store_gradient(row + channel * kTaps, scale.value[channel], grad_weight, type, i);
  if (grad_bias != nullptr && channel == 0) store_double(grad_bias, type, output, row[channels * kTaps]);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t conv_backward_workspace(const ConvBackward& op, Device device) {
  return SumsWorkspace::bytes(op.outputs, patch_size(op.images), device.multiprocessors * kBlocks);
}

Status conv_backward(const ConvBackward& op, Device device, void* workspace, Stream stream) {
  const int64_t channels = op.images.channels;
  if (channels > kMaxChannels) return too_many_channels();
  const SumsWorkspace sums = SumsWorkspace::at(workspace, op.outputs, patch_size(op.images));
  Status status;
  if (channels != kChannels || op.grad.type == Type::f64) {
    status = launch("conv_backward_plain", conv_backward_plain, dim3(unsigned(op.outputs), unsigned(channels)),
                    kPlainThreads, stream, op.images, op.grad, sums.sums);
  } else if (op.grad.type == Type::f32) {
    status = conv_backward_tensor_cores<float>(op, device, sums, stream);
  } else if (op.grad.type == Type::bf16) {
    status = conv_backward_tensor_cores<BFloat>(op, device, sums, stream);
  } else {
    status = conv_backward_tensor_cores<Half>(op, device, sums, stream);
  }
  if (!status.ok()) return status;
  const auto blocks = unsigned(ceil_div(op.outputs * channels, kPlainThreads));
  return launch("conv_backward_finish", conv_backward_finish, blocks, kPlainThreads, stream,
                static_cast<const double*>(sums.sums), op.outputs, channels, channel_scale(op.channel_scale, channels),
                op.grad_weight, op.grad_bias, op.type);
}

}  // namespace npr::cuda
