// Gradients of the outputs as the operand of a tensor-core product with patches.
//
// A weight gradient is grad^T patches, a sum over outputs: outputs are the MMA's k, channels its rows.
// A warp takes 32 channels and 16 outputs at a time. A thread holds 4 channels of 4 outputs, whichever
// of them the order of rows and of k, which is free, makes vectors in memory:
//
//     layout           channels v = 0..3   outputs i = 0..3           loads
//     channels_last    4 g + v             2t, 2t + 1, 2t + 8, 2t + 9    along the channels
//     planar           g + 8 v             4 t + i                       along the row
//     strided          as channels_last                                  one by one
//
// Differences are exact in bfloat16 too. Float32 gradients are split into three bfloat16 terms, 24 bits,
// whatever their magnitude; 16-bit gradients are one term, exact.
//
// Tensor cores cut off the sums that they carry along, so each short product starts from zero and is
// added to the running sums outside, rounded.
#pragma once

#include "cuda/plain.cuh"
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
        for (int v = 0; v < 4; ++v) numbers[v] = exists && o + v < outputs ? bits(four[v * grad.stride_o]) : 0;
#pragma unroll
        for (int word = 0; word < kWords; ++word) {
          words[i][word] = sizeof(T) == 4 ? numbers[word] : numbers[2 * word] | numbers[2 * word + 1] << 16;
        }
      }
    }
  }

  // A fragments of the terms, for the first or the second 16 channels.
  __device__ void split(int tile, uint32_t (&terms)[kTerms<T>][4]) const {
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
          terms[term][word] = rounded;
          low -= __uint_as_float(rounded << 16);
          high -= __uint_as_float(rounded & 0xffff0000u);
        }
      } else if constexpr (layout == Layout::planar) {
        terms[0][word] = words[v][pair];
      } else {
        const uint32_t selector = v % 2 == 0 ? 0x5410 : 0x7632;
        terms[0][word] = permute_bytes(words[2 * pair][v / 2], words[2 * pair + 1][v / 2], selector);
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

// B fragments: the patches of 16 outputs, [channel of the image][half of k].
template <class Tile>
__device__ void load_patches(uint32_t (&fragments)[kChannels][2], const Tile& patches, int position) {
  const int lane = lane_index();
  uint32_t words[4];
  load_matrices<true>(words, patches.patch(lane / 16, position));
  fragments[0][0] = words[0], fragments[0][1] = words[1], fragments[1][0] = words[2], fragments[1][1] = words[3];
  load_matrices<true>(words, patches.patch(2, position));
  fragments[2][0] = words[0], fragments[2][1] = words[1];
}

// A B fragment whose column 0 is ones, the others zeros: it sums the rows of A.
template <class T>
__device__ void load_ones(uint32_t (&fragment)[2]) {
  fragment[0] = fragment[1] = lane_index() < 4 ? pack<T>(1.0f, 1.0f) : 0;
}

// ---- Sums ------------------------------------------------------------------------------------------

// For each output channel, the sums of gradient times patch element, and of the gradient alone.
constexpr int kSums = kPatch + 1;

constexpr int kSumChannels = 2 * kGradientChannels;  // of a block

// The running sums of a warp: [tile of channels][channel of the image, or gradient alone][as an MMA gives them].
using WarpSums = float[2][kChannels + 1][4];

// Adds the sums of the block's warps, one after the other, and stores them as partial sums
// [blocks][channels of the grid][kSums]. `half` of the block's 64 channels is the warp's.
template <Layout layout>
__device__ void store_partial(const WarpSums& sums, int half, float (&shared)[kSumChannels][kSums], float* partial) {
  for (int i = threadIdx.x; i < kSumChannels * kSums; i += blockDim.x) shared[i / kSums][i % kSums] = 0;
  __syncthreads();
  for (int turn = 0; turn < int(blockDim.x) / kWarp; ++turn) {
    if (turn == warp_index()) {
      const int t = lane_index() % 4;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        float* row = shared[half * kGradientChannels + gradient_channel<layout>(v)];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) row[c * kTaps + 2 * t + i] += sums[v / 2][c][v % 2 * 2 + i];
        }
        if (t == 0) row[kPatch] += sums[v / 2][kChannels][v % 2 * 2];
      }
    }
    __syncthreads();
  }
  partial += (int64_t(blockIdx.x) * gridDim.y + blockIdx.y) * kSumChannels * kSums;
  for (int i = threadIdx.x; i < kSumChannels * kSums; i += blockDim.x) partial[i] = shared[i / kSums][i % kSums];
}

// sums[output][kSums] = sum of the blocks' partial sums, in double. A thread block per output channel.
constexpr int kReduceSlices = 8;

static __global__ void __launch_bounds__(kReduceSlices* kWarp)
    reduce_partials(const float* partial, int blocks, int64_t channels, double* sums) {
  __shared__ double slices[kReduceSlices][kWarp];
  const int k = lane_index(), slice = warp_index();
  double sum = 0;
  if (k < kSums) {
#pragma unroll 8
    for (int block = slice; block < blocks; block += kReduceSlices) {
      sum += partial[(block * channels + blockIdx.x) * kSums + k];
    }
  }
  slices[slice][k] = sum;
  __syncthreads();
  if (slice == 0 && k < kSums) {
    for (int i = 1; i < kReduceSlices; ++i) sum += slices[i][k];
    sums[int64_t(blockIdx.x) * kSums + k] = sum;
  }
}

// The gradient of the 3x3 kernel number `i`, output o and channel c, from that of its eight taps; the centre's is zero.
__device__ inline void store_gradient(const double* taps, double scale, void* grad_weight, Type type, int64_t i) {
  for (int tap = 0; tap < kTaps; ++tap) {
    store_double(grad_weight, type, i * kPositions + tap_position(Map::npr, tap), taps[tap] * scale);
  }
  store_double(grad_weight, type, i * kPositions + kPositions / 2, 0);
}

// Where a backward pass keeps its sums [outputs][taps + 1] and, of `blocks` blocks, its partial sums.
struct SumsWorkspace {
  double* sums;
  float* partial;

  static int64_t channels(int64_t outputs) { return ceil_div(outputs, kSumChannels) * kSumChannels; }
  static int64_t bytes(int64_t outputs, int64_t taps, int blocks) {
    return outputs * (taps + 1) * 8 + blocks * channels(outputs) * kSums * 4;
  }
  static SumsWorkspace at(void* workspace, int64_t outputs, int64_t taps) {
    double* sums = static_cast<double*>(workspace);
    return {sums, reinterpret_cast<float*>(sums + outputs * (taps + 1))};
  }

  Status reduce(int64_t outputs, int blocks, Stream stream) const {
    return launch("reduce_partials", reduce_partials, unsigned(outputs), kReduceSlices * kWarp, stream, partial, blocks,
                  channels(outputs), sums);
  }
};

// ---- Plain -----------------------------------------------------------------------------------------

// A gradient's element as a double.
__device__ inline double load_gradient(const Gradient& grad, int64_t image, int64_t output, int64_t row, int64_t col) {
  return load_double({grad.data, grad.type},
                     image * grad.stride_n + output * grad.stride_o + row * grad.stride_h + col * grad.stride_w);
}

// Sums over a block of what each thread has for eight taps and the bias, as plain kernels do for output channel o and
// channel c of the images: stored in sums[o][taps + 1], the bias by c = 0.
__device__ inline void store_plain_sums(const double (&values)[kTaps + 1], int64_t output, int64_t channel,
                                        int64_t taps, double* sums) {
  __shared__ double threads[kTaps + 1][kPlainThreads];
#pragma unroll
  for (int i = 0; i <= kTaps; ++i) threads[i][threadIdx.x] = values[i];
  __syncthreads();
  const int i = threadIdx.x;
  if (i > kTaps || (i == kTaps && channel != 0)) return;
  double sum = 0;
  for (double value : threads[i]) sum += value;
  sums[output * (taps + 1) + (i < kTaps ? channel * kTaps + i : taps)] = sum;
}

}  // namespace npr::cuda
