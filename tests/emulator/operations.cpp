// The operations of csrc/cuda on the emulator, for ctypes. Structures mirror kernels.h.
#include <string>

#include "cuda/kernels.h"

using namespace npr::cuda;

namespace {

// What a launcher said, as "kernel: error", or null.
const char* message(const Status& status) {
  static std::string text;
  if (status.ok()) return nullptr;
  text = std::string(status.step) + ": " + status.error;
  return text.c_str();
}

}  // namespace

extern "C" {

// An operation on a device whose properties were asked for before.
#define NPR_OPERATION(name, Parameters)                                                     \
  int64_t emulator_##name##_workspace(const Parameters* op, int multiprocessors) {          \
    return name##_workspace(*op, {multiprocessors});                                        \
  }                                                                                         \
  const char* emulator_##name(const Parameters* op, int multiprocessors, void* workspace) { \
    return message(name(*op, {multiprocessors}, workspace, nullptr));                       \
  }

const char* emulator_current_device(int* multiprocessors) {
  Device device{};
  const char* error = message(current_device(device));
  *multiprocessors = device.multiprocessors;
  return error;
}
const char* emulator_probe() { return message(probe()); }

NPR_OPERATION(conv_forward, ConvForward)
NPR_OPERATION(conv_backward, ConvBackward)
NPR_OPERATION(moments, Moments)
NPR_OPERATION(stem_forward, StemForward)
NPR_OPERATION(stem_backward, StemBackward)

}  // extern "C"
