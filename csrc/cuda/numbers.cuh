// 16-bit floating-point numbers and vectors of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/kernels.h"
#if !defined(__CUDACC__)
#include <emulator.h>
#endif

namespace npr::cuda {

struct Half {
  uint16_t bits;
};

struct BFloat {
  uint16_t bits;
};

__device__ inline float to_float(float value) { return value; }

__device__ inline float to_float(Half value) {
#if defined(__CUDACC__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return emulator::half_to_float(value.bits);
#endif
}

__device__ inline float to_float(BFloat value) { return __uint_as_float(uint32_t(value.bits) << 16); }

// Two floats, rounded to nearest, as one word of two numbers of type T; `low` comes first in memory.
template <class T>
__device__ uint32_t pack(float low, float high);

template <>
__device__ inline uint32_t pack<Half>(float low, float high) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return emulator::float_to_half(low) | uint32_t(emulator::float_to_half(high)) << 16;
#endif
}

template <>
__device__ inline uint32_t pack<BFloat>(float low, float high) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  return emulator::float_to_bfloat(low) | uint32_t(emulator::float_to_bfloat(high)) << 16;
#endif
}

// max(0, .) of two floats, NaN if NaN, as a word of two bfloat16 numbers.
__device__ inline uint32_t pack_rectified(float low, float high) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#else
  const auto rectified = [](float value) -> uint32_t {
    return isnan(value) ? 0x7fff : emulator::float_to_bfloat(value > 0 ? value : 0);
  };
  return rectified(low) | rectified(high) << 16;
#endif
}

// a b of two packed bfloat16 numbers, none of them below zero.
__device__ inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(0x80008000));
  return result;
#else
  const auto multiply = [](uint32_t x, uint32_t y) -> uint32_t {
    return emulator::float_to_bfloat(__uint_as_float(x << 16) * __uint_as_float(y << 16));
  };
  return multiply(a & 0xffff, b & 0xffff) | multiply(a >> 16, b >> 16) << 16;
#endif
}

template <class T>
__device__ T from_float(float value) {
  return T{uint16_t(pack<T>(value, 0.0f))};
}

template <>
__device__ inline float from_float<float>(float value) {
  return value;
}

template <>
__device__ inline double from_float<double>(float value) {
  return value;
}

// Element `index` of a parameter, which is of whatever type the caller has.
__device__ inline double load_double(const Array& array, int64_t index) {
  switch (array.type) {
    case Type::f32: return static_cast<const float*>(array.data)[index];
    case Type::bf16: return to_float(static_cast<const BFloat*>(array.data)[index]);
    case Type::f16: return to_float(static_cast<const Half*>(array.data)[index]);
    default: return static_cast<const double*>(array.data)[index];
  }
}

__device__ inline void store_double(void* data, Type type, int64_t index, double value) {
  switch (type) {
    case Type::f32: static_cast<float*>(data)[index] = float(value); break;
    case Type::bf16: static_cast<BFloat*>(data)[index] = from_float<BFloat>(float(value)); break;
    case Type::f16: static_cast<Half*>(data)[index] = from_float<Half>(float(value)); break;
    default: static_cast<double*>(data)[index] = value;
  }
}

// kCount floats, a multiple of 4, from a 16-byte boundary.
template <int kCount>
__device__ void load_floats(float (&to)[kCount], const float* from) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
  }
}

// Numbers of type T in 16 bytes.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// Stores kVector consecutive results, of which the first `count` exist: at once where `aligned` says
// that all 16 bytes exist and lie on a boundary. The results are not read again by the kernel, so
// they need not stay in the cache.
template <class T>
__device__ void store_vector(T* out, const float (&values)[kVector<T>], int64_t count, bool aligned) {
  if (aligned) {
    uint4 words;
    if constexpr (sizeof(T) == 4) {
      words = {__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
               __float_as_uint(values[3])};
    } else {
      words = {pack<T>(values[0], values[1]), pack<T>(values[2], values[3]), pack<T>(values[4], values[5]),
               pack<T>(values[6], values[7])};
    }
    __stcs(reinterpret_cast<uint4*>(out), words);
  } else {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      if (i < count) out[i] = from_float<T>(values[i]);
    }
  }
}

// The same for results that are packed already.
template <class T>
__device__ void store_words(T* out, const uint32_t (&words)[4], int64_t count, bool aligned) {
  if (aligned) {
    __stcs(reinterpret_cast<uint4*>(out), uint4{words[0], words[1], words[2], words[3]});
  } else {
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      if (i < count) out[i] = T{uint16_t(words[i / 2] >> (16 * (i % 2)))};
    }
  }
}

// Stores 4 kWords bytes, of which the first `count` exist, likewise.
template <int kWords>
__device__ void store_codes(uint8_t* to, const uint32_t (&words)[kWords], int64_t count, bool aligned) {
  if (aligned) {
    if constexpr (kWords == 2) {
      __stcs(reinterpret_cast<uint2*>(to), uint2{words[0], words[1]});
    } else {
      __stcs(reinterpret_cast<uint32_t*>(to), words[0]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4 * kWords; ++i) {
      if (i < count) to[i] = uint8_t(words[i / 4] >> (8 * (i % 4)));
    }
  }
}

}  // namespace npr::cuda
