// The emulator's interface for ctypes.
#include <cuda_runtime.h>

extern "C" {

void emulator_add_buffer(void* data, size_t bytes, bool output) {
  emulator::add_buffer(data, bytes, output ? emulator::Access::output : emulator::Access::input);
}
void emulator_clear() { emulator::clear(); }
ptrdiff_t emulator_missing_store(const void* data) { return emulator::missing_store(data); }
void emulator_plant_failure(const char* call) { emulator::plant_failure(call); }
void emulator_set_multiprocessors(int count) { emulator::set_multiprocessors(count); }

}  // extern "C"
