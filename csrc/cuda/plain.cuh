// What covers the rest: images with other than 3 channels, and float64. One thread or block per result, no tensor
// cores.
#pragma once

#include "cuda/kernels.h"

namespace npr::cuda {

Status conv_forward_plainly(const ConvForward&, Device, void* workspace, Stream stream);
Status stem_forward_plainly(const StemForward&, Device, void* workspace, Stream stream);
Status moments_plainly(const Moments&, Stream stream);

// The sums of a backward pass, [outputs][K + 1] (gradients.cuh).
Status conv_backward_sums_plainly(const ConvBackward&, double* sums, Stream stream);
Status stem_backward_sums_plainly(const StemBackward&, double* sums, Stream stream);

}  // namespace npr::cuda
