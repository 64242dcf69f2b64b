// Operations that are wrong, for programs that are linked with them before the emulated kernels.
#include <cuda_runtime.h>

#include <cstring>

#include "cuda/kernels.h"

namespace npr::cuda {

// Nothing is written.
Status moments(const Moments&, Device, void*, Stream) { return {}; }

// A result of zeros alone.
Status conv_forward(const ConvForward& op, Device, void*, Stream) {
  const size_t bytes = op.images.batch * op.outputs * op.images.rows() * op.images.cols() * size_of(op.type);
  std::memset(op.out, 0, bytes);
  emulator::host_wrote(op.out, bytes);
  return {};
}

// The operation refuses.
Status conv_backward(const ConvBackward&, Device, void*, Stream) { return {"conv_backward", "\"planted\""}; }

}  // namespace npr::cuda
