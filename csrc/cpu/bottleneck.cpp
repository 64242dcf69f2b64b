// A residual block in one pass: 1x1, 3x3, 1x1, shortcut and ReLU for a strip of rows at a time.
//
// A strip's intermediate maps are made, used and forgotten in the cache; only the block's input and output are whole
// maps. The 3x3 convolution reads one row more on either side than the strip has: a strip that follows another in the
// same call takes the rows that both need from it.
//
// Multiply-adds for a position: inputs * width + 9 width^2 + width * outputs, the middle term by Winograd 2.25 width^2.
#include "cpu/strip_winograd.h"

namespace npr::cpu::NPR_ISA {
namespace {

// A strip of one image, and the maps in between.
class Strip {
 public:
  explicit Strip(const Bottleneck& p)
      : p_(p),
        height_(p.strip()),
        winograd_(height_, p.out_cols(), p.width),
        reduced_cols_(p.winograd ? Winograd::map_cols(p.out_cols()) : p.cols + 2),
        reduced_rows_((height_ - 1) * p.stride + 3) {
    // Widths are whole panels, so that every map begins at a cache line.
    const int64_t reduced = reduced_rows_ * reduced_cols_ * p.width, middle = height_ * p.out_cols() * p.width;
    reduced_ = workspace<float>(reduced + middle + (p.winograd ? winograd_.floats() : 0));
    middle_ = reduced_ + reduced;
    winograd_.use(middle_ + middle);
    std::memset(reduced_, 0, reduced * sizeof(float));
  }

  // Follows: whether the strip before it, of the same image, was the last one that run() did.
  void run(int64_t n, int64_t strip, bool follows) {
    first_ = strip * height_;
    count_ = min(height_, p_.out_rows() - first_);
    x_ = p_.x + n * p_.rows * p_.cols * p_.inputs;
    out_ = p_.out + n * p_.out_rows() * p_.out_cols() * p_.outputs;
    reduce(follows);
    if (p_.winograd) {
      spatial_by_winograd();
    } else {
      spatial();
    }
    expand();
  }

 private:
  // The reduced map of the strip: row 0 is input row first * stride - 1, column 0 is left of the image.
  float* reduced(int64_t row, int64_t col) { return reduced_ + (row * reduced_cols_ + col) * p_.width; }
  float* middle(int64_t row) { return middle_ + row * p_.out_cols() * p_.width; }

  // Rows that this strip reads and the next one too.
  int64_t shared_rows() const { return 3 - p_.stride; }

  void reduce(bool follows) {
    const int64_t top = first_ * p_.stride - 1;
    int64_t done = 0;
    if (follows) {
      done = shared_rows();
      std::memcpy(reduced(0, 0), reduced(height_ * p_.stride, 0), done * reduced_cols_ * p_.width * sizeof(float));
    }
    const int64_t from = top + done < 0 ? 0 : top + done, until = min(p_.rows, top + reduced_rows_);
    clear_rows(done, from - top);
    clear_rows(until - top, reduced_rows_);
    for (int64_t row = from; row < until; ++row) {
      const Operand x = {x_ + row * p_.cols * p_.inputs, p_.inputs, p_.reduce, kPanel * p_.inputs, p_.inputs};
      float* to = reduced(row - top, 1);
      multiply_panels(p_.cols, &x, 1, p_.width, p_.reduce_bias, [&](int64_t at, int64_t output, Vec<float> value) {
        store(to + at * p_.width + output, relu(value));
      });
    }
  }

  void clear_rows(int64_t from, int64_t until) {
    if (from < until) std::memset(reduced(from, 0), 0, (until - from) * reduced_cols_ * p_.width * sizeof(float));
  }

  void spatial() {
    for (int64_t row = 0; row < count_; ++row) {
      Operand taps[9];
      for (int t = 0; t < 9; ++t) {
        taps[t] = {reduced(row * p_.stride + t / 3, t % 3), p_.stride * p_.width, p_.spatial + t * kPanel * p_.width,
                   9 * kPanel * p_.width, p_.width};
      }
      float* to = middle(row);
      multiply_panels(
          p_.out_cols(), taps, 9, p_.width, p_.spatial_bias,
          [&](int64_t at, int64_t output, Vec<float> value) { store(to + at * p_.width + output, relu(value)); });
    }
  }

  void spatial_by_winograd() {
    winograd_.run(reduced_, reduced_cols_ * p_.width, p_.width, count_, p_.out_cols(), p_.spatial, p_.width,
                  [&](int64_t row, int64_t col, int64_t output, Vec<float> value) {
                    const Vec<float> bias = load(p_.spatial_bias + output);
                    store(middle(row) + col * p_.width + output, relu(value + bias));
                  });
  }

  void expand() {
    for (int64_t row = 0; row < count_; ++row) {
      const float* x = x_ + (first_ + row) * p_.stride * p_.cols * p_.inputs;
      float* to = out_ + (first_ + row) * p_.out_cols() * p_.outputs;
      const Operand operands[2] = {{middle(row), p_.width, p_.expand, kPanel * p_.width, p_.width},
                                   {x, p_.stride * p_.inputs, p_.project, kPanel * p_.inputs, p_.inputs}};
      if (p_.project != nullptr) {
        multiply_panels(
            p_.out_cols(), operands, 2, p_.outputs, p_.expand_bias,
            [&](int64_t at, int64_t output, Vec<float> value) { store(to + at * p_.outputs + output, relu(value)); });
      } else {
        multiply_panels(p_.out_cols(), operands, 1, p_.outputs, p_.expand_bias,
                        [&](int64_t at, int64_t output, Vec<float> value) {
                          store(to + at * p_.outputs + output, relu(value + load(x + at * p_.inputs + output)));
                        });
      }
    }
  }

  const Bottleneck& p_;
  const int64_t height_;
  Winograd winograd_;
  const int64_t reduced_cols_, reduced_rows_;
  float *reduced_, *middle_;
  int64_t first_ = 0, count_ = 0;
  const float* x_ = nullptr;
  float* out_ = nullptr;
};

}  // namespace

void bottleneck(const Bottleneck& p, int64_t first, int64_t last) {
  Strip strip(p);
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t index = unit % p.strips();
    strip.run(unit / p.strips(), index, unit > first && index > 0);
  }
}

}  // namespace npr::cpu::NPR_ISA
