// The weights as the kernels multiply them: folded, and for the tensor cores split in float16 terms.
//
// One small kernel prepares them before each convolution: a warp folds the weights of one output
// channel with the scale of the differences and, for the stem, with batch normalisation,
//
//     w'[k] = w[k] channel_scale[q] factor      factor = gamma / sqrt(var + eps)
//     shift = bias                              shift  = beta - mean factor
//
// in double, by the batch statistics that follow from the patch moments where there are any:
// mean = w.M1 / N, var = w (M2 / N - M1 M1^T / N^2) w^T (stem_algebra.h).
#pragma once

#include "cuda/packed.cuh"

namespace npr::cuda {

constexpr int kMaxChannels = 384;  // of a weight: a table of them travels as a kernel parameter, limited to 4 KB

struct ChannelScale {
  double value[kMaxChannels];
};

inline ChannelScale channel_scale(const double* values, const Source& source) {
  ChannelScale scale{};
  std::copy_n(values, std::min<int64_t>(source.weight_channels(), kMaxChannels), scale.value);
  return scale;
}

inline Status check_channels(const Source& source) {
  if (source.weight_channels() <= kMaxChannels) return {};
  return {"prepare_weights", "the weight has more than 384 input channels"};
}

// Which difference number k of a patch is, and which channel of the weight multiplies it.
struct Element {
  Map map;
  int channel, tap;  // of the image, and of the map
  int weight_channel;
};

__device__ inline Map map_of(const Residual& residual, int number) {
  return number == 0 ? residual.map[0] : residual.map[1];
}

__device__ inline Element element(const Source& source, int k) {
  const int channels = int(source.images.channels), first_taps = channels * taps_of(source.residual.map[0]);
  const int number = k >= first_taps;
  const Map map = map_of(source.residual, number);
  if (number == 1) k -= first_taps;
  const int channel = k / taps_of(map);
  return {map, channel, k % taps_of(map), number * channels + channel};
}

// The weight's element that number k of a patch is multiplied by, of [outputs, Q, 3, 3].
__device__ inline int64_t weight_index(const Source& source, const Element& at, int64_t output) {
  return (output * source.weight_channels() + at.weight_channel) * kPositions + tap_position(at.map, at.tap);
}

__device__ inline double load_weight(const Array& weight, const ChannelScale& scale, const Source& source,
                                     int64_t output, int k) {
  const Element at = element(source, k);
  return load_double(weight, weight_index(source, at, output)) * scale.value[at.weight_channel];
}

// What the centre taps of an output channel that read zeros add: zero times each, which is NaN where one is not finite.
__device__ inline double centre_taps(const Array& weight, const Source& source, int64_t output) {
  double sum = 0;
  for (int map = 0; map < source.residual.maps; ++map) {
    if (!dead_centre(map_of(source.residual, map))) continue;
    for (int64_t c = 0; c < source.images.channels; ++c) {
      const int64_t kernel = output * source.weight_channels() + map * source.images.channels + c;
      sum += 0 * load_double(weight, kernel * kPositions + kPositions / 2);
    }
  }
  return sum;
}

// Sum over a warp, in the same order in every run; all lanes get it.
__device__ inline double warp_sum(double value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(~0u, value, distance);
  }
  return value;
}

// ---- Where the weights go --------------------------------------------------------------------------

// Of the plain kernels: [outputs][taps] and [outputs].
template <class T>
struct PlainWeights {
  T* folded;
  T* shift;

  static int64_t bytes(int64_t outputs, int64_t taps) { return outputs * (taps + 1) * sizeof(T); }
  static PlainWeights at(void* workspace, int64_t outputs, int64_t taps) {
    T* folded = static_cast<T*>(workspace);
    return {folded, folded + outputs * taps};
  }
};

// What either kind takes of a workspace.
inline int64_t weights_bytes(const Source& source, int64_t outputs) {
  return std::max(PackedWeights<2, 8>::bytes(outputs), PlainWeights<double>::bytes(outputs, source.taps()));
}
static_assert(PackedWeights<2, 8>::kOctets >= std::max(PackedWeights<0, 8>::kOctets, PackedWeights<1, 8>::kOctets));

// ---- The kernel ------------------------------------------------------------------------------------

// What is folded. Without `batch_norm`, bias; with it, the rest.
struct Folding {
  Source source;
  int64_t outputs;
  Array weight, bias;
  bool batch_norm;
  const int64_t* moments;
  Array bn_weight, bn_bias, mean, var;
  double eps;
  double *used_mean, *used_var;
};

inline Folding folding_of(const ConvForward& op) {
  Folding folding{};
  folding.source = op.source();
  folding.outputs = op.outputs;
  folding.weight = op.weight;
  folding.bias = op.bias;
  return folding;
}

inline Folding folding_of(const StemForward& op) {
  Folding folding{};
  folding.source = op.source();
  folding.outputs = op.outputs;
  folding.weight = op.weight;
  folding.batch_norm = true;
  folding.moments = op.moments;
  folding.bn_weight = op.bn_weight;
  folding.bn_bias = op.bn_bias;
  folding.mean = op.mean;
  folding.var = op.var;
  folding.eps = op.eps;
  folding.used_mean = op.used_mean;
  folding.used_var = op.used_var;
  return folding;
}

// Mean and variance of an output channel over the batch, from the moments of the patches.
__device__ inline void batch_statistics(const Folding& folding, const ChannelScale& scale, int64_t output, double& mean,
                                        double& var) {
  const int taps = int(folding.source.taps());
  const double count = double(folding.moments[0]);
  const int64_t *first = folding.moments + 1, *second = first + taps;
  double sum = 0, square = 0;
  for (int k = lane_index(); k < taps; k += kWarp) {
    const double weight = load_weight(folding.weight, scale, folding.source, output, k);
    double row = 0;
    for (int j = 0; j < taps; ++j) {
      // Of integers, hence exact, and zero for constant images.
      const __int128 covariance = __int128(folding.moments[0]) * second[k * taps + j] - __int128(first[k]) * first[j];
      row += double(covariance) / (count * count) * load_weight(folding.weight, scale, folding.source, output, j);
    }
    sum += weight * first[k];
    square += weight * row;
  }
  mean = warp_sum(sum) / count;
  square = warp_sum(square);
  var = square < 0 ? 0 : square;  // rounding can take a variance of zero below it; NaN stays
}

template <class T>
__device__ void store_weights(const PlainWeights<T>& to, const Folding& folding, const ChannelScale& scale,
                              int64_t output, double factor, double shift, bool) {
  if (output >= folding.outputs) return;
  const int taps = int(folding.source.taps());
  for (int k = lane_index(); k < taps; k += kWarp) {
    to.folded[output * taps + k] = T(load_weight(folding.weight, scale, folding.source, output, k) * factor);
  }
  if (lane_index() == 0) to.shift[output] = T(shift);
}

// A lane has every 32nd slot. Slots without a tap, and channels beyond the last, are zero.
//
// In the stem a sum must be a finite number, since keys (pooling.cuh) are made of its bits: a channel whose shift or
// one of whose weights is not finite sums up to one or minus one throughout, and is NaN or infinite by its unscale. So
// one infinite weight makes all of its channel NaN, as it does in training, where the variance is NaN.
template <int kResidual, int kRun>
__device__ void store_weights(const PackedWeights<kResidual, kRun>& to, const Folding& folding,
                              const ChannelScale& scale, int64_t output, double factor, double shift, bool fast) {
  using Octets = Slots<kResidual>;
  constexpr int kCount = int(ceil_div(Octets::kSlots, kWarp));
  double weight[kCount], largest = 0, zero = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int slot = lane_index() + i * kWarp, k = slot < Octets::kSlots ? Octets::tap(slot) : -1;
    const bool exists = output < folding.outputs && k >= 0;
    weight[i] = exists ? load_weight(folding.weight, scale, folding.source, output, k) * factor : 0.0;
    zero += 0 * weight[i];
  }
  const double beside = warp_sum(zero) + shift;  // the shift, or NaN
  const bool replaced = folding.batch_norm && !isfinite(beside);
  if (replaced) shift = beside < 0 ? -1 : 1;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (replaced) weight[i] = 0;
    largest = fmax(largest, fabs(weight[i]));
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    largest = fmax(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  // The largest weight becomes 2^13..2^14, so that the low term of one 2^-14 of it is still normal; beside a shift
  // 2^100 times as large, or at the end of float32's range, less of the weights will do.
  largest = fmax(largest, fmax(ldexp(fabs(shift), -100), ldexp(1.0, -113)));
  const int exponent = isfinite(largest) ? 13 - ilogb(largest) : 0;
  auto* halves = reinterpret_cast<Half*>(to.words) + output / kGroup * to.kGroupNumbers;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int slot = lane_index() + i * kWarp;
    if (slot >= Octets::kSlots) continue;
    const float scaled = float(ldexp(weight[i], exponent));
    const Half high = from_float<Half>(scaled);
    const bool one_term = fast || !isfinite(scaled);
    const Half low = one_term ? Half{0} : from_float<Half>(float(ldexp(weight[i], exponent) - to_float(high)));
    halves[to.index(output % kGroup, slot, Term::low)] = low;
    halves[to.index(output % kGroup, slot, Term::high)] = high;
  }
  if (lane_index() == 0) {
    to.unscale[output] = float(replaced && !(beside < 0) ? beside : ldexp(1.0, -exponent));
    to.shift[output] = float(shift);
    to.store_start(output, float(ldexp(shift, exponent)));
  }
}

// A warp per output channel, `padded` of them.
constexpr int kPrepareThreads = 128;

template <class To>
__global__ void __launch_bounds__(kPrepareThreads, 8)
    prepare_weights_kernel(Folding folding, ChannelScale scale, To to, int64_t padded, bool fast) {
  const int64_t output = int64_t(blockIdx.x) * (kPrepareThreads / kWarp) + warp_index();
  if (output >= padded) return;  // whole warps
  double factor = 1, shift = 0;
  if (output < folding.outputs) {
    const double centre = centre_taps(folding.weight, folding.source, output);
    if (folding.batch_norm) {
      double mean, var;
      if (folding.moments != nullptr) {
        batch_statistics(folding, scale, output, mean, var);
        mean += centre;
      } else {
        mean = load_double(folding.mean, output);
        var = load_double(folding.var, output);
      }
      if (folding.bn_weight.data != nullptr) factor = load_double(folding.bn_weight, output);
      if (folding.bn_bias.data != nullptr) shift = load_double(folding.bn_bias, output);
      factor /= sqrt(var + folding.eps);
      shift -= mean * factor;
      if (lane_index() == 0) {
        folding.used_mean[output] = mean;
        folding.used_var[output] = var;
      }
    } else if (folding.bias.data != nullptr) {
      shift = load_double(folding.bias, output);
    }
    shift += centre;
  }
  store_weights(to, folding, scale, output, factor, shift, fast);
}

template <class To>
Status prepare_weights(const Folding& folding, const double* scale, const To& to, int64_t padded, bool fast,
                       Stream stream) {
  const auto blocks = unsigned(ceil_div(padded, kPrepareThreads / kWarp));
  return launch("prepare_weights_kernel", prepare_weights_kernel<To>, blocks, kPrepareThreads, stream, folding,
                channel_scale(scale, folding.source), to, padded, fast);
}

}  // namespace npr::cuda
