// The bridge to PyTorch for the coherence of the strength of detail, on torch's stable ABI.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "cpu/kernels.h"
#include "maps.h"
#include "npr.h"

namespace {

using npr::ScalarType;
using npr::Tensor;
using npr::cpu::Coherence;

Tensor coherence_cpu(const Tensor& images) {
  STD_TORCH_CHECK(images.dim() == 4 && images.scalar_type() == ScalarType::Byte && images.is_cpu() &&
                      images.size(1) == Coherence::kChannels,
                  "npr: images must be uint8 [N, 3, H, W]");
  Tensor out = torch::stable::empty({images.size(0), Coherence::kScales, Coherence::kDifferences, Coherence::kChannels,
                                     Coherence::kBlock, Coherence::kAcross},
                                    ScalarType::Float, std::nullopt, images.device(), std::nullopt, std::nullopt);
  const Coherence p = {{static_cast<const uint8_t*>(images.data_ptr()), images.size(0), images.size(1), images.size(2),
                        images.size(3), images.stride(0), images.stride(1), images.stride(2), images.stride(3)},
                       static_cast<float*>(out.data_ptr())};
  const auto kernel = npr::cpu::kernels().coherence;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(npr, m) { m.def("coherence(Tensor images) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) { m.impl("coherence", TORCH_BOX(&coherence_cpu)); }
