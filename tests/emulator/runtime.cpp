// The emulator's runtime: fibres, barriers, the state of every byte, and the sanitizer's hooks.
// Compiled without instrumentation.
#include <link.h>
#include <sys/mman.h>

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "include/cuda_runtime.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {
namespace {

// ---- Fibres ----------------------------------------------------------------------------------------

// What a suspended fibre is resumed by.
#if defined(__x86_64__)

using Context = void*;  // its stack pointer, below the registers that a call preserves

extern "C" void emulator_switch(Context* from, Context to);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");

void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  // As if a call had pushed the entry's address, to which the first switch returns; the entry finds the
  // stack aligned as after a call.
  auto* top = reinterpret_cast<void**>(stack + bytes) - 2;
  *top = reinterpret_cast<void*>(entry);
  context = top - 6;
}

#else

using Context = ucontext_t;

void emulator_switch(Context* from, Context& to) { swapcontext(from, &to); }

void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

#endif

constexpr size_t kStackBytes = 128 << 10;
constexpr int kMaxThreads = 1024, kWarp = 32;

enum class State { ready, at_block_barrier, at_warp_operation, done };

struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
};

struct Thread {
  Context context;
  State state;
  std::vector<Copy> copies;
};

struct Warp {
  int arrived = 0;
  const void* operation = nullptr;  // that the lanes wait in
  int phase = 0;                    // of the buffer that the present operation fills
  alignas(16) char buffer[2][kWarp * 64];
  uint32_t last_barrier = 0;
};

// ---- The state of every byte -----------------------------------------------------------------------

// In place of one thread: several of different warps, or -2 - w: several of warp w.
constexpr int kSeveral = -1;

struct Record {
  int block = -1;  // none
  uint32_t time = 0;
  int16_t thread = 0;
};

struct Byte {
  Record write, read;
  bool written = false;
  bool in_flight = false;  // an asynchronous copy is on its way here
};

struct Region {
  const char* data = nullptr;
  size_t bytes = 0;
  bool writable = false, shared = false;
  std::vector<Byte> state;
  size_t first_touched = SIZE_MAX, last_touched = 0;  // since the block began, if shared

  // The states of bytes [offset, offset + n).
  Byte* touch(size_t offset, size_t n) {
    first_touched = std::min(first_touched, offset);
    last_touched = std::max(last_touched, offset + n);
    return &state[offset];
  }
  // Shared memory starts as it does on a device: with anything in it.
  void forget() {
    if (first_touched < last_touched) std::fill(&state[first_touched], &state[0] + last_touched, Byte{});
    first_touched = SIZE_MAX, last_touched = 0;
  }

  bool contains(const void* p, size_t n) const {
    const auto* c = static_cast<const char*>(p);
    return c >= data && c + n <= data + bytes;
  }
};

struct Runtime {
  std::vector<std::unique_ptr<Region>> regions;  // static shared memory first
  Region* last_region = nullptr;                 // that an access was found in
  std::vector<std::pair<const char*, const char*>> constants;
  const char* library = nullptr;  // where it is loaded
  std::string error;
  int multiprocessors = 3;
  std::string planted, failed;  // calls of the runtime: that is to fail; that failed
  bool failure = false;         // which is still the last error

  // The launch and block that run.
  bool running = false;
  void (*call)(const void*);
  const void* kernel;
  size_t kernel_bytes;
  dim3 grid, block, size;
  std::vector<uint4> dynamic_shared;
  int block_number;
  uint32_t time = 0, last_barrier = 0;
  char* stacks = nullptr;
  Context scheduler;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::deque<int> ready;
  int current = 0;
  const char* access = nullptr;  // the instruction after the access that is being checked
  int at_barrier = 0, done = 0;
  const char* barrier_file = nullptr;
  unsigned barrier_line = 0;
};

Runtime instance;
inline Runtime& runtime() { return instance; }

// Ends the launch with an error, from within a fibre or from the scheduler.
[[gnu::format(printf, 1, 2)]] void fail(const char* format, ...) {
  Runtime& r = runtime();
  char text[1024];
  int n = std::snprintf(text, sizeof text, "block (%u, %u), thread %d: ", r.block.x, r.block.y, r.current);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + n, sizeof text - n, format, arguments);
  va_end(arguments);
  if (!r.error.empty()) return;
  r.error = text;
  if (r.access != nullptr) {
    std::snprintf(text, sizeof text, " [+0x%zx]", size_t(r.access - 1 - r.library));
    r.error += text;
  }
}

void to_scheduler() {
  Runtime& r = runtime();
  emulator_switch(&r.threads[r.current].context, r.scheduler);
}

[[noreturn]] void abandon() {
  to_scheduler();  // which does not come back
  std::abort();
}

// The library's segments: read-only ones hold constants, writable ones static shared memory.
int find_segments(dl_phdr_info* info, size_t, void* self) {
  const auto inside = [&](const ElfW(Phdr) & segment, const void* p) {
    const auto begin = info->dlpi_addr + segment.p_vaddr, address = reinterpret_cast<ElfW(Addr)>(p);
    return segment.p_type == PT_LOAD && address >= begin && address < begin + segment.p_memsz;
  };
  bool mine = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) mine = mine || inside(info->dlpi_phdr[i], self);
  if (!mine) return 0;
  runtime().library = reinterpret_cast<char*>(info->dlpi_addr);
  // Writable while the library is loaded only: constants that hold addresses.
  char *relro_begin = nullptr, *relro_end = nullptr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_GNU_RELRO) continue;
    relro_begin = reinterpret_cast<char*>(info->dlpi_addr + segment.p_vaddr);
    relro_end = relro_begin + segment.p_memsz;
    runtime().constants.emplace_back(relro_begin, relro_end);
  }
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    char *begin = reinterpret_cast<char*>(info->dlpi_addr + segment.p_vaddr), *end = begin + segment.p_memsz;
    if (segment.p_flags & PF_W) {
      if (begin <= relro_begin && relro_end <= end) begin = relro_end;
      auto region = std::make_unique<Region>();
      region->data = begin;
      region->bytes = end - begin;
      region->writable = region->shared = true;
      region->state.resize(region->bytes);
      runtime().regions.push_back(std::move(region));
    } else {
      runtime().constants.emplace_back(begin, end);
    }
  }
  return 1;
}

void find_library() {
  if (runtime().constants.empty()) dl_iterate_phdr(find_segments, reinterpret_cast<void*>(&find_segments));
}

Region* find_region(const void* p, size_t bytes) {
  Runtime& r = runtime();
  if (r.last_region != nullptr && r.last_region->contains(p, bytes)) return r.last_region;
  for (const auto& region : r.regions) {
    if (region->contains(p, bytes)) return r.last_region = region.get();
  }
  return nullptr;
}

// Whether what `record` tells of happened before what this thread does now, in the sense of barriers.
bool ordered(const Record& record) {
  const Runtime& r = runtime();
  if (record.block < 0) return true;
  if (record.block != r.block_number) return false;
  if (record.thread == r.current || record.time < r.last_barrier) return true;
  const int warp = r.current / kWarp;
  const bool same_warp = record.thread >= 0 ? record.thread / kWarp == warp : record.thread == -2 - warp;
  return same_warp && record.time < r.warps[warp].last_barrier;
}

void note_read(Record& record) {
  const Runtime& r = runtime();
  const Record now{r.block_number, r.time, int16_t(r.current)};
  if (ordered(record)) {
    record = now;
  } else if (record.thread != r.current || record.block != r.block_number) {
    const int warp = r.current / kWarp;
    const int previous = record.thread >= 0 ? record.thread / kWarp : -2 - record.thread;
    const bool one_warp = record.block == r.block_number && previous == warp;
    record = {r.block_number, r.time, int16_t(one_warp ? -2 - warp : kSeveral)};
  }
}

const char* describe(const Region& region) { return region.shared ? "shared memory" : "a buffer"; }

void describe_race(const char* mine, const char* theirs, const Region& region, size_t offset, const Record& record) {
  if (record.block != runtime().block_number) {
    fail("race: %s byte %zu of %s that block %d %s", mine, offset, describe(region), record.block, theirs);
  } else if (record.thread < 0) {
    fail("race: %s byte %zu of %s that other threads %s without a barrier in between", mine, offset, describe(region),
         theirs);
  } else {
    fail("race: %s byte %zu of %s that thread %d %s without a barrier in between", mine, offset, describe(region),
         record.thread, theirs);
  }
}

bool on_stack(const void* p) {
  const Runtime& r = runtime();
  const char* stack = r.stacks + r.current * kStackBytes;
  const auto* c = static_cast<const char*>(p);
  return c >= stack && c < stack + kStackBytes;
}

// False after an error.
bool check_read(const void* p, size_t bytes) {
  if (on_stack(p)) return true;
  Region* region = find_region(p, bytes);
  if (region == nullptr) {
    const auto* c = static_cast<const char*>(p);
    const auto* arguments = static_cast<const char*>(runtime().kernel);
    if (c >= arguments && c + bytes <= arguments + runtime().kernel_bytes) return true;
    for (const auto& [begin, end] : runtime().constants) {
      if (c >= begin && c + bytes <= end) return true;
    }
    return fail("out of bounds: reads %zu bytes at %p, which is in no buffer", bytes, p), false;
  }
  const size_t offset = static_cast<const char*>(p) - region->data;
  Byte* state = region->touch(offset, bytes);
  for (size_t i = offset; i < offset + bytes; ++i) {
    Byte& byte = state[i - offset];
    if (byte.in_flight) {
      return fail("reads byte %zu of %s before the asynchronous copy to it was waited for", i, describe(*region)),
             false;
    }
    if (!byte.written) {
      return fail("uninitialised: reads byte %zu of %s, which nobody has written", i, describe(*region)), false;
    }
    if (!ordered(byte.write)) return describe_race("reads", "wrote", *region, i, byte.write), false;
    note_read(byte.read);
  }
  return true;
}

bool check_write(const void* p, size_t bytes, bool starts_copy = false) {
  if (on_stack(p)) return true;
  Region* region = find_region(p, bytes);
  if (region == nullptr) return fail("out of bounds: writes %zu bytes at %p, which is in no buffer", bytes, p), false;
  if (!region->writable) return fail("writes %zu bytes to an input", bytes), false;
  const Runtime& r = runtime();
  const size_t offset = static_cast<const char*>(p) - region->data;
  Byte* state = region->touch(offset, bytes);
  for (size_t i = offset; i < offset + bytes; ++i) {
    Byte& byte = state[i - offset];
    if (byte.in_flight) {
      return fail("writes byte %zu of %s while an asynchronous copy to it is on its way", i, describe(*region)), false;
    }
    if (!ordered(byte.write)) return describe_race("writes", "wrote", *region, i, byte.write), false;
    if (!ordered(byte.read)) return describe_race("writes", "read", *region, i, byte.read), false;
    byte.write = {r.block_number, r.time, int16_t(r.current)};
    byte.written = true;
    byte.in_flight = starts_copy;
  }
  return true;
}

// ---- Running a block -------------------------------------------------------------------------------

void run_thread() {
  Runtime& r = runtime();
  r.call(r.kernel);
  r.threads[r.current].state = State::done;
  ++r.done;
  abandon();
}

void release_block_barrier() {
  Runtime& r = runtime();
  r.at_barrier = 0;
  r.last_barrier = ++r.time;
  for (int i = 0; i < int(r.threads.size()); ++i) {
    r.threads[i].state = State::ready;
    r.ready.push_back(i);
  }
}

void run_block() {
  Runtime& r = runtime();
  const int count = int(r.size.x);
  for (const auto& region : r.regions) {
    if (region->shared) region->forget();
  }
  r.threads.assign(count, {});
  r.warps.assign(count / kWarp, {});
  r.ready.clear();
  r.at_barrier = r.done = 0;
  r.last_barrier = ++r.time;
  for (int i = 0; i < count; ++i) {
    make_context(r.threads[i].context, r.stacks + i * kStackBytes, kStackBytes, run_thread);
    r.ready.push_back(i);
  }
  while (r.done < count && r.error.empty()) {
    if (r.ready.empty()) {
      for (r.current = 0; r.threads[r.current].state == State::done; ++r.current) {
      }
      const bool at_block_barrier = r.at_barrier > 0;
      fail("divergence: %d of %d threads wait at a %s that the others do not reach%s%s", count - r.done, count,
           at_block_barrier ? "barrier" : "warp-wide operation", at_block_barrier ? ": " : "",
           at_block_barrier ? r.barrier_file : "");
      return;
    }
    r.current = r.ready.front();
    r.ready.pop_front();
    emulator_switch(&r.scheduler, r.threads[r.current].context);
  }
}

}  // namespace

// ---- Interface -------------------------------------------------------------------------------------

void add_buffer(void* data, size_t bytes, Access access) {
  find_library();
  if (bytes == 0) return;
  const bool output = access == Access::output;
  auto region = std::make_unique<Region>();
  region->data = static_cast<char*>(data);
  region->bytes = bytes;
  region->writable = output;
  region->state.resize(bytes);
  for (Byte& byte : region->state) byte.written = !output;
  if (output) std::memset(data, 0xff, bytes);
  runtime().regions.push_back(std::move(region));
}

void remove_buffer(const void* data) {
  runtime().last_region = nullptr;
  std::erase_if(runtime().regions, [=](const auto& region) { return !region->shared && region->data == data; });
}

void host_wrote(const void* data, size_t bytes) {
  Region* region = find_region(data, bytes);
  if (region == nullptr) return;
  Byte* state = &region->state[static_cast<const char*>(data) - region->data];
  for (size_t i = 0; i < bytes; ++i) state[i].written = true;
}

void clear() {
  auto& regions = runtime().regions;
  runtime().last_region = nullptr;
  std::erase_if(regions, [](const auto& region) { return !region->shared; });
  runtime().error.clear();
}

const char* error() { return runtime().error.empty() ? nullptr : runtime().error.c_str(); }

ptrdiff_t missing_store(const void* data) {
  for (const auto& region : runtime().regions) {
    if (region->data != data) continue;
    for (size_t i = 0; i < region->bytes; ++i) {
      if (!region->state[i].written) return i;
    }
  }
  return -1;
}

void set_multiprocessors(int count) { runtime().multiprocessors = count; }
int multiprocessors() { return runtime().multiprocessors; }

void plant_failure(const char* call) { runtime().planted = call == nullptr ? "" : call; }
bool planted(const char* call) {
  if (runtime().planted != call) return false;
  runtime().planted.clear();
  return true;
}
void call_failed(const char* call) {
  runtime().failed = std::string(call) + " failed";
  runtime().failure = true;
}
bool take_failure() { return std::exchange(runtime().failure, false); }
const char* failed_call() { return runtime().failed.c_str(); }

void launch(dim3 grid, unsigned threads, size_t shared, void (*call)(const void*), const void* kernel, size_t bytes) {
  Runtime& r = runtime();
  find_library();
  if (!r.error.empty()) return;
  if (threads % kWarp != 0 || shared % sizeof(uint4) != 0 || threads > kMaxThreads || threads == 0 || grid.y > 65535 ||
      grid.z != 1) {
    r.error = "invalid configuration argument";
    return;
  }
  if (r.stacks == nullptr) {
    r.stacks = static_cast<char*>(mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  for (const auto& region : r.regions) {
    for (Byte& byte : region->state) byte.write = byte.read = {};
  }
  r.call = call;
  r.kernel = kernel;
  r.kernel_bytes = bytes;
  r.dynamic_shared.assign(shared / sizeof(uint4), {});
  if (shared > 0) {
    auto region = std::make_unique<Region>();
    region->data = reinterpret_cast<char*>(r.dynamic_shared.data());
    region->bytes = shared;
    region->writable = region->shared = true;
    region->state.resize(shared);
    r.regions.insert(r.regions.begin(), std::move(region));
  }
  r.grid = grid;
  r.size = dim3(threads);
  r.running = true;
  r.access = nullptr;
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x && r.error.empty(); ++x) {
      r.block = dim3(x, y);
      r.block_number = int(y * grid.x + x);
      run_block();
    }
  }
  r.running = false;
  r.last_region = nullptr;
  if (shared > 0) r.regions.erase(r.regions.begin());
}

void* dynamic_shared() { return runtime().dynamic_shared.data(); }

dim3 thread_index() { return dim3(runtime().current, 0, 0); }
dim3 block_index() { return dim3(runtime().block.x, runtime().block.y, 0); }
dim3 block_size() { return runtime().size; }
dim3 grid_size() { return runtime().grid; }

void block_barrier(const char* file, unsigned line) {
  Runtime& r = runtime();
  if (r.at_barrier == 0) {
    r.barrier_file = file;
    r.barrier_line = line;
  } else if (line != r.barrier_line || std::strcmp(file, r.barrier_file) != 0) {
    fail("divergence: waits at the barrier of line %u while others wait at the one of line %u", line, r.barrier_line);
    abandon();
  }
  r.threads[r.current].state = State::at_block_barrier;
  if (++r.at_barrier == int(r.threads.size())) release_block_barrier();
  to_scheduler();
}

namespace {

// Every lane's value, one after the other, valid until this lane has been through the next two such operations.
const char* meet(const void* mine, size_t bytes, const void* operation) {
  Runtime& r = runtime();
  Warp& warp = r.warps[r.current / kWarp];
  if (warp.arrived == 0) {
    warp.operation = operation;
  } else if (warp.operation != operation) {
    fail("divergence: lanes of a warp wait in different warp-wide operations");
    abandon();
  }
  char* buffer = warp.buffer[warp.phase];
  std::memcpy(buffer + r.current % kWarp * bytes, mine, bytes);
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    warp.phase = !warp.phase;
    if (operation == nullptr) warp.last_barrier = ++r.time;
    const int first = r.current / kWarp * kWarp;
    for (int i = first; i < first + kWarp; ++i) {
      if (i == r.current) continue;
      r.threads[i].state = State::ready;
      r.ready.push_back(i);
    }
  } else {
    r.threads[r.current].state = State::at_warp_operation;
    to_scheduler();
  }
  return buffer;
}

}  // namespace

void exchange(const void* mine, void* all, size_t bytes, const void* operation) {
  std::memcpy(all, meet(mine, bytes, operation), kWarp * bytes);
}

void warp_barrier(unsigned mask) {
  if (mask != ~0u) {
    fail("barriers of part of a warp are not emulated");
    abandon();
  }
  const char nothing = 0;
  meet(&nothing, 1, nullptr);
}

void copy_async(void* shared, const void* global, int bytes, int valid) {
  if (valid < 0 || valid > bytes || reinterpret_cast<uintptr_t>(shared) % bytes ||
      reinterpret_cast<uintptr_t>(global) % bytes) {
    fail("misaligned or malformed asynchronous copy of %d of %d bytes", valid, bytes);
    abandon();
  }
  if ((valid > 0 && !check_read(global, valid)) || !check_write(shared, bytes, true)) abandon();
  Runtime& r = runtime();
  r.threads[r.current].copies.push_back({shared, global, bytes, valid});
}

void wait_for_copies() {
  Runtime& r = runtime();
  for (const Copy& copy : r.threads[r.current].copies) {
    std::memset(copy.to, 0, copy.bytes);
    std::memcpy(copy.to, copy.from, copy.valid);
    Region* region = find_region(copy.to, copy.bytes);
    for (int i = 0; i < copy.bytes; ++i) {
      Byte& byte = region->state[static_cast<char*>(copy.to) - region->data + i];
      byte.in_flight = false;
      byte.write.time = r.time;
    }
  }
  r.threads[r.current].copies.clear();
}

// ---- Numbers ---------------------------------------------------------------------------------------

uint16_t float_to_half(float value) { return std::bit_cast<uint16_t>(static_cast<_Float16>(value)); }

float half_to_float(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> floats(1 << 16);
    for (int i = 0; i < 1 << 16; ++i) floats[i] = static_cast<float>(std::bit_cast<_Float16>(uint16_t(i)));
    return floats;
  }();
  return table[bits];
}

uint16_t float_to_bfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float round_toward_zero(double value) {
  const auto nearest = static_cast<float>(value);
  return std::isfinite(value) && std::fabs(double(nearest)) > std::fabs(value) ? std::nextafter(nearest, 0.0f)
                                                                               : nearest;
}

void multiply_add(float (&d)[4], const float (&a)[8], const float (&b)[4]) {
  struct Operands {
    float a[8], b[4];
  } mine;
  static const char kMultiplyAdd = 0;
  std::copy_n(a, 8, mine.a);
  std::copy_n(b, 4, mine.b);
  const auto* all = reinterpret_cast<const Operands*>(meet(&mine, sizeof mine, &kMultiplyAdd));
  const int lane = runtime().current % kWarp, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int half_of_rows = i / 2, column = 2 * t + i % 2;
    for (int half_of_k = 0; half_of_k < 2; ++half_of_k) {
      double sum = d[i];
      for (int k = 0; k < 8; ++k) {
        const float* row = all[4 * g + k / 2].a + 4 * half_of_k + 2 * half_of_rows;
        const float* col = all[4 * column + k / 2].b + 2 * half_of_k;
        sum += double(row[k % 2]) * col[k % 2];
      }
      d[i] = round_toward_zero(sum);
    }
  }
}

void multiply_add(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine;
  static const char kMultiplyAdd = 0;
  std::copy_n(a, 4, mine.a);
  std::copy_n(b, 2, mine.b);
  const auto* all = reinterpret_cast<const Operands*>(meet(&mine, sizeof mine, &kMultiplyAdd));
  const int lane = runtime().current % kWarp, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int half_of_rows = i / 2, column = 2 * t + i % 2;
    uint32_t sum = d[i];
    for (int k = 0; k < 32; ++k) {
      const int half_of_k = k / 16, word = k % 16 / 4, shift = k % 4 * 8;
      const uint32_t row = all[4 * g + word].a[2 * half_of_k + half_of_rows] >> shift & 255;
      sum += row * (all[4 * column + word].b[half_of_k] >> shift & 255);
    }
    d[i] = int(sum);
  }
}

}  // namespace emulator

// ---- The sanitizer's hooks -------------------------------------------------------------------------

namespace {

template <bool write>
void on_access(const void* p, size_t bytes, const void* caller) {
  emulator::Runtime& r = emulator::runtime();
  if (!r.running) return;
  r.access = static_cast<const char*>(caller);
  const size_t alignment = std::min<size_t>(bytes & -bytes, 16);
  // A thread's variables are registers, and the host's compiler may read two of its words at once.
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0 && !emulator::on_stack(p)) {
    emulator::fail("misaligned: %s %zu bytes at %p", write ? "writes" : "reads", bytes, p);
    emulator::abandon();
  }
  if (!(write ? emulator::check_write(p, bytes) : emulator::check_read(p, bytes))) emulator::abandon();
  r.access = nullptr;
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define HOOK(name, write, bytes) \
  void __tsan_##name(void* p) { on_access<write>(p, bytes, __builtin_return_address(0)); }
#define HOOKS(bytes)                        \
  HOOK(read##bytes, false, bytes)           \
  HOOK(write##bytes, true, bytes)           \
  HOOK(unaligned_read##bytes, false, bytes) \
  HOOK(unaligned_write##bytes, true, bytes) \
  HOOK(volatile_read##bytes, false, bytes)  \
  HOOK(volatile_write##bytes, true, bytes)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS
#undef HOOK

void __tsan_read_range(void* p, size_t bytes) { on_access<false>(p, bytes, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { on_access<true>(p, bytes, __builtin_return_address(0)); }

}  // extern "C"
