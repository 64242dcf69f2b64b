// Fused stem, backward: S[o] = sum of grad times the K taps at the arg-max position, and s0[o] = sum of
// grad, over the pooled map where ReLU's gate is open. The rest of the gradient is algebra on S
// (stem_algebra.h); no map of the convolution's size exists.
//
// A gather: each pooled gradient meets the patch that its code names, one of the nine around it. Patches
// of three convolution rows lie [position][taps], so that one is a few neighbouring vectors (zeros fill the
// last of them), and the sums of some channels stay in registers along some pooled columns.
//
// Sums are double whatever the type of grad: the algebra subtracts, and where little remains float sums
// would leave their rounding errors. A float times a tap is exact in double.
//
// Cost per pooled gradient: K multiply-adds; per patch: one transposition; bytes: image, grad and code once.
#include "cpu/differences.h"
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

// The sums of so many channels, each of so many vectors of taps, are in registers together.
constexpr int kChannels = NPR_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int kTapVectors = NPR_VECTOR_BYTES == 64 ? 4 : NPR_VECTOR_BYTES == 32 ? 7 : 6;
constexpr int64_t kColumns = 16;  // pooled columns that all channels pass over at a time

inline double to_double(double value) { return value; }
inline double to_double(float value) { return value; }
inline double to_double(bf16 value) { return to_float(value); }
inline double to_double(f16 value) { return to_float(value); }

inline double masked(double value, int64_t mask) {
  int64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits &= mask;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <class Element>
class StemSums {
 public:
  explicit StemSums(const StemBackward& p)
      : p_(p),
        walk_(p),
        vectors_((p.taps() + kLanes<double> - 1) / kLanes<double>),
        patch_((p.taps() + kBlock - 1) / kBlock * kBlock),
        zeros_(p.images.cols()),
        taps_(patch_),
        row_((p.images.cols() + 2) * patch_),
        patches_(3 * row_) {
    std::memset(zeros_.get(), 0, p.images.cols() * sizeof(float));
    std::fill_n(taps_.get(), patch_, zeros_.get());
    std::memset(patches_.get(), 0, 3 * row_ * sizeof(double));
  }

  // Adds pooled row `unit`, n * pooled rows + py, to sum [outputs][taps + 1].
  void add(int64_t unit, double* sum) {
    const int64_t rows = p_.images.rows(), pooled_rows = pooled(rows);
    const int64_t n = unit / pooled_rows, py = unit % pooled_rows, first = 2 * py - 1;
    if (first >= 0 && !(unit == last_ + 1 && py > 0)) make_patches(n, first);
    make_patches(n, first + 1);
    if (first + 2 < rows) make_patches(n, first + 2);
    last_ = unit;

    // Where the nine patches of pooled column 0 begin; a closed gate takes the first, times zero.
    const double* patch[StemForward::kClosed + 1];
    for (int i = 0; i < StemForward::kClosed; ++i) {
      patch[i] = patches_.get() + (first + i / 3 + 1) % 3 * row_ + i % 3 * patch_;
    }
    patch[StemForward::kClosed] = patch[0];

    for (int64_t px = 0; px < pooled(p_.images.cols()); px += kColumns) add_columns(n, py, px, patch, sum);
  }

 private:
  static constexpr int64_t kBlock = 8;  // taps that are transposed together

  const StemBackward& p_;
  RowWalk<float> walk_;
  int64_t vectors_;  // of a patch's taps, passed over in equal shares
  int64_t passes_ = (vectors_ + kTapVectors - 1) / kTapVectors, share_ = (vectors_ + passes_ - 1) / passes_;
  int64_t patch_;  // taps, and zeros up to whole blocks
  Scratch<float> zeros_;
  Scratch<const float*> taps_;
  int64_t row_;              // a row of patches: one position before the first, and one after the last
  Scratch<double> patches_;  // [slot][position][taps], row r in slot (r + 1) % 3
  int64_t last_ = -2;

  // ReLU's gate as a mask, by code: whether one is open is as good as random, and no branch guesses it.
  static constexpr int64_t open_[StemForward::kClosed + 1] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, 0};

  // Adds up to kColumns pooled columns from px on; few enough that their patches stay in the first-level
  // cache while all channels pass over them.
  void add_columns(int64_t n, int64_t py, int64_t px, const double* const* patch, double* sum) const {
    const int64_t pooled_cols = pooled(p_.images.cols()), taps = p_.taps();
    const int64_t cols = min(kColumns, pooled_cols - px), row = n * pooled(p_.images.rows()) + py;
    const Element* grad = static_cast<const Element*>(p_.grad) + n * p_.stride_n + py * p_.stride_h + px * p_.stride_w;
    const uint8_t* code = p_.code + (row * pooled_cols + px) * p_.outputs;
    for (int64_t vector = 0; vector < vectors_; vector += share_) {
      with_constant<kTapVectors>(int(min(share_, vectors_ - vector)), [&](auto count) {
        for (int64_t o = 0; o < p_.outputs; o += kChannels) {
          with_constant<kChannels>(int(min(kChannels, p_.outputs - o)), [&](auto channels) {
            add_block<decltype(channels)::value, decltype(count)::value>(
                patch, px, cols, vector * kLanes<double>, grad + o * p_.stride_o, code + o, sum + o * (taps + 1));
          });
        }
      });
    }
  }

  void make_patches(int64_t n, int64_t row) {
    const int64_t cols = p_.images.cols();
    walk_.taps(n * p_.images.rows() + row, taps_.get());
    double* to = patches_.get() + (row + 1) % 3 * row_ + patch_;
    static_assert(kBlock == 8);
    for (int64_t k = 0; k < patch_; k += kBlock) {
      int64_t x = 0;
      for (; x + 8 <= cols; x += 8) transpose_8x8(taps_.get() + k, x, to + x * patch_ + k, patch_);
      for (; x < cols; ++x) {
        for (int t = 0; t < kBlock; ++t) to[x * patch_ + k + t] = taps_.get()[k + t][x];
      }
    }
  }

  // Adds `cols` pooled columns from px on to the sums [channels][taps + 1] of some channels and of vectors of taps
  // from k on; with the first taps, to the sums of grad as well.
  template <int Channels, int Vectors>
  void add_block(const double* const* patch, int64_t px, int64_t cols, int64_t k, const Element* grad,
                 const uint8_t* code, double* sum) const {
    const int64_t taps = p_.taps(), patch_size = patch_, first = 2 * px * patch_size + k;
    Vec<double> sums[Channels][Vectors] = {};
    double total[Channels] = {};
    for (int64_t i = 0; i < cols; ++i) {
      const int64_t offset = first + 2 * i * patch_size;
#pragma GCC unroll 8
      for (int c = 0; c < Channels; ++c) {
        const int64_t where = min(code[i * p_.outputs + c], StemForward::kClosed);
        const double value = masked(to_double(grad[c * p_.stride_o + i * p_.stride_w]), open_[where]);
        total[c] += value;
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) {
          sums[c][j] += broadcast(value) * load(patch[where] + offset + j * kLanes<double>);
        }
      }
    }
    const bool whole = k + Vectors * kLanes<double> <= taps;
#pragma GCC unroll 8
    for (int c = 0; c < Channels; ++c) {
      double* to = sum + c * (taps + 1);
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        const int64_t at = k + j * kLanes<double>;
        if (j + 1 < Vectors || whole) {
          store(to + at, load(to + at) + sums[c][j]);
        } else {
          add_some(sums[c][j], to + at, taps - at);
        }
      }
      if (k == 0) to[taps] += total[c];
    }
  }

  static void add_some(Vec<double> value, double* to, int64_t count) {
    double buffer[kLanes<double>];
    store(buffer, value);
    for (int64_t i = 0; i < count; ++i) to[i] += buffer[i];
  }
};

template <class Element>
void run(const StemBackward& p, int64_t first, int64_t last) {
  StemSums<Element> sums(p);
  const int64_t size = p.outputs * (p.taps() + 1);
  for (int64_t unit = first; unit < last; ++unit) {
    double* sum = p.partial + unit * size;
    std::memset(sum, 0, size * sizeof(double));
    const int64_t end = min(p.rows(), (unit + 1) * p.kUnitRows);
    for (int64_t row = unit * p.kUnitRows; row < end; ++row) sums.add(row, sum);
  }
}

}  // namespace

void stem_backward(const StemBackward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { run<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
