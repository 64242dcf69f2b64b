// Which instruction sets the processor supports, and which of their tables is in use.
#include <atomic>
#include <cstring>

#include "cpu/kernels.h"

#if defined(NPR_X86)
#include <cpuid.h>
#endif

namespace npr::cpu {

namespace baseline {
extern const Kernels table;
}
#if defined(NPR_X86)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
// The kernels that have instructions of their own there; the others are avx512's.
namespace avx512vnni {
void quantised_bottleneck(const QuantisedBottleneck&, int64_t first, int64_t last);
}
static const Kernels& avx512_with_vnni() {
  static const Kernels table = [] {
    Kernels kernels = avx512::table;
    kernels.name = "avx512vnni";
    kernels.quantised_bottleneck = avx512vnni::quantised_bottleneck;
    return kernels;
  }();
  return table;
}
#endif

#if defined(NPR_X86)
// Not every compiler knows its name. All processors with AVX2 have it, but a hypervisor may hide it.
static bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

const Supported& supported() {
  static const Supported found = [] {
    Supported list{{&baseline::table}, 1};
#if defined(NPR_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2) list.tables[list.count++] = &avx2::table;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      list.tables[list.count++] = &avx512::table;
      if (__builtin_cpu_supports("avx512vnni")) list.tables[list.count++] = &avx512_with_vnni();
    }
#endif
    return list;
  }();
  return found;
}

static std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> table{supported().tables[supported().count - 1]};
  return table;
}

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

bool select(const char* name) {
  for (int i = 0; i < supported().count; ++i) {
    if (std::strcmp(supported().tables[i]->name, name) == 0) {
      current().store(supported().tables[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace npr::cpu
