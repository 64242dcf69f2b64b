// A 3x3 convolution of stride 1 on a strip of rows, by Winograd's F(4x4, 3x3) and products of panels.
#pragma once

#include "cpu/panels.h"
#include "cpu/winograd.h"

namespace npr::cpu {
namespace {

constexpr int64_t kLine = 16;  // floats of a cache line: what lies one line off a power of two apart shares no sets

class Winograd {
 public:
  // For strips of at most so many rows and columns of outputs of so many images, of maps of so many channels.
  Winograd(int64_t rows, int64_t cols, int64_t inputs, int64_t images = 1)
      : tile_cols_(tiles(cols)), tiles_(images * tiles(rows) * tile_cols_), inputs_(inputs) {}

  // Columns, and rows, that the map of a strip has: whole tiles and one more on either side.
  static int64_t map_cols(int64_t cols) { return tiles(cols) * kTile + 2; }

  int64_t floats() const { return kPoints * (point_stride() + product_stride()); }
  void use(float* memory) { points_ = memory, products_ = memory + kPoints * point_stride(); }

  // Calls finish(row, col, output, value) for each output and vector of channels. The map's first element is the one
  // up and left of the first output; its rows and columns are so many floats apart. weight: [outputs / kPanel][kPoints]
  // [inputs][kPanel]. Of several images, the maps are so many floats apart, and their rows follow one another.
  template <class Finish>
  void run(const float* map, int64_t row_stride, int64_t col_stride, int64_t rows, int64_t cols, const float* weight,
           int64_t outputs, Finish finish, int64_t images = 1, int64_t image_stride = 0) {
    const int64_t each = tiles(rows) * tile_cols_, count = images * each;
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t row = tile % each / tile_cols_ * kTile, col = tile % tile_cols_ * kTile;
      const float* from = map + tile / each * image_stride + row * row_stride + col * col_stride;
      float* to = points_ + tile * inputs_;
      for (int64_t c = 0; c < inputs_; c += kLanes<float>) {
        winograd_tile_in(from + c, row_stride, col_stride, to + c, point_stride());
      }
    }
    for (int64_t output = 0; output < outputs; output += kPanel) {
      for (int point = 0; point < kPoints; ++point) {
        const Operand operand = {points_ + point * point_stride(), inputs_,
                                 weight + (output * kPoints + point * kPanel) * inputs_, 0, inputs_};
        float* to = products_ + point * product_stride();
        multiply_panels(count, &operand, 1, kPanel, nullptr,
                        [&](int64_t at, int64_t o, Vec<float> value) { store(to + at * kPanel + o, value); });
      }
      for (int64_t tile = 0; tile < count; ++tile) {
        const int64_t top = tile / each * rows, row = tile % each / tile_cols_ * kTile, col = tile % tile_cols_ * kTile;
        for (int64_t o = 0; o < kPanel; o += kLanes<float>) {
          winograd_tile_out(products_ + tile * kPanel + o, product_stride(), [&](int i, int j, Vec<float> value) {
            if (row + i < rows && col + j < cols) finish(top + row + i, col + j, output + o, value);
          });
        }
      }
    }
  }

 private:
  static constexpr int kPoints = Bottleneck::kPoints, kTile = Bottleneck::kTile;
  static int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }
  int64_t point_stride() const { return tiles_ * inputs_ + kLine; }
  int64_t product_stride() const { return tiles_ * kPanel + kLine; }

  const int64_t tile_cols_, tiles_, inputs_;
  float *points_ = nullptr, *products_ = nullptr;
};

}  // namespace
}  // namespace npr::cpu
