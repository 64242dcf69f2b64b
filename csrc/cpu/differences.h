// Rows of cells: the differences of npr.h, read from the image once and kept for the rows of outputs
// that need them.
//
// A tap is a difference plane of one row of cells, shifted by at most one cell. So no patch matrix is
// built: a convolution row reads its 8 C taps through pointers into the planes of two rows of cells.
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

// Planes [channel][difference][cells] of one row of cells. Each plane has zeros before its first cell
// and, up to a whole register tile, after its last one: the padding, and what vectors read too far.
template <class T>
class CellRow {
 public:
  static constexpr int64_t kLead = 64 / sizeof(T);
  static constexpr int64_t kSlack = kTileVectors * kLanes<T>;

  static int64_t plane_size(const Images& images) {
    const int64_t size = kLead + images.cols() + kSlack;
    return (size + kLead - 1) / kLead * kLead;
  }
  static int64_t size(const Images& images) { return images.channels * kDifferences * plane_size(images); }

  CellRow(T* memory, const Images& images) : data_(memory), plane_(plane_size(images)) {}

  T* plane(int64_t channel, Difference difference) const {
    return data_ + (channel * kDifferences + int64_t(difference)) * plane_ + kLead;
  }
  void clear(const Images& images) const { std::memset(data_, 0, size(images) * sizeof(T)); }

 private:
  T* data_;
  int64_t plane_;
};

// StrideW is the distance of neighbouring pixels: 1 in NCHW, 3 in channels_last of RGB, 0 for any.
template <int StrideW, class T>
inline void subtract_anchors(const uint8_t* __restrict top, const uint8_t* __restrict bottom, int64_t stride,
                             T* __restrict right, T* __restrict below, T* __restrict corner, int64_t cells) {
  const int64_t step = StrideW ? StrideW : stride;
  for (int64_t x = 0; x < cells; ++x) {
    const int anchor = top[2 * x * step];
    right[x] = T(top[(2 * x + 1) * step] - anchor);
    below[x] = T(bottom[2 * x * step] - anchor);
    corner[x] = T(bottom[(2 * x + 1) * step] - anchor);
  }
}

// Fills the planes of cell row `by` of image n. The zeros around them are already there.
template <class T>
inline void load_cells(const Images& images, int64_t n, int64_t by, const CellRow<T>& row) {
  for (int64_t c = 0; c < images.channels; ++c) {
    const uint8_t* top = images.data + n * images.stride_n + c * images.stride_c + by * kCell * images.stride_h;
    const uint8_t* bottom = top + images.stride_h;
    T* right = row.plane(c, Difference::right);
    T* below = row.plane(c, Difference::below);
    T* corner = row.plane(c, Difference::corner);
    switch (images.stride_w) {
      case 1: subtract_anchors<1>(top, bottom, 1, right, below, corner, images.cols()); break;
      case 3: subtract_anchors<3>(top, bottom, 3, right, below, corner, images.cols()); break;
      default: subtract_anchors<0>(top, bottom, images.stride_w, right, below, corner, images.cols());
    }
  }
}

// The taps of the output row between the rows of cells `above` and `here`.
template <class T>
inline void tap_pointers(const Images& images, const CellRow<T>& above, const CellRow<T>& here, const T** taps) {
  for (int64_t c = 0; c < images.channels; ++c) {
    for (int t = 0; t < kTaps; ++t) {
      const Tap tap = tap_source(t);
      *taps++ = (tap.row < 0 ? above : here).plane(c, tap.difference) + tap.col;
    }
  }
}

// Walks over consecutive output rows, units of n * rows + oy, and keeps the rows of cells they read.
template <class T>
class RowWalk {
 public:
  explicit RowWalk(const Images& images)
      : images_(images),
        memory_(2 * CellRow<T>::size(images)),
        above_(memory_.get(), images),
        here_(memory_.get() + CellRow<T>::size(images), images) {
    above_.clear(images);
    here_.clear(images);
  }

  // Taps of output row `unit`; the row after the last one asked for costs one row of cells, others two.
  void taps(int64_t unit, const T** taps) {
    const int64_t n = unit / images_.rows(), oy = unit % images_.rows();
    if (unit == last_ + 1 && oy > 0) {
      std::swap(above_, here_);
    } else if (oy > 0) {
      load_cells(images_, n, oy - 1, above_);
    } else {
      above_.clear(images_);
    }
    load_cells(images_, n, oy, here_);
    tap_pointers(images_, above_, here_, taps);
    last_ = unit;
  }

 private:
  Images images_;
  Scratch<T> memory_;
  CellRow<T> above_, here_;
  int64_t last_ = -2;
};

// The taps of a block of up to kRows consecutive output rows at once, and with each row's taps one more
// whose difference is always 1: it stands for the bias, and counts positions.
template <class T>
class RowBlock {
 public:
  static constexpr int64_t kRows = 16;

  explicit RowBlock(const Images& images)
      : images_(images),
        cells_(CellRow<T>::size(images)),
        memory_((kRows + 2) * cells_),
        ones_(CellRow<T>::plane_size(images)),
        taps_(kRows * columns()) {
    for (int64_t i = 0; i < kRows + 2; ++i) row(i).clear(images);
    for (int64_t i = 0; i < CellRow<T>::plane_size(images); ++i) ones_.get()[i] = T(i < images.cols());
  }

  // Pointers per row: the taps, and the one.
  int64_t columns() const { return images_.taps() + 1; }

  // Loads output rows first .. last - 1, units of n * rows + oy. Slot 0 of the memory holds zeros, slot 1
  // the row of cells above the block, slot 2 + i that of the block's row i.
  void load(int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / images_.rows(), oy = unit % images_.rows(), i = unit - first;
      if (i == 0 && oy > 0) load_cells(images_, n, oy - 1, row(1));
      load_cells(images_, n, oy, row(2 + i));
      const T** taps = taps_.get() + i * columns();
      tap_pointers(images_, row(oy > 0 ? 1 + i : 0), row(2 + i), taps);
      taps[columns() - 1] = ones_.get();
    }
  }

  // The pointers of the block's row i, valid for cols() elements; beyond them comes what is not zero.
  const T* const* taps(int64_t i) const { return taps_.get() + i * columns(); }
  // 1 for the positions of a row, 0 beyond them.
  const T* ones() const { return ones_.get(); }

 private:
  Images images_;
  int64_t cells_;
  Scratch<T> memory_, ones_;
  Scratch<const T*> taps_;

  CellRow<T> row(int64_t slot) const { return {memory_.get() + slot * cells_, images_}; }
};

}  // namespace
}  // namespace npr::cpu
