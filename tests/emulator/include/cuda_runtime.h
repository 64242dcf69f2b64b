// What the kernels use of CUDA C++, for a host compiler. See emulator.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// A block has the processor to itself, so one instance will do. The emulator finds it among the
// library's writable data.
#define __shared__ static

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// What a call may return: nothing wrong, a fault of a kernel, which stands, or a call that failed. The latter stays
// the last error until it is asked for.
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorOfKernel = 1, cudaErrorOfCall = 2;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

#include <emulator.h>

struct cudaFuncAttributes {};

// The result of a runtime's call, which fails where a test planted that.
inline cudaError_t cudaCalled(const char* call, bool valid = true) {
  if (valid && !emulator::planted(call)) return cudaSuccess;
  emulator::call_failed(call);
  return cudaErrorOfCall;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaCalled("cudaGetDevice"); }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulator::multiprocessors(), cudaCalled("cudaDeviceGetAttribute");
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return cudaCalled("cudaFuncSetAttribute", bytes <= 227 << 10);
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaCalled("cudaFuncGetAttributes");
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaCalled("cudaRuntimeGetVersion"); }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaCalled("cudaDriverGetVersion"); }
inline cudaError_t cudaStreamSynchronize(void*) { return cudaCalled("cudaStreamSynchronize"); }
inline cudaError_t cudaGetLastError() {
  if (emulator::error() != nullptr) return cudaErrorOfKernel;
  return emulator::take_failure() ? cudaErrorOfCall : cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorOfKernel ? emulator::error() : emulator::failed_call();
}

#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

inline void __syncthreads(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
  emulator::block_barrier(file, line);
}
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp_barrier(mask); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::gather(value)[lane % 32];
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::gather(value)[(threadIdx.x ^ mask) % 32];
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return emulator::gather(value)[lane < delta ? lane : lane - delta];
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return emulator::gather(value)[lane + delta < 32 ? lane + delta : lane];
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const auto all = emulator::gather(predicate);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= unsigned(all[lane] != 0) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == ~0u; }

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 15;
    unsigned byte = bytes >> (8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float2int_rn(float value) { return int(std::nearbyint(value)); }

using std::fabs;
using std::fmax;
using std::fmaxf;
using std::ilogb;
using std::isfinite;
using std::isnan;
using std::ldexp;
using std::sqrt;

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

#include "host_side.h"
