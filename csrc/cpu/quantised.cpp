// A residual block on 8-bit maps in one pass, a strip of rows at a time, as bottleneck.cpp does it on floats.
//
// Sums are integers, exact. What follows them is float: times the output's gain, plus its bias, plus the shortcut, each
// rounded by itself. This file is compiled without contraction to fused multiply-adds, which not all processors have,
// so that every path gives the same bits.
//
// Multiply-adds for a position: inputs * width + 9 width^2 + width * outputs, and inputs * outputs of a projection.
#include "cpu/quads.h"

namespace npr::cpu::NPR_ISA {
namespace {

// A strip of one image, and the maps in between.
class Strip {
 public:
  explicit Strip(const QuantisedBottleneck& p)
      : p_(p), height_(p.strip()), reduced_cols_(p.cols + 2), reduced_rows_((height_ - 1) * p.stride + 3) {
    const int64_t reduced = reduced_rows_ * reduced_cols_ * p.width, middle = height_ * p.out_cols() * p.width;
    reduced_ = workspace<uint8_t>(reduced + middle);
    middle_ = reduced_ + reduced;
    std::memset(reduced_, 0, reduced);
  }

  // Follows: whether the strip before it, of the same image, was the last one that run() did.
  void run(int64_t n, int64_t strip, bool follows) {
    first_ = strip * height_;
    count_ = min(height_, p_.out_rows() - first_);
    x_ = p_.x + n * p_.rows * p_.cols * p_.inputs;
    out_ = n * p_.out_rows() * p_.out_cols() * p_.outputs;
    reduce(follows);
    spatial();
    if (p_.shortcut.weight != nullptr) {
      expand<true>();
    } else {
      expand<false>();
    }
  }

 private:
  // The reduced map of the strip: row 0 is input row first * stride - 1, column 0 is left of the image. What lies
  // outside of the image is 0, the padding's value.
  uint8_t* reduced(int64_t row, int64_t col) { return reduced_ + (row * reduced_cols_ + col) * p_.width; }
  uint8_t* middle(int64_t row) { return middle_ + row * p_.out_cols() * p_.width; }

  static QuadOperand operand(const uint8_t* at, int64_t stride, const int8_t* weight, int64_t channels) {
    return {at, stride, weight, kPanel * channels, channels / kQuad};
  }

  // Rows of positions to rows of bytes, `width` apart.
  void multiply(int64_t positions, const QuadOperand* operands, int count, const QuantisedConv& conv, uint8_t* to) {
    for_tiles(positions, p_.width, [&](auto size, int64_t first, int64_t output) {
      constexpr int P = decltype(size)::value;
      QuadTile<P> tile;
      multiply_tile<P>(first, output, operands, count, tile);
      const int64_t width = p_.width;  // not read again after each store of bytes, which may be anything's
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) {
        const int64_t o = output + j * kLanes32;
        const Floats gain = load(conv.gain + o), bias = load(conv.bias + o);
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) store_rounded(to + (first + i) * width + o, to_floats(tile[i][j]) * gain + bias);
      }
    });
  }

  void reduce(bool follows) {
    const int64_t top = first_ * p_.stride - 1;
    int64_t done = 0;
    if (follows) {  // rows that the strip before has read, too
      done = 3 - p_.stride;
      std::memmove(reduced(0, 0), reduced(height_ * p_.stride, 0), done * reduced_cols_ * p_.width);
    }
    const int64_t from = top + done < 0 ? 0 : top + done, until = min(p_.rows, top + reduced_rows_);
    clear_rows(done, from - top);
    clear_rows(until - top, reduced_rows_);
    for (int64_t row = from; row < until; ++row) {
      const QuadOperand x = operand(x_ + row * p_.cols * p_.inputs, p_.inputs, p_.reduce.weight, p_.inputs);
      multiply(p_.cols, &x, 1, p_.reduce, reduced(row - top, 1));
    }
  }

  void clear_rows(int64_t from, int64_t until) {
    if (from < until) std::memset(reduced(from, 0), 0, (until - from) * reduced_cols_ * p_.width);
  }

  void spatial() {
    for (int64_t row = 0; row < count_; ++row) {
      QuadOperand taps[9];
      for (int t = 0; t < 9; ++t) {
        taps[t] = operand(reduced(row * p_.stride + t / 3, t % 3), p_.stride * p_.width,
                          p_.spatial.weight + t * kPanel * p_.width, p_.width);
        taps[t].panel *= 9;
      }
      multiply(p_.out_cols(), taps, 9, p_.spatial, middle(row));
    }
  }

  template <bool project>
  void expand() {
    for (int64_t row = 0; row < count_; ++row) {
      const uint8_t* x = x_ + (first_ + row) * p_.stride * p_.cols * p_.inputs;
      const int64_t to = out_ + (first_ + row) * p_.out_cols() * p_.outputs;
      const QuadOperand from = operand(middle(row), p_.width, p_.expand.weight, p_.width);
      const QuadOperand shortcut = operand(x, p_.stride * p_.inputs, p_.shortcut.weight, p_.inputs);
      for_tiles(p_.out_cols(), p_.outputs, [&](auto size, int64_t first, int64_t output) {
        constexpr int P = decltype(size)::value;
        QuadTile<P> tile, projected;
        if (project) multiply_tile<P>(first, output, &shortcut, 1, projected);
        multiply_tile<P>(first, output, &from, 1, tile);
        const int64_t inputs = p_.inputs, outputs = p_.outputs;
        const bool as_float = p_.as_float;
        float* const floats = static_cast<float*>(p_.out) + to;
        uint8_t* const bytes = static_cast<uint8_t*>(p_.out) + to;
#pragma GCC unroll 2
        for (int j = 0; j < kPanelVectors; ++j) {
          const int64_t o = output + j * kLanes32;
          const Floats gain = load(p_.expand.gain + o), bias = load(p_.expand.bias + o);
          const Floats shortcut_gain = load(p_.shortcut.gain + o);
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) {
            const Floats other = project ? to_floats(projected[i][j]) : to_floats(x + (first + i) * inputs + o);
            const Floats value = to_floats(tile[i][j]) * gain + bias + other * shortcut_gain;
            const int64_t at = (first + i) * outputs + o;
            if (as_float) {
              store(floats + at, maximum(value, Floats{}));
            } else {
              store_rounded(bytes + at, value);
            }
          }
        }
      });
    }
  }

  const QuantisedBottleneck& p_;
  const int64_t height_, reduced_cols_, reduced_rows_;
  uint8_t *reduced_, *middle_;
  int64_t first_ = 0, count_ = 0, out_ = 0;
  const uint8_t* x_ = nullptr;
};

}  // namespace

void quantise(const Quantise& p, int64_t first, int64_t last) {
  const int64_t whole = p.channels / kLanes32 * kLanes32, rest = p.channels - whole;
  float x[kLanes32] = {}, gain[kLanes32] = {};
  std::memcpy(gain, p.gain + whole, rest * sizeof(float));
  for (int64_t i = first * p.kUnit, end = min(last * p.kUnit, p.positions); i < end; ++i) {
    const float* from = p.x + i * p.channels;
    uint8_t* to = p.out + i * p.channels;
    for (int64_t c = 0; c < whole; c += kLanes32) store_rounded(to + c, load(from + c) * load(p.gain + c));
    if (rest > 0) {
      uint8_t bytes[kLanes32];
      std::memcpy(x, from + whole, rest * sizeof(float));
      store_rounded(bytes, load(x) * load(gain));
      std::memcpy(to + whole, bytes, rest);
    }
  }
}

void quantised_bottleneck(const QuantisedBottleneck& p, int64_t first, int64_t last) {
  Strip strip(p);
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t index = unit % p.strips();
    strip.run(unit / p.strips(), index, unit > first && index > 0);
  }
}

}  // namespace npr::cpu::NPR_ISA
