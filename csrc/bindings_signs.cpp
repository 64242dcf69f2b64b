// The bridge to PyTorch for the signs of how an image was made: profiles of second differences and textured cells, on
// torch's stable ABI.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "arguments.h"
#include "cpu/kernels.h"
#include "npr.h"

namespace {

using npr::Images;
using npr::ScalarType;
using npr::Tensor;

Images images_of(const Tensor& images, int64_t least) {
  STD_TORCH_CHECK(
      images.is_cpu() && images.dim() == 4 && images.size(1) == 3 && images.size(2) >= least && images.size(3) >= least,
      "npr: images must be uint8 [N, 3, H, W] on the CPU, of at least ", least, " rows and columns");
  return npr::images_of(images);
}

std::tuple<Tensor, Tensor> profiles_cpu(const Tensor& images) {
  const Images read = images_of(images, 3);
  const Tensor across = npr::empty({read.batch, read.width - 2}, ScalarType::Double, images);
  const Tensor down = npr::empty({read.batch, read.height - 2}, ScalarType::Double, images);
  const npr::cpu::Profiles p = {read, static_cast<double*>(across.data_ptr()), static_cast<double*>(down.data_ptr())};
  const auto kernel = npr::cpu::kernels().profiles;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  return {across, down};
}

Tensor textured_cells_cpu(const Tensor& images, int64_t step) {
  STD_TORCH_CHECK(step >= 1, "npr: step must be at least 1");
  const Images read = images_of(images, 2);
  const Tensor out = npr::empty({read.batch}, ScalarType::Long, images);
  const int64_t side = std::max(read.height, read.width);  // from here on, all steps are one beyond the image
  const npr::cpu::Texture p = {read, std::min(step, side), static_cast<int64_t*>(out.data_ptr())};
  const auto kernel = npr::cpu::kernels().texture;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(npr, m) {
  m.def("profiles(Tensor images) -> (Tensor, Tensor)");
  m.def("textured_cells(Tensor images, int step) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("profiles", TORCH_BOX(&profiles_cpu));
  m.impl("textured_cells", TORCH_BOX(&textured_cells_cpu));
}
