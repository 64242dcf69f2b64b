// Memory for large results: fresh pages, and the caches that it does not fit.
//
// The C library maps a large block anew for every result and unmaps it afterwards, so each run pays a page
// fault for every 4 KiB that it writes: more than the arithmetic costs. Asked for huge pages, Linux takes one
// fault for 2 MiB.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace npr::cpu {

// A hint, for memory that is about to be written; it changes nothing but the cost of the first touch.
inline void expect_writes(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t(1) << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHugePage - 1);
  if (data != nullptr && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Results of more bytes had better not go through the caches: a common share of the last level. Systems tell the
// whole machine's, which is many times as much as a process on it has.
constexpr size_t kCacheShare = size_t(32) << 20;

// Such a result begins at a multiple of a vector, of the widest one here.
constexpr uintptr_t kStreamAlignment = 64;

}  // namespace npr::cpu
