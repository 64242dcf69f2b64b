// Fused stem: residual + convolution + batch norm + ReLU + max-pooling, and nothing larger than a few rows.
//
// Batch norm's scale is folded into the weights (it may be negative: it comes before the maximum), its
// shift is added after the maximum and ReLU comes last: max(x) + b = max(x + b), relu(max) = max(relu).
//
// The convolution makes a register tile of some positions times some channels, and pools it along the row
// before it leaves the registers: 3 neighbours, stride 2. What remains is half a row of maxima, into which
// the maxima of the window's next rows go: convolution row 2py is the middle one of pooled row py, and row
// 2py + 1 the last one and the first one of the next.
// In training, the arg-max position goes along: first within the row, then between rows; a later one
// wins only if it is larger, so ties fall as in max_pool2d.
//
// Cost per pooled output: 4 K multiply-adds and about 10 vector operations (24 with positions); bytes:
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
  using Best = Maximum<T, Save, Literal>;

 public:
  explicit StemRows(const StemForward& p)
      : p_(p),
        walk_(p),
        stride_(padded(p.outputs)),
        pooled_cols_(pooled(p.images.cols())),
        weight_(p.taps()),
        taps_(p.taps()),
        maxima_(2 * pooled_cols_ * stride_),
        positions_(Save ? 2 * pooled_cols_ * stride_ : 0),
        window_{maxima_.get(), positions_.get()},
        next_{maxima_.get() + pooled_cols_ * stride_, positions_.get() + (Save ? pooled_cols_ * stride_ : 0)} {
    for (int64_t k = 0; k < p.taps(); ++k) weight_.get()[k] = static_cast<const T*>(p.weight) + k * stride_;
  }

  // Pooled row `unit`, n * pooled rows + py.
  void pool(int64_t unit) {
    const int64_t rows = p_.images.rows(), pooled_rows = pooled(rows);
    const int64_t n = unit / pooled_rows, py = unit % pooled_rows, middle = n * rows + 2 * py;
    if (py == 0 || unit != last_ + 1) {
      clear();
      if (py > 0) add(middle - 1, 0, false);
    }
    last_ = unit;
    add(middle, 3, false);
    if (2 * py + 1 < rows) add(middle + 1, 6, true);
    for (int64_t px = 0; px < pooled_cols_; ++px) finish(unit * pooled_cols_ + px, px);
    std::swap(window_, next_);
  }

 private:
  // Maxima of a row of pooling windows over the rows of the convolution so far, [pooled_cols_][stride_].
  struct Maxima {
    T* value;
    I* position;

    Best load_from(int64_t at) const {
      if constexpr (Save) return {load(value + at), load(position + at)};
      return {load(value + at), Vec<I>{}};
    }
    void store_to(int64_t at, const Best& best) const {
      store(value + at, best.value);
      if constexpr (Save) store(position + at, best.position);
    }
  };

  static constexpr int kTailRows = 2;  // of a smaller tile
  static_assert(kTileRows % 2 == 0 && kTailRows % 2 == 0);

  const StemForward& p_;
  RowWalk<T> walk_;
  int64_t stride_, pooled_cols_;
  Scratch<const T*> weight_, taps_;
  Scratch<T> maxima_;
  Scratch<I> positions_;
  Maxima window_, next_;
  int64_t last_ = -2;

  void clear() {
    const Best lowest{broadcast(-std::numeric_limits<T>::infinity()), Vec<I>{}};
    for (int64_t i = 0; i < pooled_cols_ * stride_; i += kLanes<T>) window_.store_to(i, lowest);
  }

  // Adds row `unit` of the convolution, n * rows + oy, whose positions in its windows begin at `first`; the last
  // row of the windows is the first one of the next.
  void add(int64_t unit, int first, bool last) {
    constexpr int64_t kWide = kTileVectors * kLanes<T>;
    walk_.taps(unit, taps_.get());
    for (int64_t o = 0; o < p_.outputs; o += kWide) {
      const int64_t width = min(kWide, p_.outputs - o);
      with_constant<kTileVectors>(int((width + kLanes<T> - 1) / kLanes<T>),
                                  [&](auto vectors) { add_channels<decltype(vectors)::value>(o, first, last); });
    }
  }

  // The same for N vectors of channels from o on.
  template <int N>
  void add_channels(int64_t o, int first, bool last) {
    const int64_t cols = p_.images.cols();
    Vec<T> before[N];  // the position before the tile
    for (int j = 0; j < N; ++j) before[j] = broadcast(-std::numeric_limits<T>::infinity());
    int64_t x = 0;
    for (; cols - x > kTailRows; x += kTileRows)
      add_tile<kTileRows>(x, o, min(kTileRows, cols - x), before, first, last);
    if (x < cols) add_tile<kTailRows>(x, o, cols - x, before, first, last);
  }

  // A tile of M positions from x on, the first `valid` of which are in the image.
  template <int M, int N>
  void add_tile(int64_t x, int64_t o, int64_t valid, Vec<T> (&before)[N], int first, bool last) {
    Vec<T> tile[M][N];
    multiply(taps_.get(), x, weight_.get(), o, p_.taps(), [](int, int) { return Vec<T>{}; }, tile);
    if constexpr (Literal) normalise(tile, o);
    const Maxima window = window_, next = next_;
    const int64_t stride = stride_, at = x / 2 * stride + o;
    const Vec<I> start = Vec<I>{} + I(first);
#pragma GCC unroll 8
    for (int i = 0; i < M; i += 2) {
      if (i >= valid) break;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const int64_t here = at + i / 2 * stride + j * kLanes<T>;
        Best along{before[j], Vec<I>{}};
        along.update(tile[i][j], Vec<I>{} + I(1));
        if (i + 1 < valid) along.update(tile[i + 1][j], Vec<I>{} + I(2));
        before[j] = tile[i + 1][j];
        Best best = window.load_from(here);
        best.update(along.value, along.position + start);
        window.store_to(here, best);
        if (last) next.store_to(here, along);
      }
    }
  }

  // Batch norm and ReLU of a tile, one after the other.
  template <int M, int N>
  void normalise(Vec<T> (&tile)[M][N], int64_t o) const {
    for (int j = 0; j < N; ++j) {
      const Vec<T> scale = load(static_cast<const T*>(p_.scale) + o + j * kLanes<T>);
      const Vec<T> shift = load(static_cast<const T*>(p_.shift) + o + j * kLanes<T>);
      for (int i = 0; i < M; ++i) tile[i][j] = relu(tile[i][j] * scale + shift);
    }
  }

  static Vec<T> relu(Vec<T> value) { return value < Vec<T>{} ? Vec<T>{} : value; }  // keeps NaN

  // Shift, ReLU and store.
  void finish(int64_t pixel, int64_t px) const {
    for (int64_t o = 0; o < p_.outputs; o += kLanes<T>) {
      const int64_t to = pixel * p_.outputs + o, count = min(kLanes<T>, p_.outputs - o);
      const Best best = window_.load_from(px * stride_ + o);
      const Vec<T> value = Literal ? best.value : best.value + load(static_cast<const T*>(p_.shift) + o);
      store_some(relu(value), static_cast<Element*>(p_.out) + to, count);
      if constexpr (Save) {
        const Vec<I> code = value <= Vec<T>{} ? Vec<I>{} + I(StemForward::kClosed) : best.position;
        typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
        const Bytes bytes = __builtin_convertvector(code, Bytes);
        std::memcpy(p_.code + to, &bytes, count);
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
