// Kernels with planted faults, each beside its sound twin: the emulator must tell them apart.
// All reverse blocks of 64 numbers: out[block][i] = in[block][63 - i].
#include <cstring>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

using namespace npr::cuda;

namespace {

constexpr int kThreads = 64;

using Kernel = void(const float* in, float* out);

__device__ int mirrored() { return kThreads - 1 - int(threadIdx.x); }
__device__ int64_t first() { return int64_t(blockIdx.x) * kThreads; }

__global__ void sound(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  for (int pass = 0; pass < 2; ++pass) {
    numbers[threadIdx.x] = in[first() + threadIdx.x];
    __syncthreads();
    out[first() + threadIdx.x] = numbers[mirrored()];
    __syncthreads();
  }
}

__global__ void read_after_write_race(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  for (int pass = 0; pass < 2; ++pass) {
    numbers[threadIdx.x] = in[first() + threadIdx.x];
    if (pass == 0) __syncthreads();
    out[first() + threadIdx.x] = numbers[mirrored()];
    __syncthreads();
  }
}

__global__ void write_after_read_race(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  for (int pass = 0; pass < 2; ++pass) {
    numbers[threadIdx.x] = in[first() + threadIdx.x];
    __syncthreads();
    out[first() + threadIdx.x] = numbers[mirrored()];
  }
}

__global__ void write_after_write_race(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  numbers[threadIdx.x / 2 * 2] = in[first() + threadIdx.x / 2 * 2];
  numbers[threadIdx.x] = in[first() + threadIdx.x];
  __syncthreads();
  out[first() + threadIdx.x] = numbers[mirrored()];
}

__global__ void race_of_blocks(const float* in, float* out) {
  out[threadIdx.x] = in[mirrored()];
  out[first() + threadIdx.x] = in[first() + mirrored()];
}

// Lanes of a warp touch their neighbours' numbers.
template <bool with_barrier>
__global__ void within_a_warp(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  numbers[threadIdx.x] = in[first() + mirrored()];
  __syncwarp();
  numbers[threadIdx.x ^ 1] += 0;
  if (with_barrier) __syncwarp();
  out[first() + threadIdx.x] = numbers[threadIdx.x];
}

__global__ void out_of_bounds_read(const float* in, float* out) {
  out[first() + threadIdx.x] = in[first() + mirrored() + 1];
}

__global__ void out_of_bounds_write(const float* in, float* out) {
  out[first() + threadIdx.x] = in[first() + mirrored()];
  if (threadIdx.x == 0) out[first() - 1] = 0;
}

__global__ void write_to_input(const float* in, float* out) {
  out[first() + threadIdx.x] = in[first() + mirrored()];
  const_cast<float*>(in)[first()] = 0;
}

__global__ void missing_store(const float* in, float* out) {
  if (threadIdx.x != 17) out[first() + threadIdx.x] = in[first() + mirrored()];
}

__global__ void uninitialised_read(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  if (threadIdx.x != 17) numbers[threadIdx.x] = in[first() + threadIdx.x];
  __syncthreads();
  out[first() + threadIdx.x] = numbers[mirrored()];
}

__global__ void read_of_output(const float* in, float* out) {
  out[first() + threadIdx.x] = in[first() + mirrored()] + 0 * out[first() + threadIdx.x];
}

__global__ void divergent_barrier(const float* in, float* out) {
  __shared__ float numbers[kThreads];
  numbers[threadIdx.x] = in[first() + threadIdx.x];
  if (threadIdx.x < 40) __syncthreads();
  out[first() + threadIdx.x] = in[first() + mirrored()];
}

__global__ void two_barriers(const float* in, float* out) {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[first() + threadIdx.x] = in[first() + mirrored()];
}

__global__ void divergent_shuffle(const float* in, float* out) {
  float number = in[first() + mirrored()];
  if (threadIdx.x % 32 < 20) number = __shfl_xor_sync(~0u, number, 0);
  out[first() + threadIdx.x] = number;
}

// Lanes multiply zeros; those that do not are missed.
template <bool all>
__global__ void multiply_bytes(const float* in, float* out) {
  IntegerAccumulator sums{};
  if (all || threadIdx.x % 32 < 20) multiply_add_bytes(sums, FragmentA{}, FragmentB{});
  out[first() + threadIdx.x] = in[first() + mirrored()] + float(sums.values[0]);
}

__global__ void shuffle(const float* in, float* out) {
  out[first() + threadIdx.x] = __shfl_xor_sync(~0u, in[first() + (threadIdx.x ^ 32)], 31);
}

template <bool waits>
__global__ void asynchronous_copy(const float* in, float* out) {
  __shared__ __align__(16) float numbers[kThreads];
  if (threadIdx.x < kThreads / 4) copy_async<16>(&numbers[4 * threadIdx.x], &in[first() + 4 * threadIdx.x], 16);
  if (waits) wait_for_copies();
  __syncthreads();
  out[first() + threadIdx.x] = numbers[mirrored()];
}

__global__ void misaligned(const float* in, float* out) {
  if (threadIdx.x < 15) {
    const uint4 four = *reinterpret_cast<const uint4*>(in + first() + 4 * threadIdx.x + 1);
    *reinterpret_cast<uint4*>(out + first() + 4 * threadIdx.x) = four;
  }
}

const struct {
  const char* name;
  Kernel* kernel;
} kKernels[] = {
    {"sound", sound},
    {"read_after_write_race", read_after_write_race},
    {"write_after_read_race", write_after_read_race},
    {"write_after_write_race", write_after_write_race},
    {"race_of_blocks", race_of_blocks},
    {"within_a_warp", within_a_warp<true>},
    {"race_within_a_warp", within_a_warp<false>},
    {"out_of_bounds_read", out_of_bounds_read},
    {"out_of_bounds_write", out_of_bounds_write},
    {"write_to_input", write_to_input},
    {"missing_store", missing_store},
    {"uninitialised_read", uninitialised_read},
    {"read_of_output", read_of_output},
    {"divergent_barrier", divergent_barrier},
    {"two_barriers", two_barriers},
    {"shuffle", shuffle},
    {"divergent_shuffle", divergent_shuffle},
    {"asynchronous_copy", asynchronous_copy<true>},
    {"unawaited_copy", asynchronous_copy<false>},
    {"misaligned", misaligned},
    {"multiply_bytes", multiply_bytes<true>},
    {"divergent_multiply", multiply_bytes<false>},
};

// sums [16][8] = start + left [16][32] right [8][32]^T, fragments as the PTX manual numbers their elements: of a lane,
// element i of A is of row g + 8 (i / 4 % 2) and k = 4t + i % 4 + 16 (i / 8), of B of column g and k = 4t + i % 4 + 16
// (i / 4).
__global__ void product_of_bytes(const uint8_t* left, const uint8_t* right, const int* start, int* sums) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  FragmentA a{};
  FragmentB b{};
  IntegerAccumulator d;
  for (int i = 0; i < 16; ++i) {
    const uint32_t byte = left[(g + i / 4 % 2 * 8) * 32 + 4 * t + i % 4 + i / 8 * 16];
    a.words[i / 4] |= byte << (8 * (i % 4));
  }
  for (int i = 0; i < 8; ++i) b.words[i / 4] |= uint32_t{right[g * 32 + 4 * t + i % 4 + i / 4 * 16]} << (8 * (i % 4));
  for (int i = 0; i < 4; ++i) d.values[i] = start[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  multiply_add_bytes(d, a, b);
  for (int i = 0; i < 4; ++i) sums[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = d.values[i];
}

}  // namespace

extern "C" const char* run_product(const uint8_t* left, const uint8_t* right, const int* start, int* sums) {
  return launch("product_of_bytes", product_of_bytes, 1, 32, nullptr, left, right, start, sums).error;
}

// The error of the named kernel on `blocks` blocks, or null.
extern "C" const char* run_planted(const char* name, const float* in, float* out, int blocks) {
  for (const auto& [known, kernel] : kKernels) {
    if (std::strcmp(known, name) == 0) return launch(known, kernel, blocks, kThreads, nullptr, in, out).error;
  }
  return "no such kernel";
}
