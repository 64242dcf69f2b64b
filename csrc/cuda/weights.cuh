// The weights as the kernels multiply them: folded, and for the tensor cores split in float16 terms.
//
// One small kernel prepares them before each convolution: a warp folds the weights of one output
// channel with the scale of the differences and, for the stem, with batch normalisation,
//
//     w'[k] = w[k] channel_scale[c] factor      factor = gamma / sqrt(var + eps)
//     shift = bias                              shift  = beta - mean factor
//
// in double, by the batch statistics that follow from the patch moments where there are any:
// mean = w.M1 / N, var = w (M2 / N - M1 M1^T / N^2) w^T (stem_algebra.h).
#pragma once

#include "cuda/patches.cuh"

namespace npr::cuda {

constexpr int kMaxChannels = 384;  // a table of them travels as a kernel parameter, limited to 4 KB
constexpr int kPatch = kChannels * kTaps;

struct ChannelScale {
  double value[kMaxChannels];
};

inline ChannelScale channel_scale(const double* values, int64_t channels) {
  ChannelScale scale{};
  std::copy_n(values, std::min<int64_t>(channels, kMaxChannels), scale.value);
  return scale;
}

inline Status too_many_channels() { return {"prepare_weights", "images have more than 384 channels"}; }

__device__ inline double load_weight(const Array& weight, const ChannelScale& scale, int64_t channels, int64_t output,
                                     int k) {
  const int channel = k / kTaps;
  return load_double(weight, (output * channels + channel) * kKernel * kKernel + tap_position(Map::npr, k % kTaps)) *
         scale.value[channel];
}

// What the centre taps of an output channel add: zero times each, which is NaN where one is not finite.
__device__ inline double centre_taps(const Array& weight, int64_t channels, int64_t output) {
  double sum = 0;
  for (int64_t c = 0; c < channels; ++c) {
    sum += 0 * load_double(weight, (output * channels + c) * kPositions + kPositions / 2);
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

// Output channels are taken in groups of 32, four MMA tiles of eight, dealt out by spread().
constexpr int kGroup = 32;

// Of the tensor-core kernels. Float16 has 11 bits, so a weight, times a power of two of its output
// channel that makes the most of float16's range, is two terms: high + low, 22 bits. K is 48, three
// k16 steps, small products first (the stem's second step comes first):
//
//     step          k = 0..7              k = 8..15
//      0      low,  channel 0       low,  channel 1
//      1      low,  channel 2       high, channel 2
//      2      high, channel 0       high, channel 1
//
// One lane's words of a group, [step][tile][half of k], are contiguous; they are B fragments of tile
// after tile, or A fragments of two tiles.
struct PackedWeights {
  static constexpr int kSteps = 3, kTiles = kGroup / 8, kWords = kSteps * kTiles * 2;

  uint32_t* words;  // [groups][32 lanes][kWords]
  float* unscale;   // [groups * kGroup]: undoes the power of two
  float* shift;     // [groups * kGroup]
  float* start;     // [groups][4 lanes][kTiles][4]: shift / unscale as accumulators to start from, equal in g and g + 8

  static int64_t groups(int64_t outputs) { return 2 * ceil_div(outputs, 2 * kGroup); }  // kernels take them in pairs
  static int64_t bytes(int64_t outputs) { return groups(outputs) * (kWarp * kWords + 4 * kGroup) * 4; }
  static PackedWeights at(void* workspace, int64_t outputs) {
    uint32_t* words = static_cast<uint32_t*>(workspace);
    float* unscale = reinterpret_cast<float*>(words + groups(outputs) * kWarp * kWords);
    return {words, unscale, unscale + groups(outputs) * kGroup, unscale + 2 * groups(outputs) * kGroup};
  }

  // What this lane's accumulators of a tile start from.
  __device__ const float* start_of(int64_t group, int tile) const {
    return start + ((group * 4 + lane_index() % 4) * kTiles + tile) * 4;
  }
};

// The words of a group that this lane multiplies.
struct WeightFragments {
  uint32_t words[PackedWeights::kSteps][PackedWeights::kTiles][2];

  __device__ void load(const PackedWeights& weights, int64_t group) {
    const auto* from =
        reinterpret_cast<const uint4*>(weights.words) + (group * kWarp + lane_index()) * (PackedWeights::kWords / 4);
#pragma unroll
    for (int i = 0; i < PackedWeights::kWords / 4; ++i) {
      const uint4 four = from[i];
      const int step = i / 2, tile = i % 2 * 2;
      words[step][tile][0] = four.x;
      words[step][tile][1] = four.y;
      words[step][tile + 1][0] = four.z;
      words[step][tile + 1][1] = four.w;
    }
  }
};

// ---- The kernel ------------------------------------------------------------------------------------

// What is folded. Without `batch_norm`, bias; with it, the rest.
struct Folding {
  int64_t outputs, channels;
  Array weight, bias;
  bool batch_norm;
  const int64_t* moments;
  Array bn_weight, bn_bias, mean, var;
  double eps;
  double *used_mean, *used_var;

  NPR_HOST_DEVICE int taps() const { return int(channels) * kTaps; }
};

// Mean and variance of an output channel over the batch, from the moments of the patches.
__device__ inline void batch_statistics(const Folding& folding, const ChannelScale& scale, int64_t output, double& mean,
                                        double& var) {
  const int taps = folding.taps();
  const double count = double(folding.moments[0]);
  const int64_t *first = folding.moments + 1, *second = first + taps;
  double sum = 0, square = 0;
  for (int k = lane_index(); k < taps; k += kWarp) {
    const double weight = load_weight(folding.weight, scale, folding.channels, output, k);
    double row = 0;
    for (int j = 0; j < taps; ++j) {
      // Of integers, hence exact, and zero for constant images.
      const __int128 covariance = __int128(folding.moments[0]) * second[k * taps + j] - __int128(first[k]) * first[j];
      row += double(covariance) / (count * count) * load_weight(folding.weight, scale, folding.channels, output, j);
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
  for (int k = lane_index(); k < folding.taps(); k += kWarp) {
    to.folded[output * folding.taps() + k] =
        T(load_weight(folding.weight, scale, folding.channels, output, k) * factor);
  }
  if (lane_index() == 0) to.shift[output] = T(shift);
}

// Lane k holds tap k; `kRun` is as in spread(). Channels beyond the last are zero.
template <int kRun>
struct PackedWeightsOf : PackedWeights {};

template <int kRun>
__device__ void store_weights(const PackedWeightsOf<kRun>& to, const Folding& folding, const ChannelScale& scale,
                              int64_t output, double factor, double shift, bool fast) {
  const int k = lane_index();
  const bool exists = output < folding.outputs && k < kPatch;
  const double weight = exists ? load_weight(folding.weight, scale, folding.channels, output, k) * factor : 0.0;

  double largest = fabs(weight);
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    largest = fmax(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  // The largest weight becomes 2^13..2^14, so that the low term of one 2^-14 of it is still normal; beside a shift
  // 2^100 times as large, or at the end of float32's range, less of the weights will do.
  largest = fmax(largest, fmax(ldexp(fabs(shift), -100), ldexp(1.0, -113)));
  const int exponent = isfinite(largest) ? 13 - ilogb(largest) : 0;
  const float scaled = float(ldexp(weight, exponent));
  const Half high = from_float<Half>(scaled);
  const bool one_term = fast || !isfinite(scaled);
  const Half low = one_term ? Half{0} : from_float<Half>(float(ldexp(weight, exponent) - to_float(high)));

  const int in_group = output % kGroup, channel = k / kTaps, tap = k % kTaps;
  const int tile = in_group / (4 * kRun) * (kRun / 2) + in_group % kRun / 2;
  const int index = in_group % (4 * kRun) / kRun * 2 + in_group % 2;
  auto* halves = reinterpret_cast<Half*>(to.words) +
                 ((output / kGroup * kWarp + index * 4 + tap / 2) * PackedWeights::kWords) * 2 + tap % 2;
  const auto at = [&](int step, int half) -> Half& {
    return halves[((step * PackedWeights::kTiles + tile) * 2 + half) * 2];
  };
  if (channel < 2) {
    at(0, channel) = low;
    at(2, channel) = high;
  } else if (channel == 2) {
    at(1, 0) = low;
    at(1, 1) = high;
  }
  if (k == 0) {
    to.unscale[output] = float(ldexp(1.0, -exponent));
    to.shift[output] = float(shift);
    float* start = to.start + ((output / kGroup * 4 + index / 2) * PackedWeights::kTiles + tile) * 4 + index % 2;
    start[0] = start[2] = float(ldexp(shift, exponent));
  }
}

// A warp per output channel, `padded` of them.
constexpr int kPrepareThreads = 128;

template <class To>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_weights_kernel(Folding folding, ChannelScale scale, To to, int64_t padded, bool fast) {
  const int64_t output = int64_t(blockIdx.x) * (kPrepareThreads / kWarp) + warp_index();
  if (output >= padded) return;  // whole warps
  double factor = 1, shift = 0;
  if (output < folding.outputs) {
    const double centre = centre_taps(folding.weight, folding.channels, output);
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
Status prepare_weights(const Folding& folding, const ChannelScale& scale, const To& to, int64_t padded, bool fast,
                       Stream stream) {
  const auto blocks = unsigned(ceil_div(padded, kPrepareThreads / kWarp));
  return launch("prepare_weights_kernel", prepare_weights_kernel<To>, blocks, kPrepareThreads, stream, folding, scale,
                to, padded, fast);
}

template <int kRun>
Status prepare_packed(const Folding& folding, const ChannelScale& scale, const PackedWeights& to, bool fast,
                      Stream stream) {
  return prepare_weights(folding, scale, PackedWeightsOf<kRun>{to}, PackedWeights::groups(folding.outputs) * kGroup,
                         fast, stream);
}

template <class T>
Status prepare_plain(const Folding& folding, const ChannelScale& scale, const PlainWeights<T>& to, Stream stream) {
  return prepare_weights(folding, scale, to, folding.outputs, false, stream);
}

}  // namespace npr::cuda
