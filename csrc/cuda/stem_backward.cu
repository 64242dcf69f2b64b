// The gradients of the stem's parameters, without its activations.
//
// With g the gradient of a pooled output where ReLU's gate is open, and d the patch at the maximum of its
// window, one pass over the gradient, the codes and the images gathers
//
//     S[o][k] = sum of g d[k]        s0[o] = sum of g
//
// and what remains is algebra on K numbers a channel (stem_algebra.h), in double. The pass is a product
// on tensor cores for each of a window's nine positions, of the gradients whose code says so, the others
// zeroed, with the patches at that position: sums over outputs, as in conv_backward.cu.
//
// Bytes: 48 + O x (1 + size of the gradient) read per pooled output; 256 images of 256x256, 64 channels:
// 50 MB, 67 MB of codes and 134 MB in bfloat16. Instructions of a warp for 16 pooled outputs x 32
// channels of npr, per term of the gradient (bfloat16 1, float32 3): 56 MMA and 80 masks; 80 comparisons, 18
// ldmatrix, 8 loads besides. The products decide, float32's most of all. Two blocks of 8 warps fit a
// multiprocessor (128 registers a thread, 38 KB of shared memory a block).
//
// Other than 3 channels, or float64 gradients, take a plain kernel, a block for each (o, c).
#include "cuda/gradients.cuh"
#include "cuda/plain.cuh"

namespace npr::cuda {
namespace {

// ---- Tensor cores ----------------------------------------------------------------------------------

// A tile is 4 x 32 pooled outputs, or 16 across where patches are longer; under it lie 9 x 65 of the convolution, from
// an odd row and column on, and one more column to the left, because patches begin at even ones.
constexpr int kPooledRows = 4;
template <int kResidual>
constexpr int kPooledCols = kTileCols<kResidual> / 2;
template <int kResidual>
constexpr int kSegments = kPooledCols<kResidual> / kGradientOutputs;
template <int kResidual>
constexpr int kItems = kPooledRows * kSegments<kResidual>;
template <int kResidual, class T>
using TileOf = PatchTile<kResidual, T, 2 * kPooledRows + 1, 2 * kPooledCols<kResidual> + 2, true>;

constexpr int kWindow = 3;  // of the maximum
static_assert(kWindow * kWindow == kClosed);
constexpr uint32_t kEachByte = 0x01010101u;

// Positions of a window that are multiplied without a branch between; on sm_80 three would spill a few registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kUnrolled = 1;
#else
constexpr int kUnrolled = kWindow;
#endif

template <int kResidual, class T>
union Shared {
  TileOf<kResidual, T> patches;
  BlockSums<kResidual> sums;
};

template <int kResidual>
Tiling tiling_of(const Images& images) {
  return Tiling::of(images, ceil_div(pooled(images.rows()), kPooledRows),
                    ceil_div(pooled(images.cols()), kPooledCols<kResidual>), 2 * kPooledRows,
                    2 * kPooledCols<kResidual>, -1, -2);
}

struct Problem {
  Tiling tiling;
  Gradient grad;
  const uint8_t* code;
  int64_t outputs;
  bool aligned;  // four codes can be loaded at once
  float* partial;
};

// The codes of a GradientBlock: [output], a byte for each of four channels.
__device__ void load_codes(uint32_t (&codes)[4], const Problem& p, int64_t image, int64_t channel, int row, int col,
                           int rows, int cols) {
  channel += gradient_channel<Layout::channels_last>(0);
  col += gradient_output<Layout::channels_last>();
  const uint8_t* first = p.code + ((image * rows + row) * cols + col) * p.outputs + channel;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int away = i % 2 + i / 2 * 8;
    codes[i] = kClosed * kEachByte;
    if (row >= rows || col + away >= cols || channel >= p.outputs) continue;
    const uint8_t* from = first + away * p.outputs;
    if (p.aligned) {
      codes[i] = __ldcs(reinterpret_cast<const uint32_t*>(from));
    } else {
      for (int v = 0; v < 4 && channel + v < p.outputs; ++v) {
        codes[i] = (codes[i] & ~(0xffu << (8 * v))) | uint32_t{from[v]} << (8 * v);
      }
    }
  }
}

template <int kResidual, class T, Layout layout>
__global__ void __launch_bounds__(Blocks<kResidual, T>::kThreads, Blocks<kResidual, T>::kResident)
    stem_backward_kernel(Problem p) {
  using Operand = GradientOperand<T>;
  using Tile = TileOf<kResidual, Operand>;
  using Octets = Slots<kResidual>;
  constexpr int kWarps = Blocks<kResidual, T>::kWarps, kColumns = Octets::kColumns,
                kSegments = npr::cuda::kSegments<kResidual>;
  constexpr int kTogether =
      kTerms<T> == 1 ? 2 : 1;  // tiles of 16 channels; three terms of both need too many registers
  auto& shared = dynamic_shared<Shared<kResidual, Operand>>();

  const int half = warp_index() % 2, first_item = warp_index() / 2;
  const int64_t channel = int64_t(blockIdx.y) * kSumChannels + half * kGradientChannels;
  const int pooled_rows = int(pooled(p.tiling.rows)), pooled_cols = int(pooled(p.tiling.cols));
  WarpSums<kResidual> sums = {};

  GradientBlock<T, layout> gradients;
  uint32_t gradient_codes[4];
  const auto load = [&](const Tiling::Position& tile, int item) {
    const int row = (tile.row + 1) / 2 + item / kSegments;
    const int col = (tile.col + 2) / 2 + item % kSegments * kGradientOutputs;
    gradients.load(p.grad, tile.image, channel, p.outputs, row, col, pooled_rows, pooled_cols);
    load_codes(gradient_codes, p, tile.image, channel, row, col, pooled_rows, pooled_cols);
  };
  const auto begin = [&](const Tiling::Position& tile) { load(tile, first_item); };
  for_each_tile(p.tiling, shared.patches, begin, [&](const Tiling::Position& tile) {
#pragma unroll 1
    for (int item = first_item; item < kItems<kResidual>; item += kWarps / 2) {
      if (item > first_item) load(tile, item);
      // The patch at position 0 of this lane's window; the others are a constant away.
      const int y = 2 * (item / kSegments), x = 2 * (item % kSegments * kGradientOutputs + lane_index() % 16);
      const SharedAddress window = shared_address(&shared.patches.patches[lane_index() / 16][Tile::place(y, x)]);
#pragma unroll
      for (int first = 0; first < 2; first += kTogether) {
        FragmentA terms[kTogether][kTerms<T>];
        uint32_t codes[kTogether][4];
#pragma unroll
        for (int m = 0; m < kTogether; ++m) {
          gradients.split(first + m, terms[m]);
          // The codes in the fragments' order, as 16-bit numbers that differ where the codes do.
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            const int v = 2 * (first + m) + word % 2, pair = word / 2;
            codes[m][word] = permute_bytes(gradient_codes[2 * pair], gradient_codes[2 * pair + 1], 0x4400 + 0x1111 * v);
          }
        }

        Accumulator products[kTogether][kColumns] = {};
        // The gradients that `masks` leave.
        const auto masked = [&](FragmentA(&left)[kTerms<T>], int m, const uint32_t (&masks)[4]) {
#pragma unroll
          for (int term = 0; term < kTerms<T>; ++term) {
#pragma unroll
            for (int word = 0; word < 4; ++word) left[term].words[word] = terms[m][term].words[word] & masks[word];
          }
        };
#pragma unroll 1
        for (int y = 0; y < kWindow; ++y) {
#pragma unroll kUnrolled
          for (int x = 0; x < kWindow; ++x) {
            PatchFragments<kResidual, Operand> fragments;
            fragments.template load<Tile::kStride>(window +
                                                   (y * Tile::kCols + Tile::parted_row(0, 1 + x)) * sizeof(uint4));
            const uint32_t code = (kWindow * y + x) * kEachByte;
#pragma unroll
            for (int m = 0; m < kTogether; ++m) {
              uint32_t masks[4];
#pragma unroll
              for (int word = 0; word < 4; ++word) masks[word] = equal_halves(codes[m][word], code);
              FragmentA left[kTerms<T>];
              masked(left, m, masks);
#pragma unroll
              for (int c = 0; c < Octets::kOctets; ++c) fragments.multiply(products[m][c], left, c);
            }
          }
        }
#pragma unroll
        for (int m = 0; m < kTogether; ++m) {
          if constexpr (Octets::kOnesBeside) {
            uint32_t masks[4];
#pragma unroll
            for (int word = 0; word < 4; ++word) masks[word] = ~equal_halves(codes[m][word], kClosed * kEachByte);
            FragmentA left[kTerms<T>];
            masked(left, m, masks);
#pragma unroll
            for (int term = kTerms<T> - 1; term >= 0; --term) {
              multiply_add<Operand>(products[m][kColumns - 1], left[term], ones_beside<Operand>());
            }
          }
#pragma unroll
          for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[first + m][c].values[i] += products[m][c].values[i];
          }
        }
      }
    }
  });
  store_partial<kResidual, layout>(sums, half, shared.sums, p.partial);
}

template <int kResidual, class T>
Status gather_on_tensor_cores(const StemBackward& op, Device device, const SumsWorkspace& workspace, Stream stream) {
  const Tiling tiling = tiling_of<kResidual>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const bool aligned = op.outputs % 4 == 0 && reinterpret_cast<uintptr_t>(op.code) % 4 == 0;
  const Problem problem{tiling, op.grad, op.code, op.outputs, aligned, workspace.partial};
  const unsigned blocks = persistent_blocks(tiling.count, device, Blocks<kResidual, T>::kResident);
  const dim3 grid(blocks, unsigned(ceil_div(op.outputs, kSumChannels)));
  const bool channels_last = layout_of(op.grad, op.outputs, 1) == Layout::channels_last;
  const Status status = launch<Shared<kResidual, GradientOperand<T>>>(
      "stem_backward_kernel",
      channels_last ? stem_backward_kernel<kResidual, T, Layout::channels_last>
                    : stem_backward_kernel<kResidual, T, Layout::strided>,
      grid, Blocks<kResidual, T>::kThreads, stream, problem);
  return status.ok() ? workspace.reduce<kResidual>(op.outputs, int(blocks), stream) : status;
}

Status gather(const StemBackward& op, Device device, const SumsWorkspace& sums, Stream stream) {
  if (op.images.channels != kChannels || op.grad.type == Type::f64) {
    return stem_backward_sums_plainly(op, sums.sums, stream);
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

struct Finish {
  const double* sums;  // [outputs][K + 1]
  Source source;
  const int64_t* moments;
  Array weight, bn_weight;
  const double *mean, *var;
  double eps;
  void *grad_weight, *grad_bn_weight, *grad_bn_bias;
  Type type;
};

// A warp per output channel.
__global__ void __launch_bounds__(kWarp) stem_backward_finish(Finish p, ChannelScale scale) {
  const int64_t output = blockIdx.x;
  const int taps = int(p.source.taps());
  const double* sums = p.sums + output * (taps + 1);
  const double mean = p.mean[output], inverse = 1 / sqrt(p.var[output] + p.eps);
  const double gamma = p.bn_weight.data != nullptr ? load_double(p.bn_weight, output) : 1;
  const auto weight = [&](int k) { return load_weight(p.weight, scale, p.source, output, k); };

  double product = 0;
  for (int k = lane_index(); k < taps; k += kWarp) product += weight(k) * sums[k];
  const double beta_gradient = sums[taps], gamma_gradient = inverse * (warp_sum(product) - mean * beta_gradient);
  if (lane_index() == 0) {
    store_double(p.grad_bn_weight, p.type, output, gamma_gradient);
    store_double(p.grad_bn_bias, p.type, output, beta_gradient);
  }

  for (int k = lane_index(); k < taps; k += kWarp) {
    double gradient = sums[k];
    if (p.moments != nullptr && p.moments[0] > 0) {
      const int64_t *first = p.moments + 1, *second = first + taps;
      double row = 0;
      for (int l = 0; l < taps; ++l) row += weight(l) * double(second[l * taps + k]);
      const double normalised = inverse * (row - mean * double(first[k]));
      gradient -= (beta_gradient * double(first[k]) + gamma_gradient * normalised) / double(p.moments[0]);
    }
    const Element at = element(p.source, k);
    store_gradient(p.grad_weight, p.type, p.source, at, output,
                   gamma * inverse * gradient * scale.value[at.weight_channel]);
  }
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t stem_backward_workspace(const StemBackward& op, Device device) {
  return SumsWorkspace::bytes(op, op.outputs, device);
}

Status stem_backward(const StemBackward& op, Device device, void* workspace, Stream stream) {
  if (const Status status = check_channels(op.source()); !status.ok()) return status;
  const SumsWorkspace sums = SumsWorkspace::at(workspace, op, op.outputs);
  if (const Status status = gather(op, device, sums, stream); !status.ok()) return status;
  const Finish finish{sums.sums, op.source(), op.moments,     op.weight,         op.bn_weight,    op.mean,
                      op.var,    op.eps,      op.grad_weight, op.grad_bn_weight, op.grad_bn_bias, op.type};
  return launch("stem_backward_finish", stem_backward_finish, unsigned(op.outputs), kWarp, stream, finish,
                channel_scale(op.channel_scale, op.source()));
}

}  // namespace npr::cuda
