// Products of positions and panels of weights: what every convolution of the network's body comes down to.
//
// A panel is [depth][kPanel], a strip of a weight matrix that many positions are multiplied with while it is in the
// cache. Positions are rows of channels, at equal distances; a register tile is a group of them times two vectors of
// outputs. Every output is one chain of multiply-adds in the order of the operands and their depth, whatever group it
// falls in: results do not depend on how positions are divided.
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

constexpr int64_t kPanel = Bottleneck::kPanel;
constexpr int kPanelVectors = 2;  // of a register tile
constexpr int64_t kTileOutputs = kPanelVectors * kLanes<float>;

// Positions of a register tile: the accumulators, a tile's weights and one broadcast fill the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kGroup = 14;
#else
constexpr int kGroup = 6;
#endif

struct Operand {
  const float* at;      // the first position's channels
  int64_t stride;       // between positions
  const float* weight;  // of the first panel, [depth][kPanel]
  int64_t panel;        // between panels
  int64_t depth;
};

template <int P>
using Tile = Vec<float>[P][kPanelVectors];

// tile[i][j] += sum_k at[i * stride + k * step] * weight[k * pitch + j]
template <int P>
inline void accumulate(const float* at, int64_t stride, const float* weight, int64_t depth, Tile<P>& tile,
                       int64_t step = 1, int64_t pitch = kPanel) {
  for (int64_t k = 0; k < depth; ++k, weight += pitch) {
    Vec<float> w[kPanelVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) w[j] = load(weight + j * kLanes<float>);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      const Vec<float> a = broadcast(at[i * stride + k * step]);
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) tile[i][j] += a * w[j];
    }
  }
}

// Calls finish(position, output, value) for each vector of outputs of a row of positions: bias + sum over operands. A
// group of positions meets all panels before the next one: it is read once, and what it gives is written in one place.
template <class Finish>
inline void multiply_panels(int64_t positions, const Operand* operands, int count, int64_t outputs, const float* bias,
                            Finish finish) {
  const int64_t groups = (positions + kGroup - 1) / kGroup;
  for (int64_t group = 0, first = 0; group < groups; ++group) {
    const int64_t last = (group + 1) * positions / groups;
    with_constant<kGroup>(int(last - first), [&](auto size) {
      constexpr int P = decltype(size)::value;
      for (int64_t output = 0; output < outputs; output += kTileOutputs) {
        Tile<P> tile;
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
          for (int j = 0; j < kPanelVectors; ++j) {
            tile[i][j] = bias != nullptr ? load(bias + output + j * kLanes<float>) : Vec<float>{};
          }
        }
        for (int o = 0; o < count; ++o) {
          const Operand& from = operands[o];
          const float* weight = from.weight + output / kPanel * from.panel + output % kPanel;
          accumulate<P>(from.at + first * from.stride, from.stride, weight, from.depth, tile);
        }
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
          for (int j = 0; j < kPanelVectors; ++j) finish(first + i, output + j * kLanes<float>, tile[i][j]);
        }
      }
    });
    first = last;
  }
}

inline Vec<float> relu(Vec<float> value) { return maximum(value, Vec<float>{}); }

}  // namespace
}  // namespace npr::cpu
