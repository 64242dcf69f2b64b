// The plain kernels: of any number of channels and any residual, a thread or a block for each result.
//
// What the tensor-core kernels do not cover, images with other than 3 channels and arithmetic in float64, is rare; here
// counts that the code says what is computed. Of a weight's gradient, a block makes the sums of one kernel of 3x3.
#include "cuda/gradients.cuh"
#include "cuda/plain.cuh"
#include "cuda/weights.cuh"

namespace npr::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// The difference that a tap of a map reads for output (row, col), in the plane of one channel of one image.
__device__ int difference(const Images& images, const uint8_t* plane, Map map, int64_t row, int64_t col, int tap) {
  const Tap source = tap_source(map, tap);
  const int64_t cell_row = row + source.row, cell_col = col + source.col;
  if (cell_row < 0 || cell_col < 0 || cell_row >= images.rows() || cell_col >= images.cols()) return 0;
  const uint8_t* anchor = plane + kCell * cell_row * images.stride_h + kCell * cell_col * images.stride_w;
  const int64_t below = images.stride_h, right = images.stride_w;
  const int corner = int(anchor[below + right]);
  switch (source.difference) {
    case Difference::right: return int(anchor[right]) - int(anchor[0]);
    case Difference::below: return int(anchor[below]) - int(anchor[0]);
    case Difference::corner: return corner - int(anchor[0]);
    default: return int(anchor[0]) - int(anchor[right]) - int(anchor[below]) + corner;
  }
}

// weight . patch of output (row, col) of an image.
template <class Compute>
__device__ Compute convolve(const Source& source, const uint8_t* image, const Compute* weight, int64_t row, int64_t col,
                            Compute sum) {
  for (int number = 0; number < source.residual.maps; ++number) {
    const Map map = map_of(source.residual, number);
    for (int64_t c = 0; c < source.images.channels; ++c) {
      for (int tap = 0; tap < taps_of(map); ++tap) {
        sum += *weight++ * Compute(difference(source.images, image + c * source.images.stride_c, map, row, col, tap));
      }
    }
  }
  return sum;
}

template <class Compute, class T>
__device__ void store(T* out, int64_t i, Compute value) {
  if constexpr (std::is_same_v<Compute, T>) {
    out[i] = value;
  } else {
    out[i] = from_float<T>(value);
  }
}

// ---- Forward ---------------------------------------------------------------------------------------

template <class Compute, class T>
__global__ void __launch_bounds__(kThreads, 4)
    conv_forward_plain(Source source, PlainWeights<Compute> weights, int64_t outputs, bool channels_last, T* out) {
  const Images& images = source.images;
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * outputs * rows * cols;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    int64_t rest = i, output = 0;
    if (channels_last) output = rest % outputs, rest /= outputs;
    const int64_t col = rest % cols, row = rest / cols % rows;
    rest /= cols * rows;
    if (!channels_last) output = rest % outputs, rest /= outputs;
    const uint8_t* image = images.data + rest * images.stride_n;
    store(out, i, convolve(source, image, weights.folded + output * source.taps(), row, col, weights.shift[output]));
  }
}

// A warp takes one pooled position after the other, its lanes the outputs.
template <class Compute, class T>
__global__ void __launch_bounds__(kThreads, 4)
    stem_forward_plain(Source source, PlainWeights<Compute> weights, int64_t outputs, T* out, uint8_t* code) {
  const Images& images = source.images;
  const int64_t pooled_rows = pooled(images.rows()), pooled_cols = pooled(images.cols());
  const int64_t places = images.batch * pooled_rows * pooled_cols, step = int64_t(gridDim.x) * kWarps;
  for (int64_t place = int64_t(blockIdx.x) * kWarps + warp_index(); place < places; place += step) {
    const int64_t col = place % pooled_cols, line = place / pooled_cols, row = line % pooled_rows;
    const uint8_t* image = images.data + line / pooled_rows * images.stride_n;
    for (int64_t output = lane_index(); output < outputs; output += kWarp) {
      Compute largest = -INFINITY;
      int where = 0;
      for (int position = 0; position < kClosed; ++position) {
        const int64_t y = 2 * row - 1 + position / 3, x = 2 * col - 1 + position % 3;
        if (y < 0 || y >= images.rows() || x < 0 || x >= images.cols()) continue;
        const Compute sum = convolve(source, image, weights.folded + output * source.taps(), y, x, Compute(0));
        if (sum > largest || isnan(sum)) {
          largest = sum;
          where = position;
        }
      }
      const Compute normalised = largest + weights.shift[output];
      store(out, place * outputs + output, normalised <= 0 ? Compute(0) : normalised);
      if (code != nullptr) code[place * outputs + output] = normalised > 0 ? where : kClosed;
    }
  }
}

// `blocks` are as many as the work has.
template <class Op, class Launch>
Status fold_and_launch(const Op& op, Device device, int64_t blocks, void* workspace, Stream stream, Launch launch) {
  const auto run = [&](auto compute, auto result) {
    using Compute = decltype(compute);
    using T = decltype(result);
    const auto weights = PlainWeights<Compute>::at(workspace, op.outputs, op.source().taps());
    const Status prepared = prepare_weights(folding_of(op), op.channel_scale, weights, op.outputs, false, stream);
    if (!prepared.ok()) return prepared;
    return launch(weights, static_cast<T*>(op.out), persistent_blocks(blocks, device, 8));
  };
  switch (op.type) {
    case Type::f32: return run(float{}, float{});
    case Type::bf16: return run(float{}, BFloat{});
    case Type::f16: return run(float{}, Half{});
    default: return run(double{}, double{});
  }
}

// ---- Backward --------------------------------------------------------------------------------------

constexpr int kMostTaps = kPositions;

// Sums over a block of what each thread has for the taps of one kernel and for the bias, stored in sums[output][K + 1]:
// from `first` on, the bias by the first kernel.
__device__ void store_sums(const double (&values)[kMostTaps + 1], const Source& source, int64_t output, int64_t first,
                           int taps, double* sums) {
  __shared__ double threads[kMostTaps + 1][kThreads];
#pragma unroll
  for (int i = 0; i <= kMostTaps; ++i) threads[i][threadIdx.x] = values[i];
  __syncthreads();
  const int i = threadIdx.x;
  const bool bias = i == kMostTaps && first == 0;
  if (i >= taps && !bias) return;
  double sum = 0;
  for (double value : threads[i]) sum += value;
  sums[output * (source.taps() + 1) + (bias ? source.taps() : first + i)] = sum;
}

// What block (output, channel of the weight) adds up.
struct Kernel {
  Map map;
  int64_t output, channel, first;  // of the result, of the image, and its first tap

  __device__ explicit Kernel(const Source& source) : output(blockIdx.x) {
    const int number = blockIdx.y >= source.images.channels;
    map = map_of(source.residual, number);
    channel = blockIdx.y - number * source.images.channels;
    first = number * source.images.channels * taps_of(map_of(source.residual, 0)) + channel * taps_of(map);
  }

  __device__ void add(double (&sums)[kMostTaps + 1], double gradient, const Images& images, int64_t image, int64_t row,
                      int64_t col) const {
    const uint8_t* plane = images.data + image * images.stride_n + channel * images.stride_c;
#pragma unroll
    for (int tap = 0; tap < kMostTaps; ++tap) {
      if (tap < taps_of(map)) sums[tap] += gradient * difference(images, plane, map, row, col, tap);
    }
    sums[kMostTaps] += gradient;
  }
};

__device__ double load_gradient(const Gradient& grad, int64_t image, int64_t output, int64_t row, int64_t col) {
  return load_double({grad.data, grad.type},
                     image * grad.stride_n + output * grad.stride_o + row * grad.stride_h + col * grad.stride_w);
}

__global__ void __launch_bounds__(kThreads) conv_backward_plain(Source source, Gradient grad, double* sums) {
  const Kernel kernel(source);
  const Images& images = source.images;
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * rows * cols;
  double sum[kMostTaps + 1] = {};
  for (int64_t i = threadIdx.x; i < total; i += kThreads) {
    const int64_t col = i % cols, row = i / cols % rows, image = i / cols / rows;
    kernel.add(sum, load_gradient(grad, image, kernel.output, row, col), images, image, row, col);
  }
  store_sums(sum, source, kernel.output, kernel.first, taps_of(kernel.map), sums);
}

__global__ void __launch_bounds__(kThreads)
    stem_backward_plain(Source source, Gradient grad, const uint8_t* codes, int64_t outputs, double* sums) {
  const Kernel kernel(source);
  const Images& images = source.images;
  const int64_t rows = pooled(images.rows()), cols = pooled(images.cols()), total = images.batch * rows * cols;
  double sum[kMostTaps + 1] = {};
  for (int64_t i = threadIdx.x; i < total; i += kThreads) {
    const int code = codes[i * outputs + kernel.output];
    if (code == kClosed) continue;
    const int64_t col = i % cols, row = i / cols % rows, image = i / cols / rows;
    kernel.add(sum, load_gradient(grad, image, kernel.output, row, col), images, image, 2 * row - 1 + code / 3,
               2 * col - 1 + code % 3);
  }
  store_sums(sum, source, kernel.output, kernel.first, taps_of(kernel.map), sums);
}

dim3 kernels_of(const Source& source, int64_t outputs) {
  return dim3(unsigned(outputs), unsigned(source.weight_channels()));
}

// ---- Moments ---------------------------------------------------------------------------------------

// Block (k, l): the sum of d[k] d[l], and with l = taps the sum of d[k].
__global__ void __launch_bounds__(kThreads) moments_plain(Source source, int64_t* moments) {
  __shared__ int64_t threads[kThreads];
  const Images& images = source.images;
  const int k = blockIdx.x, l = blockIdx.y, taps = int(source.taps());
  const Element first = element(source, k), second = element(source, l < taps ? l : 0);
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * rows * cols;
  int64_t sum = 0;
  for (int64_t i = threadIdx.x; i < total; i += kThreads) {
    const int64_t col = i % cols, row = i / cols % rows;
    const uint8_t* image = images.data + i / cols / rows * images.stride_n;
    const auto d = [&](const Element& of) {
      return difference(images, image + of.channel * images.stride_c, of.map, row, col, of.tap);
    };
    sum += d(first) * (l < taps ? d(second) : 1);
  }
  threads[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads; ++i) sum += threads[i];
  moments[l < taps ? 1 + taps + int64_t(k) * taps + l : 1 + k] = sum;
  if (k == 0 && l == 0) moments[0] = total;
}

// A grid has at most 2^16 - 1 blocks in y: those of the taps, and one.
constexpr int64_t kMostTapsOfMoments = (1 << 16) - 2;
static_assert(kMostTapsOfMoments / taps_of(Map::npr) == 8191 && kMostTapsOfMoments / taps_of(Map::haar) == 7281);

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

Status conv_forward_plainly(const ConvForward& op, Device device, void* workspace, Stream stream) {
  const int64_t total = op.images.batch * op.outputs * op.images.rows() * op.images.cols();
  return fold_and_launch(op, device, ceil_div(total, kThreads), workspace, stream,
                         [&]<class Compute, class T>(const PlainWeights<Compute>& weights, T* out, unsigned blocks) {
                           return launch("conv_forward_plain", conv_forward_plain<Compute, T>, blocks, kThreads, stream,
                                         op.source(), weights, op.outputs, op.channels_last, out);
                         });
}

Status stem_forward_plainly(const StemForward& op, Device device, void* workspace, Stream stream) {
  const int64_t places = op.images.batch * pooled(op.images.rows()) * pooled(op.images.cols());
  return fold_and_launch(op, device, ceil_div(places, kWarps), workspace, stream,
                         [&]<class Compute, class T>(const PlainWeights<Compute>& weights, T* out, unsigned blocks) {
                           return launch("stem_forward_plain", stem_forward_plain<Compute, T>, blocks, kThreads, stream,
                                         op.source(), weights, op.outputs, out, op.code);
                         });
}

Status conv_backward_sums_plainly(const ConvBackward& op, double* sums, Stream stream) {
  return launch("conv_backward_plain", conv_backward_plain, kernels_of(op.source(), op.outputs), kThreads, stream,
                op.source(), op.grad, sums);
}

Status stem_backward_sums_plainly(const StemBackward& op, double* sums, Stream stream) {
  return launch("stem_backward_plain", stem_backward_plain, kernels_of(op.source(), op.outputs), kThreads, stream,
                op.source(), op.grad, op.code, op.outputs, sums);
}

Status moments_plainly(const Moments& op, Stream stream) {
  const int64_t taps = op.source().taps();
  if (taps > kMostTapsOfMoments) {
    static constexpr const char* kRefusals[] = {"images have more than 8191 channels",
                                                "images have more than 7281 channels",
                                                "images have more than 3854 channels"};
    static_assert(std::size(kRefusals) == std::size(kResiduals));
    return {"moments", kRefusals[op.residual]};
  }
  return launch("moments_plain", moments_plain, dim3(unsigned(taps), unsigned(taps) + 1), kThreads, stream, op.source(),
                op.moments);
}

}  // namespace npr::cuda
