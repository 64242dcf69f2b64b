// What a program that calls the kernels uses of CUDA's runtime: memory, events, nothing asynchronous.
#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };

// Memory of a device, of whose bytes the emulator knows which were written.
inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  emulator::add_buffer(*data, bytes, emulator::Access::output);
  return cudaCalled("cudaMalloc");
}
inline cudaError_t cudaFree(void* data) {
  emulator::remove_buffer(data);
  std::free(data);
  return cudaCalled("cudaFree");
}
// To the host only what was written.
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  std::memcpy(to, from, bytes);
  if (kind == cudaMemcpyHostToDevice) emulator::host_wrote(to, bytes);
  return cudaCalled("cudaMemcpy", kind == cudaMemcpyHostToDevice || emulator::missing_store(from) < 0);
}
inline cudaError_t cudaDeviceSynchronize() {
  return emulator::error() != nullptr ? cudaErrorOfKernel : cudaCalled("cudaDeviceSynchronize");
}

struct EmulatedEvent {
  std::chrono::steady_clock::time_point at;
};
using cudaEvent_t = EmulatedEvent*;
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new EmulatedEvent, cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, void*) {
  return event->at = std::chrono::steady_clock::now(), cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}
