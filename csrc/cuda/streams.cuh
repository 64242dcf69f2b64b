// Streams of bytes: what the moments are sums of products of, straight from the images.
//
// A plane has one byte of each cell of a row (planes.cuh). The bytes of a cell are, for each channel, its four pixels;
// where only its diagonal is read, two parts of that are fewer: diagonal = 4 high + low - 511, which of a cell of zeros
// are 127 and 3. A tensor core reads 16 neighbouring bytes at a time, from a boundary, so that for the cells to the
// left and to the right of an output there are planes of their own, one byte further. A stream is a plane in the row of
// an output's cell, or the one above or below: what it has beside an output is one element of a vector u, and the last
// element of u is 1. Each difference of the patch is a linear combination of u:
//
//     residual    cells (row, column): bytes of each channel                              elements
//     npr         (-1, -1): 2, (-1, 0): 3, (0, -1): 3, (0, 0): 4                          36 + 1
//     haar        all nine: high and low                                                  54 + 1
//     npr+haar    those four: 4, as haar reads them too; the other five: high and low     78 + 1
#pragma once

#include "cuda/slots.cuh"

namespace npr::cuda {

constexpr int kCellPixels = kCell * kCell;

// Bytes of a cell. The first four are pixel 2 y + x.
enum Part { kTopLeft, kTopRight, kBottomLeft, kBottomRight, kHigh, kLow };

// Of cells `col` beside those of the outputs, streams of the rows `first` to `last`, relative to the output's.
struct Plane {
  Part part;
  int col, first, last;
};

// Ordered so that what a row reads is a run of planes.
template <bool npr, bool haar>
inline constexpr Plane kPlanes[] = {
    {kTopLeft, -1, -1, 0}, {kTopRight, -1, -1, 0}, {kBottomLeft, -1, -1, 0}, {kBottomRight, -1, -1, 0},
    {kTopLeft, 0, -1, 0},  {kTopRight, 0, -1, 0},  {kBottomLeft, 0, -1, 0},  {kBottomRight, 0, -1, 0},
    {kHigh, 1, -1, 1},     {kLow, 1, -1, 1},       {kHigh, -1, 1, 1},        {kLow, -1, 1, 1},
    {kHigh, 0, 1, 1},      {kLow, 0, 1, 1},
};
template <>
inline constexpr Plane kPlanes<true, false>[] = {
    {kTopLeft, -1, -1, 0},    {kBottomRight, -1, -1, 0}, {kTopLeft, 0, -1, 0}, {kBottomLeft, 0, -1, 0},
    {kBottomRight, 0, -1, 0}, {kTopRight, -1, 0, 0},     {kTopRight, 0, 0, 0},
};
template <>
inline constexpr Plane kPlanes<false, true>[] = {
    {kHigh, -1, -1, 1}, {kLow, -1, -1, 1}, {kHigh, 0, -1, 1}, {kLow, 0, -1, 1}, {kHigh, 1, -1, 1}, {kLow, 1, -1, 1},
};

// What a pixel of its cell counts in a difference.
constexpr int coefficient(Difference difference, Part pixel) {
  if (difference == Difference::diagonal) return pixel == kTopLeft || pixel == kBottomRight ? 1 : -1;
  if (pixel == kTopLeft) return -1;
  return pixel == (difference == Difference::right   ? kTopRight
                   : difference == Difference::below ? kBottomLeft
                                                     : kBottomRight);
}

template <int kResidual>
struct Streams {
  using Taps = Slots<kResidual>;
  static constexpr auto& kList = kPlanes<Taps::kNpr, Taps::kHaar>;
  static constexpr int kOfChannel = std::size(kList), kOnesPlane = kChannels * kOfChannel, kCount = kOnesPlane + 1;
  static constexpr int kRows = 2 + Taps::kRead.below;  // of cells: above the output's, its own and perhaps below

  struct Stream {
    int row, plane;
  };
  // Stream number `stream`; those after the last are the last, the ones.
  static constexpr Stream at(int stream) {
    for (int row = -1; row < kRows - 1; ++row) {
      for (int i = 0; i < kOfChannel; ++i) {
        if (row < kList[i].first || row > kList[i].last) continue;
        if (stream < kChannels) return {row, kChannels * i + stream};
        stream -= kChannels;
      }
    }
    return {0, kOnesPlane};
  }
  static constexpr int kOne = [] {
    int count = 0;
    for (const Plane& plane : kList) count += kChannels * (plane.last - plane.first + 1);
    return count;
  }();
  static constexpr int kOctets = kOne / kOctet + 1;

  // The stream of a byte of the cell beside an output, or -1.
  static constexpr int number(Part part, int row, int col, int channel) {
    for (int stream = 0; stream < kOne; ++stream) {
      const auto [of_row, plane] = at(stream);
      const Plane& of = kList[plane / kChannels];
      if (of.part == part && of_row == row && of.col == col && plane % kChannels == channel) return stream;
    }
    return -1;
  }
};

// How the taps follow from the streams.
template <int kResidual>
struct Combinations {
  using S = Streams<kResidual>;
  static constexpr int kTaps = Slots<kResidual>::kTaps, kMost = 4;
  struct Term {
    int16_t stream, factor;  // 0 from the last one on
  };
  Term terms[kTaps + 1][kMost] = {};  // of each tap, and of the constant 1
  bool complete = true;

  constexpr Combinations() {
    for (int k = 0, m = 0; m < Slots<kResidual>::kRead.maps; ++m) {
      const Map map = Slots<kResidual>::kRead.map[m];
      for (int channel = 0; channel < kChannels; ++channel) {
        for (int tap = 0; tap < taps_of(map); ++tap, ++k) combine(terms[k], tap_source(map, tap), channel);
      }
    }
    terms[kTaps][0] = {S::kOne, 1};
  }

 private:
  constexpr void combine(Term (&to)[kMost], Tap tap, int channel) {
    int count = 0;
    const auto add = [&](int stream, int factor) {
      to[count++] = {int16_t(stream), int16_t(factor)};
      complete = complete && stream >= 0;
    };
    const auto number = [&](Part part) { return S::number(part, tap.row, tap.col, channel); };
    if (number(kHigh) >= 0) {
      add(number(kHigh), 4), add(number(kLow), 1), add(S::kOne, -511);
      complete = complete && tap.difference == Difference::diagonal;
    } else {
      for (Part pixel : {kTopLeft, kTopRight, kBottomLeft, kBottomRight}) {
        if (coefficient(tap.difference, pixel) != 0) add(number(pixel), coefficient(tap.difference, pixel));
      }
    }
  }
};
static_assert(Combinations<0>().complete && Combinations<1>().complete && Combinations<2>().complete);

}  // namespace npr::cuda
