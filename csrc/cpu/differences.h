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

// The differences of one channel of a row of cells, whose pixels are `step` bytes apart.
template <class T>
inline void subtract_anchors(const uint8_t* __restrict top, const uint8_t* __restrict bottom, int64_t step,
                             T* __restrict right, T* __restrict below, T* __restrict corner, int64_t cells) {
  for (int64_t x = 0; x < cells; ++x) {
    const int anchor = top[2 * x * step];
    right[x] = T(top[(2 * x + 1) * step] - anchor);
    below[x] = T(bottom[2 * x * step] - anchor);
    corner[x] = T(bottom[(2 * x + 1) * step] - anchor);
  }
}

// Three interleaved channels, as channels_last images have them, each into a row of its own.
inline void deinterleave(const uint8_t* __restrict from, uint8_t* const* to, int64_t pixels) {
  int64_t x = 0;
#if defined(NPR_SHUFFLE) && (defined(__SSSE3__) || defined(__aarch64__))
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  typedef uint8_t UnalignedBytes __attribute__((vector_size(16), aligned(1), may_alias));
  for (; x + 16 <= pixels; x += 16) {
    const UnalignedBytes* source = reinterpret_cast<const UnalignedBytes*>(from + 3 * x);
    const Bytes a = source[0], b = source[1], c = source[2];
    const Bytes r = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
    const Bytes g = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0);
    const Bytes u = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0);
    *reinterpret_cast<UnalignedBytes*>(to[0] + x) =
        __builtin_shufflevector(r, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
    *reinterpret_cast<UnalignedBytes*>(to[1] + x) =
        __builtin_shufflevector(g, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30);
    *reinterpret_cast<UnalignedBytes*>(to[2] + x) =
        __builtin_shufflevector(u, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31);
  }
#endif
  for (; x < pixels; ++x) {
    for (int c = 0; c < 3; ++c) to[c][x] = from[3 * x + c];
  }
}

// Fills the planes of rows of cells from images of any strides.
template <class T>
class CellLoader {
 public:
  explicit CellLoader(const Images& images)
      : images_(images),
        interleaved_(images.channels == 3 && images.stride_c == 1 && images.stride_w == 3),
        rows_(interleaved_ ? 2 * 3 * width() : 0) {}

  // Cell row `by` of image n. The zeros around the planes are already there.
  void load(int64_t n, int64_t by, const CellRow<T>& row) const {
    const uint8_t* pixels = images_.data + n * images_.stride_n + by * kCell * images_.stride_h;
    if (interleaved_) {
      uint8_t* top[3] = {rows_.get(), rows_.get() + width(), rows_.get() + 2 * width()};
      uint8_t* bottom[3] = {top[0] + 3 * width(), top[1] + 3 * width(), top[2] + 3 * width()};
      deinterleave(pixels, top, width());
      deinterleave(pixels + images_.stride_h, bottom, width());
      for (int c = 0; c < 3; ++c) subtract(top[c], bottom[c], 1, c, row);
      return;
    }
    for (int64_t c = 0; c < images_.channels; ++c, pixels += images_.stride_c) {
      subtract(pixels, pixels + images_.stride_h, images_.stride_w, c, row);
    }
  }

 private:
  Images images_;
  bool interleaved_;
  Scratch<uint8_t> rows_;  // [2][3][width()]

  int64_t width() const { return kCell * images_.cols(); }

  void subtract(const uint8_t* top, const uint8_t* bottom, int64_t step, int64_t channel, const CellRow<T>& row) const {
    T* right = row.plane(channel, Difference::right);
    T* below = row.plane(channel, Difference::below);
    T* corner = row.plane(channel, Difference::corner);
    if (step == 1) {
      subtract_anchors(top, bottom, 1, right, below, corner, images_.cols());
    } else {
      subtract_anchors(top, bottom, step, right, below, corner, images_.cols());
    }
  }
};

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
        loader_(images),
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
      loader_.load(n, oy - 1, above_);
    } else {
      above_.clear(images_);
    }
    loader_.load(n, oy, here_);
    tap_pointers(images_, above_, here_, taps);
    last_ = unit;
  }

 private:
  Images images_;
  CellLoader<T> loader_;
  Scratch<T> memory_;
  CellRow<T> above_, here_;
  int64_t last_ = -2;
};

// The taps of a block of up to kRows consecutive output rows at once, and with each row's taps one more
// whose difference is always 1: it stands for the bias, and counts positions.
template <class T>
class RowBlock {
 public:
  static constexpr int64_t kRows = ConvBackward::kBlockRows;

  explicit RowBlock(const Images& images)
      : images_(images),
        loader_(images),
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
      if (i == 0 && oy > 0) loader_.load(n, oy - 1, row(1));
      loader_.load(n, oy, row(2 + i));
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
  CellLoader<T> loader_;
  int64_t cells_;
  Scratch<T> memory_, ones_;
  Scratch<const T*> taps_;

  CellRow<T> row(int64_t slot) const { return {memory_.get() + slot * cells_, images_}; }
};

}  // namespace
}  // namespace npr::cpu
