// The peak that the other kernels' arithmetic is measured against: independent chains of vector multiply-adds, with
// nothing in memory.
#include "cpu/simd.h"

namespace npr::cpu::NPR_ISA {

namespace {
constexpr int kChains =
    12;  // latency times throughput of common processors; with the two operands, within 16 registers
volatile float sink;
}  // namespace

int64_t multiply_adds(int64_t steps) {
  Vec<float> chain[kChains];
  const Vec<float> factor = broadcast(0.999f), term = broadcast(0.001f);
  for (int i = 0; i < kChains; ++i) chain[i] = term * float(i);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + term;
  }
  for (int i = 1; i < kChains; ++i) chain[0] += chain[i];
  sink = chain[0][0];
  return steps * kChains * kLanes<float>;
}

}  // namespace npr::cpu::NPR_ISA
