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

// The status of a call of the runtime. A failed one stays its last error, which the next good launch would report as
// its own, so it is taken away.
inline Status check(const char* step, cudaError_t error) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return {step, cudaGetErrorString(error), true};
}

// Whether NPR_CUDA_SYNC asks for each kernel to be waited for.
bool waits_for_kernels();

// Blocks for `work` units when a block takes one unit after the other and `per_multiprocessor` blocks
// can run at once.
inline unsigned persistent_blocks(int64_t work, Device device, int per_multiprocessor) {
  return unsigned(std::min<int64_t>(work, int64_t(device.multiprocessors) * per_multiprocessor));
}

// Launches `kernel`, whose dynamic shared memory is a Shared, if it has any.
template <class Shared = void, class... Parameters, class... Arguments>
Status launch(const char* name, void (*kernel)(Parameters...), dim3 grid, unsigned threads, Stream stream,
              Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0) return {};
  size_t shared = 0;
  if constexpr (!std::is_void_v<Shared>) {
    shared = sizeof(Shared);
    const Status status =
        check(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)));
    if (!status.ok()) return status;
  }
#if defined(__CUDACC__)
  kernel<<<grid, threads, shared, stream>>>(arguments...);
#else
  emulator::launch(grid, threads, shared, [=] { kernel(arguments...); });
#endif
  const Status launched = check(name, cudaGetLastError());
  if (!launched.ok() || !waits_for_kernels()) return launched;
  return check(name, cudaStreamSynchronize(stream));
}

// The dynamic shared memory of a kernel that was launched with it.
template <class Shared>
__device__ Shared& dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char bytes[];
  return *reinterpret_cast<Shared*>(bytes);
#else
  return *static_cast<Shared*>(emulator::dynamic_shared());
#endif
}

}  // namespace npr::cuda
