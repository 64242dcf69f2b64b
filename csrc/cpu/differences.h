// Rows of cells: the differences of npr.h, read from the image once and kept for the rows of outputs
// that need them.
//
// A tap is a difference plane of one row of cells, shifted by at most one cell. So no patch matrix is
// built: a convolution row reads its taps through pointers into the planes of two or three rows of cells.
#pragma once

#include "cpu/pixels.h"
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
  // Taps of the cell to the right reach one cell further than the last vector, and than the stem's last tile.
  static_assert(kSlack >= kLanes<T> && kSlack >= kTileRows - 2);

  static int64_t plane_size(const Source& source) {
    const int64_t size = kLead + source.images.cols() + kSlack;
    return (size + kLead - 1) / kLead * kLead;
  }
  static int64_t size(const Source& source) {
    return source.images.channels * planes(source.residual) * plane_size(source);
  }

  CellRow() = default;
  CellRow(T* memory, const Source& source)
      : data_(memory), plane_(plane_size(source)), planes_(planes(source.residual)), first_(source.residual.first) {}

  T* data() const { return data_; }
  // Where a plane's first cell lies in the data.
  int64_t offset(int64_t channel, Difference difference) const {
    return (channel * planes_ + int64_t(difference) - first_) * plane_ + kLead;
  }
  T* plane(int64_t channel, Difference difference) const { return data_ + offset(channel, difference); }
  void clear(const Source& source) const { std::memset(data_, 0, size(source) * sizeof(T)); }

 private:
  T* data_ = nullptr;
  int64_t plane_ = 0, planes_ = 0, first_ = 0;

  static int64_t planes(const Residual& residual) { return residual.last - residual.first + 1; }
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
template <class T>
inline void subtract_diagonals(const uint8_t* __restrict top, const uint8_t* __restrict bottom, int64_t step,
                               T* __restrict diagonal, int64_t cells) {
  for (int64_t x = 0; x < cells; ++x) {
    const int upper = top[2 * x * step] - top[(2 * x + 1) * step];
    diagonal[x] = T(upper - bottom[2 * x * step] + bottom[(2 * x + 1) * step]);
  }
}

// Fills the planes of rows of cells from images of any strides.
template <class T>
class CellLoader {
 public:
  explicit CellLoader(const Source& source)
      : source_(source),
        interleaved_(images().channels == 3 && images().stride_c == 1 && images().stride_w == 3),
        rows_(interleaved_ ? 2 * 3 * width() : 0) {}

  // Cell row `by` of image n. The zeros around the planes are already there.
  void load(int64_t n, int64_t by, const CellRow<T>& row) const {
    const uint8_t* pixels = images().data + n * images().stride_n + by * kCell * images().stride_h;
    if (interleaved_) {
      uint8_t* top[3] = {rows_.get(), rows_.get() + width(), rows_.get() + 2 * width()};
      uint8_t* bottom[3] = {top[0] + 3 * width(), top[1] + 3 * width(), top[2] + 3 * width()};
      deinterleave(pixels, top, width());
      deinterleave(pixels + images().stride_h, bottom, width());
      for (int c = 0; c < 3; ++c) subtract(top[c], bottom[c], 1, c, row);
      return;
    }
    for (int64_t c = 0; c < images().channels; ++c, pixels += images().stride_c) {
      subtract(pixels, pixels + images().stride_h, images().stride_w, c, row);
    }
  }

 private:
  Source source_;
  bool interleaved_;
  Scratch<uint8_t> rows_;  // [2][3][width()]

  const Images& images() const { return source_.images; }
  int64_t width() const { return kCell * images().cols(); }

  void subtract(const uint8_t* top, const uint8_t* bottom, int64_t step, int64_t channel, const CellRow<T>& row) const {
    const int64_t cells = images().cols();
    for (int m = 0; m < source_.residual.maps; ++m) {
      switch (source_.residual.map[m]) {
        case Map::npr: {
          T* right = row.plane(channel, Difference::right);
          T* below = row.plane(channel, Difference::below);
          T* corner = row.plane(channel, Difference::corner);
          step == 1 ? subtract_anchors(top, bottom, 1, right, below, corner, cells)
                    : subtract_anchors(top, bottom, step, right, below, corner, cells);
          break;
        }
        case Map::haar: {
          T* diagonal = row.plane(channel, Difference::diagonal);
          step == 1 ? subtract_diagonals(top, bottom, 1, diagonal, cells)
                    : subtract_diagonals(top, bottom, step, diagonal, cells);
          break;
        }
      }
    }
  }
};

// Where the taps of an output row lie in the rows of cells around it.
template <class T>
class Taps {
 public:
  explicit Taps(const Source& source) : count_(source.taps()), row_(count_), offset_(count_) {
    const CellRow<T> origin(nullptr, source);
    int64_t k = 0;
    for (int m = 0; m < source.residual.maps; ++m) {
      for (int64_t c = 0; c < source.images.channels; ++c) {
        for (int t = 0; t < taps_of(source.residual.map[m]); ++t, ++k) {
          const Tap tap = tap_source(source.residual.map[m], t);
          row_.get()[k] = tap.row + 1;
          offset_.get()[k] = origin.offset(c, tap.difference) + tap.col;
        }
      }
    }
  }

  // Pointers to the taps, given the rows of cells above, at and, where taps read it, below the output's.
  void point(const CellRow<T>* rows, const T** taps) const {
    for (int64_t k = 0; k < count_; ++k) taps[k] = rows[row_.get()[k]].data() + offset_.get()[k];
  }

 private:
  int64_t count_;
  Scratch<int> row_;
  Scratch<int64_t> offset_;
};

// Walks over consecutive output rows, units of n * rows + oy, and keeps the rows of cells they read.
template <class T>
class RowWalk {
 public:
  explicit RowWalk(const Source& source)
      : source_(source),
        loader_(source),
        taps_(source),
        kept_(2 + source.residual.below),
        memory_(kept_ * CellRow<T>::size(source)) {
    for (int i = 0; i < kept_; ++i) {
      rows_[i] = CellRow<T>(memory_.get() + i * CellRow<T>::size(source), source);
      rows_[i].clear(source);
    }
  }

  // Taps of output row `unit`; the row after the last one asked for costs one row of cells, others all it reads.
  void taps(int64_t unit, const T** taps) {
    const int64_t n = unit / source_.images.rows(), oy = unit % source_.images.rows();
    const bool next = unit == last_ + 1 && oy > 0;
    if (next) std::rotate(rows_, rows_ + 1, rows_ + kept_);
    for (int i = next ? kept_ - 1 : 0; i < kept_; ++i) {
      const int64_t by = oy - 1 + i;
      if (by < 0 || by >= source_.images.rows()) {
        rows_[i].clear(source_);
      } else {
        loader_.load(n, by, rows_[i]);
      }
    }
    taps_.point(rows_, taps);
    last_ = unit;
  }

 private:
  Source source_;
  CellLoader<T> loader_;
  Taps<T> taps_;
  int kept_;
  Scratch<T> memory_;
  CellRow<T> rows_[3];  // above, at and, where taps read it, below the output's
  int64_t last_ = -2;
};

// The taps of a block of up to kRows consecutive output rows at once, and with each row's taps one more
// whose difference is always 1: it stands for the bias, and counts positions.
template <class T>
class RowBlock {
 public:
  static constexpr int64_t kRows = ConvBackward::kBlockRows;

  explicit RowBlock(const Source& source)
      : source_(source),
        loader_(source),
        offsets_(source),
        columns_(source.taps() + 1),
        cells_(CellRow<T>::size(source)),
        memory_(kSlots * cells_),
        ones_(CellRow<T>::plane_size(source)),
        taps_(kRows * columns_) {
    for (int64_t i = 0; i < kSlots; ++i) row(i).clear(source);
    for (int64_t i = 0; i < CellRow<T>::plane_size(source); ++i) ones_.get()[i] = T(i < source.images.cols());
  }

  // Pointers per row: the taps, and the one.
  int64_t columns() const { return columns_; }

  // Loads output rows first .. last - 1, units of n * rows + oy. Slot 0 of the memory holds zeros, slot 1
  // the row of cells above the block, slot 2 + i that of the block's row i and the next that below the block.
  void load(int64_t first, int64_t last) {
    const int64_t rows = source_.images.rows();
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / rows, oy = unit % rows, here = 2 + unit - first;
      if (unit == first && oy > 0) loader_.load(n, oy - 1, row(here - 1));
      loader_.load(n, oy, row(here));
      if (unit == last - 1 && oy + 1 < rows && source_.residual.below > 0) loader_.load(n, oy + 1, row(here + 1));
      const CellRow<T> around[3] = {row(oy > 0 ? here - 1 : 0), row(here), row(oy + 1 < rows ? here + 1 : 0)};
      const T** taps = taps_.get() + (unit - first) * columns_;
      offsets_.point(around, taps);
      taps[columns_ - 1] = ones_.get();
    }
  }

  // The pointers of the block's row i, valid for cols() elements; beyond them comes what is not zero.
  const T* const* taps(int64_t i) const { return taps_.get() + i * columns_; }
  // 1 for the positions of a row, 0 beyond them.
  const T* ones() const { return ones_.get(); }

 private:
  static constexpr int64_t kSlots = kRows + 3;

  Source source_;
  CellLoader<T> loader_;
  Taps<T> offsets_;
  int64_t columns_, cells_;
  Scratch<T> memory_, ones_;
  Scratch<const T*> taps_;

  CellRow<T> row(int64_t slot) const { return {memory_.get() + slot * cells_, source_}; }
};

}  // namespace
}  // namespace npr::cpu
