// Arrays on the device, and numbers of the kernels' types on the host.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/kernels.h"

namespace npr::bench {

using cuda::Type;

inline void must(const char* step, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(step) + ": " + cudaGetErrorString(error));
}
inline void must(const cuda::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.step) + ": " + status.error);
}

class Memory {
 public:
  explicit Memory(size_t bytes = 0) : bytes_(bytes) {
    void* data = nullptr;
    if (bytes > 0) must("cudaMalloc", cudaMalloc(&data, bytes));
    data_.reset(data);
  }
  template <class T>
  explicit Memory(const std::vector<T>& values) : Memory(values.size() * sizeof(T)) {
    must("cudaMemcpy", cudaMemcpy(data_.get(), values.data(), bytes_, cudaMemcpyHostToDevice));
  }
  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  template <class T>
  std::vector<T> values() const {
    std::vector<T> values(bytes_ / sizeof(T));
    must("cudaMemcpy", cudaMemcpy(values.data(), data_.get(), bytes_, cudaMemcpyDeviceToHost));
    return values;
  }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* data) const { cudaFree(data); }
  };
  size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

inline float rounded(float value, Type type) {
  if (type == Type::f32) return value;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

// Values of the type, float32 or bfloat16, from and to floats.
inline Memory upload(const std::vector<float>& values, Type type) {
  if (type == Type::f32) return Memory(values);
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(uint16_t(std::bit_cast<uint32_t>(rounded(value, type)) >> 16));
  return Memory(halves);
}
inline std::vector<double> download(const Memory& memory, Type type) {
  std::vector<double> values;
  if (type == Type::f32) {
    for (const float value : memory.values<float>()) values.push_back(value);
  } else {
    for (const uint16_t half : memory.values<uint16_t>()) values.push_back(std::bit_cast<float>(uint32_t(half) << 16));
  }
  return values;
}

// Times of single calls on the device, in microseconds, after two rounds that do not count.
template <class Call>
std::vector<double> microseconds(int rounds, int calls, const Call& call) {
  std::vector<cudaEvent_t> events(calls + 1);
  for (cudaEvent_t& event : events) must("cudaEventCreate", cudaEventCreate(&event));
  std::vector<double> times;
  for (int round = -2; round < rounds; ++round) {
    for (int i = 0; i < calls; ++i) {
      must("cudaEventRecord", cudaEventRecord(events[i], nullptr));
      call((round + 2) * calls + i);
    }
    must("cudaEventRecord", cudaEventRecord(events[calls], nullptr));
    must("cudaDeviceSynchronize", cudaDeviceSynchronize());
    for (int i = 0; i < calls && round >= 0; ++i) {
      float milliseconds = 0;
      must("cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, events[i], events[i + 1]));
      times.push_back(1e3 * milliseconds);
    }
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  return times;
}

}  // namespace npr::bench
