// Multiply-adds a second of THREADS threads: independent chains of vector multiply-adds, nothing in memory.
// Prints the best of a few runs, in multiply-adds a second.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / sizeof(float);
constexpr int kChains = 12;  // latency times throughput of common processors, within 16 registers
constexpr long kSteps = 20'000'000;

typedef float Vector __attribute__((vector_size(kBytes)));

volatile float sink;

void multiply_add() {
  Vector chain[kChains], factor = {}, term = {};
  factor += 0.999f, term += 0.001f;
  for (int i = 0; i < kChains; ++i) chain[i] = term * float(i);
  for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + term;
  }
  for (int i = 1; i < kChains; ++i) chain[0] += chain[i];
  sink = chain[0][0];
}

int main(int, char** argv) {
  const int threads = std::atoi(argv[1]);
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) workers.emplace_back(multiply_add);
    for (auto& worker : workers) worker.join();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, double(threads) * kSteps * kChains * kLanes / time.count());
  }
  std::printf("%.6g\n", best);
}
