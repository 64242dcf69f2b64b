// A host implementation of the CUDA execution model, for proving kernels where there is no GPU.
//
// The kernels' own .cu files are compiled by a host compiler against these headers. A launch runs its
// blocks one after the other; the threads of a block are fibres that take turns where they wait for
// each other. Every access to memory is checked: the files are compiled with -fsanitize=thread, whose
// hooks (__tsan_read4 and so on) this runtime implements itself. It keeps, for every byte of shared
// memory and of the buffers given to a kernel, whether it was ever written, and who accessed it last
// and when. It reports as an error
//
//   - an access outside shared memory, the thread's stack and the registered buffers, and a write to
//     an input
//   - a read of a byte that nobody has written: in shared memory since the block began, in an output
//     or a workspace since it was registered
//   - a race: two accesses to a byte by different threads, one of them a write, with no barrier of the
//     block, or of the warp if they share it, in between; or by different blocks of a launch
//   - an access to the destination of an asynchronous copy that has not been waited for
//   - a barrier, shuffle, vote or warp-wide instruction that some threads do not reach
//
// After a launch, missing_store() finds output bytes that no thread wrote. The first error stops the
// launch and stands until clear().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

struct dim3;

namespace emulator {

// ---- For the tests ---------------------------------------------------------------------------------

enum class Access { input, output };

void add_buffer(void* data, size_t bytes, Access access);
void remove_buffer(const void* data);
void host_wrote(const void* data, size_t bytes);  // part of an output, before a launch
void clear();                                     // forgets buffers and the error
const char* error();                              // of the last launch, or null
ptrdiff_t missing_store(const void* data);        // first unwritten byte of a buffer, or -1
void set_multiprocessors(int count);              // of the device that persistent kernels see
void plant_failure(const char* call);             // the runtime's next call of this name fails; null: none does

// ---- For the kernels -------------------------------------------------------------------------------

void launch(dim3 grid, unsigned threads, size_t shared, void (*call)(const void*), const void* kernel, size_t bytes);

// `kernel` is a call of a kernel with its arguments, which are in it.
template <class Kernel>
void launch(dim3 grid, unsigned threads, size_t shared, const Kernel& kernel) {
  const auto call = [](const void* kernel) { (*static_cast<const Kernel*>(kernel))(); };
  launch(grid, threads, shared, call, &kernel, sizeof kernel);
}

int multiprocessors();

// A failed call of the runtime is its last error until that is taken, whatever succeeds in between.
bool planted(const char* call);  // and then no more
void call_failed(const char* call);
bool take_failure();
const char* failed_call();

dim3 thread_index();
dim3 block_index();
dim3 block_size();
dim3 grid_size();

void* dynamic_shared();
void block_barrier(const char* file, unsigned line);
void warp_barrier(unsigned mask);
void copy_async(void* shared, const void* global, int bytes, int valid);
void wait_for_copies();

// Every lane's value, for every lane of the warp. `operation` tells what the lanes do apart.
void exchange(const void* mine, void* all, size_t bytes, const void* operation);

template <class T>
inline constexpr char kOperation = 0;

template <class T>
std::array<T, 32> gather(const T& mine) {
  static_assert(sizeof(T) <= 64);
  const T copy = mine;
  std::array<T, 32> all;
  exchange(&copy, &all, sizeof(T), &kOperation<T>);
  return all;
}

uint16_t float_to_half(float value);
uint16_t float_to_bfloat(float value);
float half_to_float(uint16_t bits);

// mma.m16n8k16 on fragments whose two numbers a word are apart here. Products are exact; as tensor cores do, eight at
// a time are added to the sum at once, and the sum is cut off, not rounded, to float32.
void multiply_add(float (&d)[4], const float (&a)[8], const float (&b)[4]);

// mma.m16n8k32 of bytes without sign, four a word; sums wrap around, as without .satfinite.
void multiply_add(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace emulator
