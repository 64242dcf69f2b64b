// The instructions that C++ has no words for, each with what it does on the host emulator beside it.
//
// A warp holds the matrices of mma.m16n8k16, D[16][8] += A[16][16] B[16][8], in pieces: with g = lane / 4 and
// t = lane % 4, so that lanes count along the rows of
//
//          n    0   1   2   3   4   5   6   7         k    0   1   2   3   4   5   6   7    8 ... 15
//      row 0  |lane 0 |lane 1 |lane 2 |lane 3 |   row 0  |lane 0 |lane 1 |lane 2 |lane 3 |
//          1  |     4 |     5 |     6 |     7 |       1  |     4 |     5 |     6 |     7 |
//        ...  |       values 0 and 1          |     ...  |           word 0              |   word 2
//          7  |    28 |    29 |    30 |    31 |       7  |    28 |    29 |    30 |    31 |
//       8..15 |  the same, values 2 and 3     |    8..15 |  the same, word 1             |   word 3
//
//              D, an Accumulator                            A, a FragmentA; and B transposed, a FragmentB,
//                                                           whose columns are the rows 0..7: words 0 and 1
//
// A lane's piece of D is D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]. A word of A or B is two numbers,
// neighbours along k, the lower one first. So what ldmatrix reads of 8x8 matrices are words of A and of B alike.
//
// mma.m16n8k32 of bytes is the same with k twice as long: a word is four bytes, and k is 4t + i in words 0 and 1.
#pragma once

#include "cuda/numbers.cuh"

namespace npr::cuda {

struct FragmentA {
  uint32_t words[4];
};

struct FragmentB {
  uint32_t words[2];
};

struct Accumulator {
  float values[4];
};

struct IntegerAccumulator {
  int values[4];
};

__device__ inline int lane_index() { return threadIdx.x % 32; }
__device__ inline int warp_index() { return threadIdx.x / 32; }

// Four bytes of `low` (numbers 0 to 3) and `high` (4 to 7), chosen by the nibbles of `selector`.
__device__ inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}

// a - (b, b) of two packed float16 numbers, where b is the lower of two.
__device__ inline uint32_t subtract_lower_half(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("{\n"
      ".reg .b16 lower, upper;\n"
      ".reg .b32 both;\n"
      "mov.b32 {lower, upper}, %2;\n"
      "mov.b32 both, {lower, lower};\n"
      "sub.rn.f16x2 %0, %1, both;\n"
      "}"
      : "=r"(result)
      : "r"(a), "r"(b));
  return result;
#else
  const auto subtract = [&](uint16_t x) -> uint32_t {
    return emulator::float_to_half(emulator::half_to_float(x) - emulator::half_to_float(uint16_t(b)));
  };
  return subtract(a) | subtract(a >> 16) << 16;
#endif
}

// a - b of two packed float16 numbers.
__device__ inline uint32_t subtract_halves(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
#else
  const auto subtract = [](uint16_t x, uint16_t y) -> uint32_t {
    return emulator::float_to_half(emulator::half_to_float(x) - emulator::half_to_float(y));
  };
  return subtract(a, b) | subtract(a >> 16, b >> 16) << 16;
#endif
}

// All ones where two packed float16 numbers are equal, zeros elsewhere.
__device__ inline uint32_t equal_halves(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("set.eq.u32.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
#else
  const auto equal = [](uint16_t x, uint16_t y) -> uint32_t {
    return emulator::half_to_float(x) == emulator::half_to_float(y) ? 0xffff : 0;
  };
  return equal(a, b) | equal(a >> 16, b >> 16) << 16;
#endif
}

// The larger number, or NaN if one of them is.
__device__ inline float max_or_nan(float a, float b) {
#if defined(__CUDACC__)
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return isnan(a) || b < a ? a : b;
#endif
}

// The largest of three packed pairs of bfloat16 numbers that are not negative, or NaN if one of them is: their
// bits order as those of integers, and NaN is 0x7fff, the largest.
__device__ inline uint32_t max_of_pairs(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 900
  return __vimax3_s16x2(a, b, c);
#else
  uint32_t result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(result) : "r"(c));
  return result;
#endif
#else
  const auto max = [](uint32_t x, uint32_t y, uint32_t z) {
    return uint32_t(uint16_t(std::max(int16_t(x), std::max(int16_t(y), int16_t(z)))));
  };
  return max(a, b, c) | max(a >> 16, b >> 16, c >> 16) << 16;
#endif
}

// (a & mask) | bits, in one instruction, which nvcc does not see where one of them is constant.
__device__ inline uint32_t merge_bits(uint32_t a, uint32_t mask, uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(mask), "r"(bits));
  return result;
#else
  return (a & mask) | bits;
#endif
}

// a + b, of blocks that are flat: nvcc does not know that blockDim.z is 1. Multiplications have a pipe of their own,
// where nvcc would make the sum a part of a maximum, on the pipe that maxima wait for.
__device__ inline int32_t add_by_multiplication(int32_t a, int32_t b) { return a * int32_t(blockDim.z) + b; }

// The largest of three integers: one instruction from sm_90 on, two before.
__device__ inline int32_t max_of_three(int32_t a, int32_t b, int32_t c) {
#if defined(__CUDACC__)
  return __vimax3_s32(a, b, c);
#else
  return std::max(a, std::max(b, c));
#endif
}

// The smallest of three packed pairs of 16-bit integers without sign.
__device__ inline uint32_t min_of_pairs(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  return __vimin3_u16x2(a, b, c);
#else
  const auto min = [](uint32_t x, uint32_t y, uint32_t z) { return std::min(x, std::min(y, z)); };
  return min(a & 0xffff, b & 0xffff, c & 0xffff) | min(a >> 16, b >> 16, c >> 16) << 16;
#endif
}

// An address in shared memory, which takes one register.
#if defined(__CUDACC__)
using SharedAddress = uint32_t;
__device__ inline SharedAddress shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}
#else
using SharedAddress = const uint8_t*;
inline SharedAddress shared_address(const void* at) { return static_cast<const uint8_t*>(at); }
#endif

// Loads four or two 8x8 matrices of 16-bit numbers from shared memory. Lane l, of two l < 16, gives the address of row
// l % 8 (16 bytes) of matrix l / 8, and receives of each matrix M: M[g][2t, 2t+1], or, transposed, M[2t, 2t+1][g].
template <bool transposed, int kCount>
__device__ void load_matrices_at(uint32_t (&words)[kCount], SharedAddress row) {
#if defined(__CUDACC__)
  if constexpr (kCount == 2 && transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(row)
                 : "memory");
  } else if constexpr (kCount == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(row)
                 : "memory");
  } else if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(row)
                 : "memory");
  }
#else
  struct Row {
    uint16_t elements[8];
  };
  const auto& rows = emulator::gather(lane_index() < 8 * kCount ? *reinterpret_cast<const Row*>(row) : Row{});
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int m = 0; m < kCount; ++m) {
    const auto element = [&](int i) -> uint32_t {
      return transposed ? rows[8 * m + 2 * t + i].elements[g] : rows[8 * m + g].elements[2 * t + i];
    };
    words[m] = element(0) | element(1) << 16;
  }
#endif
}

template <bool transposed>
__device__ void load_matrices(uint32_t (&words)[4], const void* row) {
  load_matrices_at<transposed>(words, shared_address(row));
}

// d += a b with float32 sums, for numbers of type T.
template <class T>
__device__ void multiply_add(Accumulator& sums, const FragmentA& left, const FragmentB& right) {
  auto& d = sums.values;
  const auto& a = left.words;
  const auto& b = right.words;
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  float rows[8], columns[4];
  for (int i = 0; i < 8; ++i) rows[i] = to_float(T{uint16_t(a[i / 2] >> (16 * (i % 2)))});
  for (int i = 0; i < 4; ++i) columns[i] = to_float(T{uint16_t(b[i / 2] >> (16 * (i % 2)))});
  emulator::multiply_add(d, rows, columns);
#endif
}

// d += a b of bytes without sign, with int32 sums.
__device__ inline void multiply_add_bytes(IntegerAccumulator& sums, const FragmentA& left, const FragmentB& right) {
  auto& d = sums.values;
  const auto& a = left.words;
  const auto& b = right.words;
#if defined(__CUDACC__)
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::multiply_add(d, a, b);
#endif
}

// Starts to copy kBytes (4 or 16) from global to shared memory, both aligned to kBytes; only the first
// `valid` bytes are read, the rest become zero.
template <int kBytes>
__device__ void copy_async(void* shared, const void* global, int valid) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(kBytes), "r"(valid)
                 : "memory");
  }
#else
  emulator::copy_async(shared, global, kBytes, valid);
#endif
}

// Waits for the copies that this thread started. Others see them after the next barrier.
__device__ inline void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  emulator::wait_for_copies();
#endif
}

}  // namespace npr::cuda
