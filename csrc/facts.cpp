// Facts about the build and the processor, for reports and benchmarks: a pybind11 module, one for each Python. The ops
// know nothing of it and need none of it.
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"
#include "cpu/memory.h"

namespace {

namespace py = pybind11;

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

py::dict build_info() {
  py::dict info;
  info["compiler"] = kCompiler;
  info["torch"] = NPR_BUILD_TORCH;
  info["cuda"] = NPR_BUILD_CUDA;
  return info;
}

// Of the widest vectors here, whichever are in use. Several threads may do it at once.
int64_t multiply_adds(int64_t steps) {
  const npr::cpu::Supported& found = npr::cpu::supported();
  const py::gil_scoped_release others_may_run;
  return found.tables[found.count - 1]->multiply_adds(steps);
}

}  // namespace

PYBIND11_MODULE(_facts, m) {
  m.doc() = "Facts about the build of npr_kernels and the processor.";
  m.def("build_info", &build_info, "Compiler, torch and CUDA versions that it was built with; CUDA's empty for none.");
  m.attr("CACHE_SHARE") = npr::cpu::kCacheShare;  // larger results of npr.conv2d are written past the caches
  m.def("multiply_adds", &multiply_adds, py::arg("steps"),
        "Does float32 multiply-adds as fast as the processor can; returns their number.");
}
