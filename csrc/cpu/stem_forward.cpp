// Fused stem: NPR + convolution + batch norm + ReLU + max-pooling, and nothing larger than a few rows.
//
// Batch norm's scale is folded into the weights (it may be negative: it comes before the maximum), its
// shift is added after the maximum and ReLU comes last: max(x) + b = max(x + b), relu(max) = max(relu).
//
// The convolution makes 32 positions at a time, [position][O] in the first-level cache, and each row is
// pooled along the row at once: 3 neighbours, stride 2. Pooled row py then is the maximum of the row
// maxima of convolution rows 2py - 1 .. 2py + 1, the last of which is the next one's first.
// In training, the arg-max position goes along: first within the row, then between rows; a later one
// wins only if it is larger, so ties fall as in max_pool2d.
//
// Cost per pooled output: 4 K multiply-adds and about 12 vector operations (26 with positions); bytes:
// the image once, the pooled map once, a byte of code in training.
#include "cpu/differences.h"
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

// A running maximum and its position. Literal: NaN is larger than everything, as in max_pool2d.
template <class T, bool Save, bool Literal>
struct Maximum {
  using I = IntegerOf<T>;
  Vec<T> value;
  Vec<I> position;

  void update(Vec<T> candidate, Vec<I> where) {
    if constexpr (!Save && !Literal) {
      value = maximum(candidate, value);
    } else {
      auto larger = candidate > value;
      if constexpr (Literal) larger |= candidate != candidate;
      value = larger ? candidate : value;
      if constexpr (Save) position = larger ? where : position;
    }
  }
};

template <class Element, bool Save, bool Literal>
class StemRows {
  using T = Compute<Element>;
  using I = IntegerOf<T>;
  static constexpr int64_t kSegment = 32;

 public:
  explicit StemRows(const StemForward& p)
      : p_(p),
        walk_(p.images),
        stride_(padded(p.outputs)),
        pooled_cols_(pooled(p.images.cols())),
        weight_(p.images.taps()),
        taps_(p.images.taps()),
        segment_taps_(p.images.taps()),
        zero_(stride_),
        segment_((kSegment + 2) * stride_),
        maxima_(3 * pooled_cols_ * stride_),
        positions_(Save ? 3 * pooled_cols_ * stride_ : 0) {
    for (int64_t k = 0; k < p.images.taps(); ++k) weight_.get()[k] = static_cast<const T*>(p.weight) + k * stride_;
    std::memset(zero_.get(), 0, stride_ * sizeof(T));
  }

  // Pooled row `unit`, n * pooled rows + py.
  void pool(int64_t unit) {
    const int64_t rows = p_.images.rows(), pooled_rows = pooled(rows);
    const int64_t n = unit / pooled_rows, py = unit % pooled_rows, first = 2 * py - 1;
    // Convolution row r lies in slot (r + 1) % 3 while it is needed.
    if (first >= 0 && !(unit == last_ + 1 && py > 0)) convolve(n, first);
    convolve(n, first + 1);
    if (first + 2 < rows) convolve(n, first + 2);
    last_ = unit;
    const int64_t begin = first < 0 ? 1 : 0, end = first + 2 < rows ? 3 : 2;
    for (int64_t px = 0; px < pooled_cols_; ++px) finish(unit * pooled_cols_ + px, px, first, begin, end);
  }

 private:
  const StemForward& p_;
  RowWalk<T> walk_;
  int64_t stride_, pooled_cols_;
  Scratch<const T*> weight_, taps_, segment_taps_;
  Scratch<T> zero_;
  Scratch<T> segment_;    // [1 + kSegment + 1][stride_]: the position before, the segment, one more
  Scratch<T> maxima_;     // [slot][pooled_cols_][stride_]
  Scratch<I> positions_;  // likewise
  int64_t last_ = -2;

  int64_t slot(int64_t row) const { return (row + 1) % 3 * pooled_cols_ * stride_; }
  T* position(int64_t x) const { return segment_.get() + x * stride_; }

  // Row `row` of the convolution, pooled along the row.
  void convolve(int64_t n, int64_t row) {
    const int64_t cols = p_.images.cols(), taps = p_.images.taps();
    walk_.taps(n * p_.images.rows() + row, taps_.get());
    set_lowest(position(0));
    for (int64_t begin = 0; begin < cols; begin += kSegment) {
      const int64_t width = min(kSegment, cols - begin);
      for (int64_t k = 0; k < taps; ++k) segment_taps_.get()[k] = taps_.get()[k] + begin;
      multiply_row<T, false>(segment_taps_.get(), width, weight_.get(), stride_, taps, zero_.get(), position(1),
                             stride_);
      if constexpr (Literal) normalise(width);
      if (width % 2) set_lowest(position(width + 1));
      for (int64_t i = 0; 2 * i < width; ++i) pool_along_row(slot(row) + (begin / 2 + i) * stride_, position(2 * i));
      std::memcpy(position(0), position(kSegment), stride_ * sizeof(T));
    }
  }

  void set_lowest(T* to) const {
    for (int64_t o = 0; o < stride_; ++o) to[o] = -std::numeric_limits<T>::infinity();
  }

  // Batch norm and ReLU of a segment, one after the other.
  void normalise(int64_t width) {
    const T* scale = static_cast<const T*>(p_.scale);
    const T* shift = static_cast<const T*>(p_.shift);
    for (int64_t x = 1; x <= width; ++x) {
      for (int64_t o = 0; o < p_.outputs; o += kLanes<T>) {
        store(position(x) + o, relu(load(position(x) + o) * load(scale + o) + load(shift + o)));
      }
    }
  }

  static Vec<T> relu(Vec<T> value) { return value < Vec<T>{} ? Vec<T>{} : value; }  // keeps NaN

  // The maximum of three positions from `from` on, stored at offset `to` of the maxima.
  void pool_along_row(int64_t to, const T* from) {
    for (int64_t o = 0; o < p_.outputs; o += kLanes<T>) {
      Maximum<T, Save, Literal> best{load(from + o), Vec<I>{}};
      best.update(load(from + stride_ + o), Vec<I>{} + I(1));
      best.update(load(from + 2 * stride_ + o), Vec<I>{} + I(2));
      store(maxima_.get() + to + o, best.value);
      if constexpr (Save) store(positions_.get() + to + o, best.position);
    }
  }

  // The maximum over rows begin .. end - 1 of the window, shift, ReLU and store.
  void finish(int64_t pixel, int64_t px, int64_t first_row, int64_t begin, int64_t end) {
    Element* out = static_cast<Element*>(p_.out) + pixel * p_.outputs;
    const T* shift = static_cast<const T*>(p_.shift);
    for (int64_t o = 0; o < p_.outputs; o += kLanes<T>) {
      Maximum<T, Save, Literal> best;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = slot(first_row + i) + px * stride_ + o;
        Vec<I> where{};
        if constexpr (Save) where = load(positions_.get() + at) + I(3 * i);
        if (i == begin) {
          best = {load(maxima_.get() + at), where};
        } else {
          best.update(load(maxima_.get() + at), where);
        }
      }
      const Vec<T> value = Literal ? best.value : best.value + load(shift + o);
      const int64_t count = min(kLanes<T>, p_.outputs - o);
      store_some(relu(value), out + o, count);
      if constexpr (Save) {
        const Vec<I> code = value <= Vec<T>{} ? Vec<I>{} + I(StemForward::kClosed) : best.position;
        uint8_t* to = p_.code + pixel * p_.outputs + o;
        for (int64_t lane = 0; lane < count; ++lane) to[lane] = uint8_t(code[lane]);
      }
    }
  }

  static void store_some(Vec<T> value, Element* to, int64_t count) {
    if constexpr (std::is_same_v<Element, T>) {
      if (count == kLanes<T>) return store(to, value);
    }
    T buffer[kLanes<T>];
    store(buffer, value);
    convert(buffer, to, count);
  }
};

template <class Element, bool Save, bool Literal>
void run(const StemForward& p, int64_t first, int64_t last) {
  StemRows<Element, Save, Literal> rows(p);
  for (int64_t unit = first; unit < last; ++unit) rows.pool(unit);
}

}  // namespace

void stem_forward(const StemForward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) {
    using Element = std::remove_pointer_t<decltype(element)>;
    if (p.scale) {
      p.code ? run<Element, true, true>(p, first, last) : run<Element, false, true>(p, first, last);
    } else {
      p.code ? run<Element, true, false>(p, first, last) : run<Element, false, false>(p, first, last);
    }
  });
}

}  // namespace npr::cpu::NPR_ISA
