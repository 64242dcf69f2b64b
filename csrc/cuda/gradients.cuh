// Gradients of the outputs as the operand of a tensor-core product with patches.
//
// A weight gradient is grad^T patches, a sum over outputs: outputs are the MMA's k, channels its rows, slots its
// columns. A warp takes 32 channels and 16 outputs at a time. A thread holds 4 channels of 4 outputs, whichever of them
// the order of rows and of k, which is free, makes vectors in memory:
//
//     layout           channels v = 0..3   outputs i = 0..3           loads
//     channels_last    4 g + v             2t, 2t + 1, 2t + 8, 2t + 9    along the channels
//     planar           g + 8 v             4 t + i                       along the row
//     strided          as channels_last                                  one by one
//
// Npr's differences are exact in bfloat16 too, Haar's as high and low parts. Float32 gradients are split into three
// bfloat16 terms, 24 bits, whatever their magnitude; 16-bit gradients are one term, exact. A low part is not zero only
// where the high part is at least 256 times as large, so there two terms are as exact as three.
//
// Tensor cores cut off the sums that they carry along, so each short product starts from zero and is
// added to the running sums outside, rounded.
#pragma once

#include "cuda/weights.cuh"

namespace npr::cuda {

enum class Layout { channels_last, planar, strided };

// The widest loads that a gradient [N, outputs, rows, cols] allows.
inline Layout layout_of(const Gradient& grad, int64_t outputs, int64_t cols) {
  const auto aligned = [&](int64_t a, int64_t b, int64_t size) {
    return (grad.stride_n | a | b | size) % 4 == 0 &&
           reinterpret_cast<uintptr_t>(grad.data) % (4 * size_of(grad.type)) == 0;
  };
  if (grad.stride_o == 1 && aligned(grad.stride_h, grad.stride_w, outputs)) return Layout::channels_last;
  if (grad.stride_w == 1 && aligned(grad.stride_o, grad.stride_h, cols)) return Layout::planar;
  return Layout::strided;
}

template <class T>
using GradientOperand = std::conditional_t<std::is_same_v<T, Half>, Half, BFloat>;

template <class T>
constexpr int kTerms = std::is_same_v<T, float> ? 3 : 1;

constexpr int kGradientChannels = 32, kGradientOutputs = 16;

// Channel v of this thread, among the warp's 32.
template <Layout layout>
__device__ int gradient_channel(int v) {
  const int g = lane_index() / 4;
  return layout == Layout::planar ? g + 8 * v : 4 * g + v;
}

// Output 0 of this thread, among the warp's 16.
template <Layout layout>
__device__ int gradient_output() {
  const int t = lane_index() % 4;
  return layout == Layout::planar ? 4 * t : 2 * t;
}

// The output that k stands for.
template <Layout layout>
__device__ int output_of(int k) {
  return layout == Layout::planar ? spread<4>(k / 8, k % 8) : k;
}

// The gradients that a thread holds, in memory's order: four numbers, as words, of each of [output], or of [channel] if
// planar.
template <class T, Layout layout>
struct GradientBlock {
  static constexpr int kWords = sizeof(T);  // 4 numbers in words of 4 bytes
  uint32_t words[4][kWords];

  // From image `image`, row `row`, and columns from `col` on; channels from `channel` on. What lies outside is zero.
  __device__ void load(const Gradient& grad, int64_t image, int64_t channel, int64_t outputs, int row, int col,
                       int rows, int cols) {
    // Of this thread's first channel and output; the others are multiples of a stride away.
    const int64_t o = channel + gradient_channel<layout>(0);
    const int x = col + gradient_output<layout>();
    const T* first = static_cast<const T*>(grad.data) + image * grad.stride_n + o * grad.stride_o +
                     row * grad.stride_h + x * grad.stride_w;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (layout == Layout::planar) {
        load_four(words[i], first + 8 * i * grad.stride_o, row < rows && x < cols && o + 8 * i < outputs);
        continue;
      }
      const int away = i % 2 + i / 2 * 8;
      const T* four = first + away * grad.stride_w;
      const bool exists = row < rows && x + away < cols;
      if constexpr (layout == Layout::channels_last) {
        load_four(words[i], four, exists && o < outputs);
      } else {
        uint32_t numbers[4];
#pragma unroll
        for (int v = 0; v < 4; ++v) numbers[v] = exists && v < outputs - o ? bits(four[v * grad.stride_o]) : 0;
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
          words[i][word] = sizeof(T) == 4 ? numbers[word] : numbers[2 * word] | numbers[2 * word + 1] << 16;
        }
      }
    }
  }

  // A fragments of the terms, for the first or the second 16 channels.
  __device__ void split(int tile, FragmentA (&terms)[kTerms<T>]) const {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int v = 2 * tile + word % 2, pair = word / 2;
      if constexpr (sizeof(T) == 4) {
        const auto value = [&](int i) {
          return __uint_as_float(layout == Layout::planar ? words[v][2 * pair + i] : words[2 * pair + i][v]);
        };
        float low = value(0), high = value(1);
#pragma unroll
        for (int term = 0; term < kTerms<T>; ++term) {
          const uint32_t rounded = pack<BFloat>(low, high);
          terms[term].words[word] = rounded;
          low -= __uint_as_float(rounded << 16);
          high -= __uint_as_float(rounded & 0xffff0000u);
        }
      } else if constexpr (layout == Layout::planar) {
        terms[0].words[word] = words[v][pair];
      } else {
        const uint32_t selector = v % 2 == 0 ? 0x5410 : 0x7632;
        terms[0].words[word] = permute_bytes(words[2 * pair][v / 2], words[2 * pair + 1][v / 2], selector);
      }
    }
  }

 private:
  __device__ static uint32_t bits(float value) { return __float_as_uint(value); }
  template <class Narrow>
  __device__ static uint32_t bits(Narrow value) {
    return value.bits;
  }

  __device__ static void load_four(uint32_t (&four)[kWords], const T* from, bool exists) {
    if constexpr (kWords == 2) {
      const uint2 vector = exists ? __ldcs(reinterpret_cast<const uint2*>(from)) : uint2{};
      four[0] = vector.x, four[1] = vector.y;
    } else {
      const uint4 vector = exists ? __ldcs(reinterpret_cast<const uint4*>(from)) : uint4{};
      four[0] = vector.x, four[1] = vector.y, four[2] = vector.z, four[3] = vector.w;
    }
  }
};

// Blocks of the backward kernels, and how many of them share a multiprocessor. Longer patches and more sums take more
// registers, 128 to 255 a thread: then blocks are smaller, so that some still multiply while others form patches.
template <int kResidual, class T>
struct Blocks {
  static constexpr int kStored = Slots<kResidual>::template kStored<GradientOperand<T>>;
  static constexpr int kWarps = kStored > kChannels ? 4 : 8, kThreads = kWarps * kWarp;
  static constexpr int kResident = kStored == kChannels + 1 ? 3 : 2;
};
constexpr int kMostBlocks = 3;  // of a multiprocessor

// B fragments of the patches of 16 outputs, and what gradients are multiplied by.
template <int kResidual, class T>
struct PatchFragments {
  using Octets = Slots<kResidual>;
  static constexpr int kStored = Octets::template kStored<T>;
  FragmentB octets[kStored];

  // `first` is the row of octet lane / 16 that this lane gives to ldmatrix, kStride rows before that of the next octet.
  template <int kStride>
  __device__ void load(SharedAddress first) {
#pragma unroll
    for (int octet = 0; octet < kStored; octet += 2) {
      const SharedAddress row = first + octet * kStride * sizeof(uint4);
      if (octet + 1 < kStored) {
        uint32_t words[4];
        load_matrices_at<true>(words, row);
        octets[octet] = {words[0], words[1]}, octets[octet + 1] = {words[2], words[3]};
      } else {
        load_matrices_at<true>(octets[octet].words, row);
      }
    }
  }

  // sums += gradients times the octet of this column, small products first.
  template <int kCount>
  __device__ void multiply(Accumulator& sums, const FragmentA (&terms)[kCount], int column) const {
    const bool low = kStored > Octets::kOctets && column >= Octets::kHaarOctet && column < Octets::kOwnOctets;
    if (low) {
      const int octet = Octets::kOctets + column - Octets::kHaarOctet;
#pragma unroll
      for (int term = min(kCount, 2) - 1; term >= 0; --term) multiply_add<T>(sums, terms[term], octets[octet]);
    }
#pragma unroll
    for (int term = kCount - 1; term >= 0; --term) multiply_add<T>(sums, terms[term], octets[column]);
  }
};

// A B fragment whose column 0 is ones, the others zeros: it sums the rows of A.
template <class T>
__device__ FragmentB ones_beside() {
  const uint32_t ones = lane_index() < 4 ? pack<T>(1.0f, 1.0f) : 0;
  return {ones, ones};
}

// ---- Sums ------------------------------------------------------------------------------------------

constexpr int kSumChannels = 2 * kGradientChannels;  // of a block

// The running sums of a warp: [tile of channels][column].
template <int kResidual>
using WarpSums = Accumulator[2][Slots<kResidual>::kColumns];

// Of each output channel, the sums of gradient times slot.
template <int kResidual>
using BlockSums = float[kSumChannels][Slots<kResidual>::kSums];

// Adds the sums of the block's warps, one after the other, and stores them as partial sums
// [blocks][channels of the grid][kSums]. `half` of the block's 64 channels is the warp's. `shared` may lie where others
// still read patches.
template <int kResidual, Layout layout>
__device__ void store_partial(const WarpSums<kResidual>& sums, int half, BlockSums<kResidual>& shared, float* partial) {
  using Octets = Slots<kResidual>;
  constexpr int kSums = Octets::kSums;
  __syncthreads();
  for (int i = threadIdx.x; i < kSumChannels * kSums; i += blockDim.x) shared[i / kSums][i % kSums] = 0;
  __syncthreads();
  for (int turn = 0; turn < int(blockDim.x) / kWarp; ++turn) {
    if (turn == warp_index()) {
      const int t = lane_index() % 4;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        float* row = shared[half * kGradientChannels + gradient_channel<layout>(v)];
#pragma unroll
        for (int c = 0; c < Octets::kColumns; ++c) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int slot = c * kOctet + 2 * t + i;
            if (slot < kSums) row[slot] += sums[v / 2][c].values[v % 2 * 2 + i];
          }
        }
      }
    }
    __syncthreads();
  }
  partial += (int64_t(blockIdx.x) * gridDim.y + blockIdx.y) * kSumChannels * kSums;
  for (int i = threadIdx.x; i < kSumChannels * kSums; i += blockDim.x) partial[i] = shared[i / kSums][i % kSums];
}

// sums[output][K + 1] = sum of the blocks' partial sums, in double; that of the gradient alone is the last. A thread
// block per output channel.
constexpr int kReduceSlices = 8;

template <int kResidual>
__global__ void __launch_bounds__(kReduceSlices* kWarp)
    reduce_partials(const float* partial, int blocks, int64_t channels, double* sums) {
  using Octets = Slots<kResidual>;
  __shared__ double slices[kReduceSlices][kWarp];
  const int lane = lane_index(), slice = warp_index();
  for (int first = 0; first <= Octets::kTaps; first += kWarp) {
    const int k = first + lane;
    double sum = 0;
    if (k <= Octets::kTaps) {
      const int slot = k < Octets::kTaps ? Octets::slot(k) : Octets::kOne;
      const bool split = k < Octets::kTaps && Octets::ninth(k);
#pragma unroll 8
      for (int block = slice; block < blocks; block += kReduceSlices) {
        const float* from = partial + (block * channels + blockIdx.x) * Octets::kSums + slot;
        sum += from[0];
        if (split) sum += from[Octets::kToLow];
      }
    }
    slices[slice][lane] = sum;
    __syncthreads();
    if (slice == 0 && k <= Octets::kTaps) {
      for (int i = 1; i < kReduceSlices; ++i) sum += slices[i][lane];
      sums[int64_t(blockIdx.x) * (Octets::kTaps + 1) + k] = sum;
    }
    __syncthreads();
  }
}

// Stores the gradient of the weight that meets one element of a patch; with the first of a kernel, that of a centre
// that meets zeros, which is zero.
__device__ inline void store_gradient(void* grad_weight, Type type, const Source& source, const Element& at,
                                      int64_t output, double value) {
  const int64_t i = weight_index(source, at, output);
  store_double(grad_weight, type, i, value);
  if (at.tap == 0 && dead_centre(at.map)) store_double(grad_weight, type, i + kPositions / 2, 0);
}
static_assert(tap_position(Map::npr, 0) == 0);

// Where a backward pass keeps its sums [outputs][K + 1] and its blocks' partial sums.
struct SumsWorkspace {
  double* sums;
  float* partial;

  static int64_t channels(int64_t outputs) { return ceil_div(outputs, kSumChannels) * kSumChannels; }
  static int64_t bytes(const Reading& op, int64_t outputs, Device device) {
    const int64_t slots = with_residual(op.residual, [](auto residual) { return Slots<residual()>::kSums; });
    return outputs * (op.source().taps() + 1) * 8 +
           device.multiprocessors * kMostBlocks * channels(outputs) * slots * 4;
  }
  static SumsWorkspace at(void* workspace, const Reading& op, int64_t outputs) {
    double* sums = static_cast<double*>(workspace);
    return {sums, reinterpret_cast<float*>(sums + outputs * (op.source().taps() + 1))};
  }

  template <int kResidual>
  Status reduce(int64_t outputs, int blocks, Stream stream) const {
    return launch("reduce_partials", reduce_partials<kResidual>, unsigned(outputs), kReduceSlices * kWarp, stream,
                  static_cast<const float*>(partial), blocks, channels(outputs), sums);
  }
};

}  // namespace npr::cuda
