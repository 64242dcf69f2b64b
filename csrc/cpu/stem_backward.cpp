// Fused stem, backward: S[o] = sum of grad times the 24 taps at the arg-max position, and s0[o] = sum of
// grad, over the pooled map where ReLU's gate is open. The rest of the gradient is algebra on S
// (stem_algebra.h); no map of the convolution's size exists.
//
// A gather: each pooled gradient meets the patch that its code names, one of the nine around it. Patches
// of three convolution rows lie [position][taps], so that one is a few neighbouring vectors, and the sums
// of four channels stay in registers along a pooled row.
//
// Cost per pooled gradient: K multiply-adds; per patch: one transposition; bytes: image, grad and code once.
#include "cpu/differences.h"
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

constexpr int kChannels = 4;                                   // whose sums are in registers together
constexpr int kPatchVectors = NPR_VECTOR_BYTES == 64 ? 2 : 3;  // as many vectors of each

inline float to_compute(float value) { return value; }
inline double to_compute(double value) { return value; }
inline float to_compute(bf16 value) { return to_float(value); }
inline float to_compute(f16 value) { return to_float(value); }

template <class T>
inline T masked(T value, IntegerOf<T> mask) {
  IntegerOf<T> bits;
  std::memcpy(&bits, &value, sizeof(T));
  bits &= mask;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class Element>
class StemSums {
  using T = Compute<Element>;

 public:
  explicit StemSums(const StemBackward& p)
      : p_(p),
        walk_(p.images),
        taps_(p.images.taps()),
        patch_((p.images.taps() + kBlock - 1) / kBlock * kBlock),
        row_((p.images.cols() + 2) * patch_),
        patches_(3 * row_),
        sums_(p.outputs * patch_),
        totals_(p.outputs) {
    std::memset(patches_.get(), 0, 3 * row_ * sizeof(T));
    clear();
  }

  // Adds the sums of pooled rows since the last call to sum[outputs][taps + 1].
  void empty(double* sum) {
    const int64_t taps = p_.images.taps();
    for (int64_t o = 0; o < p_.outputs; ++o) {
      for (int64_t k = 0; k < taps; ++k) sum[o * (taps + 1) + k] += sums_.get()[o * patch_ + k];
      sum[o * (taps + 1) + taps] += totals_.get()[o];
    }
    clear();
  }

  // Adds pooled row `unit`, n * pooled rows + py. The terms of a row are added up before they meet the
  // larger sum of the rows so far: the rounding error grows with the length of a row.
  void add(int64_t unit) {
    const int64_t rows = p_.images.rows(), pooled_rows = pooled(rows);
    const int64_t n = unit / pooled_rows, py = unit % pooled_rows, first = 2 * py - 1;
    if (first >= 0 && !(unit == last_ + 1 && py > 0)) make_patches(n, first);
    make_patches(n, first + 1);
    if (first + 2 < rows) make_patches(n, first + 2);
    last_ = unit;

    // Where the nine patches of pooled column 0 begin; a closed gate takes the first, times zero.
    const T* patch[10];
    for (int i = 0; i < 9; ++i) patch[i] = patches_.get() + (first + i / 3 + 1) % 3 * row_ + i % 3 * patch_;
    patch[9] = patch[0];

    const int64_t pooled_cols = pooled(p_.images.cols());
    const Element* grad = static_cast<const Element*>(p_.grad) + n * p_.stride_n + py * p_.stride_h;
    const uint8_t* code = p_.code + unit * pooled_cols * p_.outputs;
    for (int64_t o = 0; o < p_.outputs; o += kChannels) {
      with_constant<kChannels>(int(min(kChannels, p_.outputs - o)), [&](auto channels) {
        for (int64_t k = 0; k < patch_; k += kBlock) {
          add_block<decltype(channels)::value>(patch, k, grad + o * p_.stride_o, code + o, pooled_cols, o);
        }
      });
    }
  }

 private:
  static constexpr int64_t kBlock = kPatchVectors * kLanes<T>;  // taps whose sums are in registers together

  const StemBackward& p_;
  RowWalk<T> walk_;
  Scratch<const T*> taps_;
  int64_t patch_;       // taps, padded
  int64_t row_;         // a row of patches: one position before the first, and one after the last
  Scratch<T> patches_;  // [slot][position][taps], row r in slot (r + 1) % 3
  // ReLU's gate as a mask, by code: whether one is open is as good as random, and no branch guesses it.
  static constexpr IntegerOf<T> open_[10] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, 0};
  Scratch<T> sums_;    // [outputs][patch_]
  Scratch<T> totals_;  // [outputs]
  int64_t last_ = -2;

  void clear() {
    std::memset(sums_.get(), 0, p_.outputs * patch_ * sizeof(T));
    std::memset(totals_.get(), 0, p_.outputs * sizeof(T));
  }

  void make_patches(int64_t n, int64_t row) {
    const int64_t cols = p_.images.cols(), taps = p_.images.taps();
    walk_.taps(n * p_.images.rows() + row, taps_.get());
    T* to = patches_.get() + (row + 1) % 3 * row_ + patch_;
    static_assert(kTaps == 8);
    for (int64_t k = 0; k < taps; k += kTaps) {
      int64_t x = 0;
      for (; x + 8 <= cols; x += 8) transpose_8x8(taps_.get() + k, x, to + x * patch_ + k, patch_);
      for (; x < cols; ++x) {
        for (int t = 0; t < kTaps; ++t) to[x * patch_ + k + t] = taps_.get()[k + t][x];
      }
    }
  }

  // The sums of `Channels` channels and the taps of one block along a pooled row.
  template <int Channels>
  void add_block(const T* const* patch, int64_t k, const Element* grad, const uint8_t* code, int64_t cols,
                 int64_t o) const {
    Vec<T> sums[Channels][kPatchVectors] = {};
    T total[Channels] = {};
    for (int64_t px = 0; px < cols; ++px) {
      const int64_t offset = 2 * px * patch_ + k;
#pragma GCC unroll 8
      for (int i = 0; i < Channels; ++i) {
        const int coded = code[px * p_.outputs + i], where = coded < 9 ? coded : 9;
        const T value = masked(T(to_compute(grad[i * p_.stride_o + px * p_.stride_w])), open_[where]);
        total[i] += value;
#pragma GCC unroll 8
        for (int j = 0; j < kPatchVectors; ++j) {
          sums[i][j] += broadcast(value) * load(patch[where] + offset + j * kLanes<T>);
        }
      }
    }
    for (int i = 0; i < Channels; ++i) {
      T* to = sums_.get() + (o + i) * patch_ + k;
      for (int j = 0; j < kPatchVectors; ++j) store(to + j * kLanes<T>, load(to + j * kLanes<T>) + sums[i][j]);
      if (k == 0) totals_.get()[o + i] += total[i];
    }
  }
};

template <class Element>
void run(const StemBackward& p, int64_t first, int64_t last) {
  StemSums<Element> sums(p);
  const int64_t size = p.outputs * (p.images.taps() + 1);
  for (int64_t unit = first; unit < last; ++unit) {
    double* sum = p.partial + unit * size;
    std::memset(sum, 0, size * sizeof(double));
    const int64_t end = min(p.rows(), (unit + 1) * p.kUnitRows);
    for (int64_t row = unit * p.kUnitRows; row < end; ++row) sums.add(row);
    sums.empty(sum);
  }
}

}  // namespace

void stem_backward(const StemBackward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { run<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
