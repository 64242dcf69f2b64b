// Vectors of the instruction set that this translation unit is compiled for.
//
// The compiler's vector extension carries the arithmetic, so that one source serves AVX-512, AVX2,
// SSE2 and NEON; only what it cannot express well is spelled out. Everything lives in an unnamed
// namespace: the same source is compiled for several instruction sets into one binary.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "cpu/kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define NPR_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define NPR_VECTOR_BYTES 32
#else
#define NPR_VECTOR_BYTES 16
#endif

namespace npr::cpu {
namespace {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(NPR_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(NPR_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = NPR_VECTOR_BYTES / sizeof(T);

// The signed integer as wide as T: what comparing vectors of T yields.
template <class T>
using IntegerOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// Accumulators of a register tile, kTileRows x kTileVectors, leave room for its operands.
constexpr int kTileRows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileVectors = 4;
#else
constexpr int kTileVectors = 2;
#endif

// Those of accumulate_lanes, kLaneRows x kTileTaps, whose operands are all vectors.
constexpr int kLaneRows = 4;
constexpr int kTileTaps = kTileVectors == 4 ? 6 : 2;

template <class T>
inline Vec<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(from);
}
template <class T>
inline void store(T* to, Vec<T> value) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(to) = value;
}
// Stores past the caches, to an address aligned to the vector. Lines that are written whole are not read before, and
// what the caches hold stays there. Such stores are in no order with others until finish_streaming().
constexpr size_t kCacheLine = 64;
template <class T>
inline void stream(T* to, Vec<T> value) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(value));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(value));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), reinterpret_cast<__m128i>(value));
#else
  store(to, value);
#endif
}
inline void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// a > b ? a : b, one instruction where there is one; b if either is NaN.
#if defined(__AVX512F__)
inline Vec<float> maximum(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
inline Vec<double> maximum(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__)
inline Vec<float> maximum(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
inline Vec<double> maximum(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
inline Vec<float> maximum(Vec<float> a, Vec<float> b) { return _mm_max_ps(a, b); }
inline Vec<double> maximum(Vec<double> a, Vec<double> b) { return _mm_max_pd(a, b); }
#else
template <class V>
inline V maximum(V a, V b) {
  return a > b ? a : b;
}
#endif

// a < b ? a : b, likewise.
#if defined(__AVX512F__)
inline Vec<float> minimum(Vec<float> a, Vec<float> b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
inline Vec<float> minimum(Vec<float> a, Vec<float> b) { return _mm256_min_ps(a, b); }
#elif defined(__SSE2__)
inline Vec<float> minimum(Vec<float> a, Vec<float> b) { return _mm_min_ps(a, b); }
#else
inline Vec<float> minimum(Vec<float> a, Vec<float> b) { return a < b ? a : b; }
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define NPR_SHUFFLE
#endif
#endif

// to[i][j] = from[j][at + i] for 8 x 8 elements, as double; rows of `to` are `stride` apart. Inlined by
// force: a call costs as much as the work.
__attribute__((always_inline)) inline void transpose_8x8(const float* const* from, int64_t at, double* to,
                                                         int64_t stride) {
#if defined(NPR_SHUFFLE)
  typedef float Row __attribute__((vector_size(32)));
  typedef float UnalignedRow __attribute__((vector_size(32), aligned(4), may_alias));
  typedef double WideRow __attribute__((vector_size(64)));
  typedef double UnalignedWideRow __attribute__((vector_size(64), aligned(8), may_alias));
  Row r[8], s[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = *reinterpret_cast<const UnalignedRow*>(from[i] + at);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 2) {  // pairs of rows: interleave elements
    s[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i += 4) {  // then pairs of elements
    r[i] = __builtin_shufflevector(s[i], s[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 1] = __builtin_shufflevector(s[i], s[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    r[i + 2] = __builtin_shufflevector(s[i + 1], s[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    r[i + 3] = __builtin_shufflevector(s[i + 1], s[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {  // then halves
    s[i] = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[i + 4] = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    *reinterpret_cast<UnalignedWideRow*>(to + i * stride) = __builtin_convertvector(s[i], WideRow);
  }
#else
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) to[i * stride + j] = from[j][at + i];
  }
#endif
}

// Scratch memory, aligned to the widest vector; freed when it goes out of scope.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  T* data_;
};

// Memory for so many elements, at least one, that the thread keeps from call to call, for one user a source file.
template <class T>
inline T* workspace(int64_t size) {
  static thread_local std::unique_ptr<Scratch<T>> kept;
  static thread_local int64_t kept_size = 0;
  if (size > kept_size) {
    kept.reset();
    kept_size = 0;
    kept = std::make_unique<Scratch<T>>(size);
    kept_size = size;
  }
  return kept->get();
}

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

template <int... I, class F>
inline void with_constant_impl(int value, F&& f, std::integer_sequence<int, I...>) {
  (void)((value == I + 1 ? (f(std::integral_constant<int, I + 1>()), true) : false) || ...);
}
// Calls f with `value`, 1..Largest, as a compile-time constant.
template <int Largest, class F>
inline void with_constant(int value, F&& f) {
  with_constant_impl(value, f, std::make_integer_sequence<int, Largest>());
}

// Conversions between the arithmetic's float and the 16-bit types; to nearest, ties to even.

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float to_float(bf16 value) { return from_bits(uint32_t(value.bits) << 16); }
inline bf16 to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return {uint16_t(nan ? 0x7fc0 : rounded)};
}

inline float to_float(f16 value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#endif
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude << 13));
  // Scaling by a power of two places the exponent and is exact for subnormals too.
  return from_bits(sign | bits_of(from_bits(magnitude << 13) * 0x1p112f));
}
inline f16 to_f16(float value) {
  const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};
  if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // rounds to 2^16 or more
  if (magnitude < 0x38800000) {                                   // subnormal: let the addition round
    return {uint16_t(sign | (bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000))};
  }
  return {uint16_t(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13))};
}

inline void convert(const float* from, bf16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_bf16(from[i]);
}
inline void convert(const bf16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}
inline void convert(const float* from, f16* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
#endif
  for (; i < count; ++i) to[i] = to_f16(from[i]);
}
inline void convert(const f16* from, float* to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
#endif
  for (; i < count; ++i) to[i] = to_float(from[i]);
}
template <class T>
inline void convert(const T* from, T* to, int64_t count) {
  std::memcpy(to, from, count * sizeof(T));
}

// Calls f with a null pointer of the element type that `type` names.
template <class F>
inline void with_type(Type type, F&& f) {
  switch (type) {
    case Type::f32: return f(static_cast<float*>(nullptr));
    case Type::bf16: return f(static_cast<bf16*>(nullptr));
    case Type::f16: return f(static_cast<f16*>(nullptr));
    case Type::f64: return f(static_cast<double*>(nullptr));
  }
}

template <class Element>
using Compute = std::conditional_t<std::is_same_v<Element, double>, double, float>;

}  // namespace
}  // namespace npr::cpu
