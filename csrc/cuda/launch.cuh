// How the kernels are launched, on a device or on the host emulator.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/kernels.h"
#if !defined(__CUDACC__)
#include <emulator.h>
#endif

namespace npr::cuda {

constexpr int kWarp = 32;

NPR_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Blocks for `work` units when a block takes one unit after the other and `per_multiprocessor` blocks
// can run at once.
inline unsigned persistent_blocks(int64_t work, int per_multiprocessor) {
  return unsigned(std::min<int64_t>(work, int64_t(multiprocessors()) * per_multiprocessor));
}

template <class... Parameters, class... Arguments>
Status launch(const char* name, void (*kernel)(Parameters...), dim3 grid, unsigned threads, Stream stream,
              Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0) return {};
#if defined(__CUDACC__)
  kernel<<<grid, threads, 0, stream>>>(arguments...);
#else
  emulator::launch(name, grid, threads, [=] { kernel(arguments...); });
#endif
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {name, cudaGetErrorString(error)};
}

}  // namespace npr::cuda
