// Strips of a residual block's maps in training: how they lie in the workspace, and what is read into them and summed
// up.
#pragma once

#include "cpu/strip_winograd.h"

namespace npr::cpu {
namespace {

typedef float Half __attribute__((vector_size(NPR_VECTOR_BYTES / 2), aligned(alignof(float)), may_alias));

inline Vec<double> load_double(const float* from) {
  return __builtin_convertvector(*reinterpret_cast<const Half*>(from), Vec<double>);
}

// A strip of a map in the workspace: positions are a cache line more than their channels apart, so that the same
// channels of many positions fit the first-level cache together.
struct Map {
  float* at;
  int64_t rows, cols, channels;

  int64_t step() const { return channels + kLine; }
  int64_t floats() const { return rows * cols * step(); }
  float* position(int64_t row, int64_t col) const { return at + (row * cols + col) * step(); }
  Map image(int64_t i) const { return {at + i * floats(), rows, cols, channels}; }  // the i-th of as many, one by one
};

// sums[c] += sum of a, sums[channels + c] += sum of a * b.
void add_sums(const float* a, int64_t a_step, const float* b, int64_t b_step, int64_t positions, int64_t channels,
              double* sums) {
  constexpr int kVectors = 4;
  constexpr int64_t kLanesTwice = kLanes<double>;
  for (int64_t c = 0; c < channels; c += kVectors * kLanesTwice) {
    Vec<double> sum[kVectors], product[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[v] = load(sums + c + v * kLanesTwice);
      product[v] = load(sums + channels + c + v * kLanesTwice);
    }
    for (int64_t i = 0; i < positions; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec<double> value = load_double(a + i * a_step + c + v * kLanesTwice);
        sum[v] += value;
        product[v] += value * load_double(b + i * b_step + c + v * kLanesTwice);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store(sums + c + v * kLanesTwice, sum[v]);
      store(sums + channels + c + v * kLanesTwice, product[v]);
    }
  }
}

// NaN goes through, which inference's does not let: a training that diverges is to show it.
inline Vec<float> rectify(Vec<float> value) { return maximum(Vec<float>{}, value); }

inline Vec<float> where_open(const float* gate, Vec<float> value) {
  return load(gate) <= Vec<float>{} ? Vec<float>{} : value;
}

// Gates of kGates channels in a row: bit i of the first kLanes<float> is that of lane i.
constexpr int kGates = BlockEnd::kGates;
static_assert(kGates == TrainedConv::kPanel && kGates % kLanes<float> == 0, "gates of whole vectors, no channel left");

// A bit for each value that ReLU lets through, which it does with NaN.
inline uint32_t open_gates(Vec<float> value) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(value, Vec<float>{}, _CMP_NLE_UQ);
#elif defined(__AVX__)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(value, Vec<float>{}, _CMP_NLE_UQ)));
#elif defined(__SSE__)
  return uint32_t(_mm_movemask_ps(_mm_cmpnle_ps(value, Vec<float>{})));
#else
  uint32_t gates = 0;
  for (int i = 0; i < kLanes<float>; ++i) gates |= uint32_t(!(value[i] <= 0)) << i;
  return gates;
#endif
}

// The value where the gate is open, 0 elsewhere; higher bits are ignored.
inline Vec<float> where_open(uint32_t gates, Vec<float> value) {
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(__mmask16(gates), value);
#else
  Vec<int32_t> bits;
  for (int i = 0; i < kLanes<float>; ++i) bits[i] = 1 << i;
  return (Vec<float>)((Vec<int32_t>)value & ((broadcast(int32_t(gates)) & bits) == bits));
#endif
}

// What a convolution reads of x: x at every x_step, rectified after its batch norm, or as it is.
void read_input(const TrainedConv& p, const float* x, int64_t x_step, int64_t positions, float* to, int64_t step) {
  for (int64_t i = 0; i < positions; ++i, x += x_step, to += step) {
    if (p.scale == nullptr) {
      std::memcpy(to, x, p.inputs * sizeof(float));
    } else {
      for (int64_t c = 0; c < p.inputs; c += kLanes<float>) {
        store(to + c, rectify(load(p.scale + c) * load(x + c) + load(p.shift + c)));
      }
    }
  }
}

// The gradient of y at positions one after the other.
void read_gradient(const TrainedConvBackward& p, int64_t first, int64_t positions, float* to, int64_t step) {
  const float *grad = p.grad + first * p.outputs, *y = p.y + first * p.outputs;
  const uint32_t* gate = p.gate == nullptr ? nullptr : p.gate + first * p.outputs / kGates;
  for (int64_t i = 0; i < positions; ++i, to += step, grad += p.outputs, y += p.outputs) {
    for (int64_t c = 0; c < p.outputs; c += kGates) {
      const uint32_t gates = gate == nullptr ? ~uint32_t(0) : *gate++;
#pragma GCC unroll 8
      for (int k = 0; k < kGates; k += kLanes<float>) {
        const Vec<float> dz = where_open(gates >> k, load(grad + c + k));
        store(to + c + k,
              load(p.slope + c + k) * dz + load(p.slant + c + k) * load(y + c + k) + load(p.offset + c + k));
      }
    }
  }
}

// Output rows of an image, or all of those of several.
struct Strip {
  int64_t n, images;     // the first image, and their number
  int64_t first, count;  // rows

  int64_t rows() const { return images * count; }
};

// Calls run(strip) for those of a unit.
template <class Run>
void for_each_strip(const TrainedConv& p, int64_t unit, Run run) {
  const int64_t last = min((unit + 1) * p.unit(), p.strips());
  for (int64_t strip = unit * p.unit(); strip < last; ++strip) {
    const int64_t n = strip / p.image_strips() * p.strip_images(), first = strip % p.image_strips() * p.strip();
    run(Strip{n, min(p.strip_images(), p.batch - n), first, min(p.strip(), p.out_rows() - first)});
  }
}

// Fills a map with rows from `top` on of an image of so many rows and columns, `left` columns of zeros before them;
// read(row, to) writes a row.
template <class Read>
void fill(const Map& map, int64_t top, int64_t image_rows, int64_t left, int64_t image_cols, Read read) {
  for (int64_t row = 0; row < map.rows; ++row) {
    float* to = map.position(row, 0);
    const bool inside = top + row >= 0 && top + row < image_rows;
    const int64_t from = inside ? left + image_cols : 0;  // where zeros go on
    if (inside) {
      std::memset(to, 0, left * map.step() * sizeof(float));
      read(top + row, to + left * map.step());
    }
    std::memset(to + from * map.step(), 0, (map.cols - from) * map.step() * sizeof(float));
  }
}

// The rows of x that a 3x3 convolution reads.
void fill_input(const TrainedConv& p, const Map& map, const Strip& strip) {
  for (int64_t i = 0; i < strip.images; ++i) {
    fill(map.image(i), strip.first * p.stride - 1, p.rows, 1, p.cols, [&](int64_t row, float* to) {
      read_input(p, p.x + ((strip.n + i) * p.rows + row) * p.cols * p.inputs, p.inputs, p.cols, to, map.step());
    });
  }
}

// What a 1x1 convolution reads, position for position.
void fill_positions(const TrainedConv& p, const Map& map, const Strip& strip) {
  for (int64_t row = 0; row < strip.rows(); ++row) {
    const int64_t n = strip.n + row / strip.count, from = (strip.first + row % strip.count) * p.stride;
    read_input(p, p.x + (n * p.rows + from) * p.cols * p.inputs, p.stride * p.inputs, map.cols, map.position(row, 0),
               map.step());
  }
}

// The map that the largest strip reads.
Map input_map(const TrainedConv& p) {
  if (!p.spatial) return {nullptr, p.strip(), p.out_cols(), p.inputs};
  const int64_t cols = p.winograd() ? Winograd::map_cols(p.out_cols()) : p.cols + 2;
  return {nullptr, (p.strip() - 1) * p.stride + 3, cols, p.inputs};
}

}  // namespace
}  // namespace npr::cpu
