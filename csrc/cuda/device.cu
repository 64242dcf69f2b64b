// The device that the kernels run on, and whether they can.
//
// The kernels are linked to a CUDA runtime of their own, so what torch's can do says nothing of it: a newer runtime
// than the driver serves, or a device without code among the targets, fails first when a kernel is loaded.
#include <cstdlib>
#include <cstring>

#include "cuda/launch.cuh"

namespace npr::cuda {
namespace {

__global__ void probe_kernel() {}

bool asked_to_wait() {
  const char* value = std::getenv("NPR_CUDA_SYNC");
  return value != nullptr && std::strcmp(value, "1") == 0;
}
const bool kWaits = asked_to_wait();  // as it was when the library was loaded

}  // namespace

Status current_device(Device& device) {
  int index = 0;
  const Status found = check("cudaGetDevice", cudaGetDevice(&index));
  if (!found.ok()) return found;
  return check("cudaDeviceGetAttribute",
               cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index));
}

bool waits_for_kernels() { return kWaits; }

Status probe() {
  cudaFuncAttributes attributes;
  return check("cudaFuncGetAttributes", cudaFuncGetAttributes(&attributes, probe_kernel));
}

void versions(int& runtime, int& driver) {
  if (!check("cudaRuntimeGetVersion", cudaRuntimeGetVersion(&runtime)).ok()) runtime = 0;
  if (!check("cudaDriverGetVersion", cudaDriverGetVersion(&driver)).ok()) driver = 0;
}

}  // namespace npr::cuda
