// A residual block in training: its convolutions, forward and backward, with the batch norms and ReLUs around them.
//
// What lies between two convolutions is a multiply-add a channel once the batch's statistics are known, and so is its
// gradient. Neither is ever a whole map: a convolution makes what it reads of it for a strip of rows, in the cache, and
// takes the sums that the next statistics need from its results while they are there. In whole maps there are only the
// convolutions' results, in the backward pass their batch norms' gradients, and the block's input and output.
//
// Batch statistics are sums of float64, of which products of two floats are exact. Multiply-adds for a position:
// forward as csrc/cpu/bottleneck.cpp; backward as many for the input's gradient, and taps * inputs * outputs for the
// weight's.
#include "cpu/training_strips.h"

namespace npr::cpu::NPR_ISA {
namespace {

// sums[c] += sum of a * b, of maps without gaps.
void add_products(const float* a, const float* b, int64_t positions, int64_t channels, double* sums) {
  for (int64_t c = 0; c < channels; c += kLanes<double>) {
    Vec<double> sum = load(sums + c);
    for (int64_t i = c; i < positions * channels; i += channels) sum += load_double(a + i) * load_double(b + i);
    store(sums + c, sum);
  }
}

class Forward {
 public:
  explicit Forward(const TrainedConvForward& p)
      : p_(p), winograd_(p.strip(), p.out_cols(), p.inputs, p.strip_images()), input_(input_map(p)) {
    const int64_t input = input_.floats() * p.strip_images();
    input_.at = workspace<float>(input + (p.winograd() ? winograd_.floats() : 0));
    winograd_.use(input_.at + input);
  }

  void run(int64_t unit) {
    double* sums = p_.sums + unit * 2 * p_.outputs;
    std::memset(sums, 0, 2 * p_.outputs * sizeof(double));
    for_each_strip(p_, unit, [&](const Strip& strip) {
      float* y = p_.y + (strip.n * p_.out_rows() + strip.first) * p_.out_cols() * p_.outputs;
      if (p_.winograd()) {
        spatial_by_winograd(strip, y);
      } else if (p_.spatial) {
        spatial(strip, y);
      } else {
        pointwise(strip, y);
      }
      add_sums(y, p_.outputs, y, p_.outputs, strip.rows() * p_.out_cols(), p_.outputs, sums);
    });
  }

 private:
  void pointwise(const Strip& strip, float* y) {
    Operand operand = {p_.x + (strip.n * p_.rows + strip.first) * p_.cols * p_.inputs, p_.inputs, p_.weight,
                       kPanel * p_.inputs, p_.inputs};
    if (p_.scale != nullptr || p_.stride > 1) {
      fill_positions(p_, input_, strip);
      operand.at = input_.at, operand.stride = input_.step();
    }
    multiply_panels(strip.rows() * p_.out_cols(), &operand, 1, p_.outputs, nullptr,
                    [&](int64_t at, int64_t output, Vec<float> value) { store(y + at * p_.outputs + output, value); });
  }

  void spatial_by_winograd(const Strip& strip, float* y) {
    fill_input(p_, input_, strip);
    winograd_.run(
        input_.at, input_.cols * input_.step(), input_.step(), strip.count, p_.out_cols(), p_.weight, p_.outputs,
        [&](int64_t row, int64_t col, int64_t output, Vec<float> value) {
          store(y + (row * p_.out_cols() + col) * p_.outputs + output, value);
        },
        strip.images, input_.floats());
  }

  void spatial(const Strip& strip, float* y) {
    fill_input(p_, input_, strip);
    for (int64_t row = 0; row < strip.rows(); ++row) {
      const Map input = input_.image(row / strip.count);
      Operand taps[npr::kPositions];
      for (int t = 0; t < npr::kPositions; ++t) {
        taps[t] = {input.position(row % strip.count * p_.stride + t / 3, t % 3), p_.stride * input.step(),
                   p_.weight + t * kPanel * p_.inputs, npr::kPositions * kPanel * p_.inputs, p_.inputs};
      }
      multiply_panels(p_.out_cols(), taps, npr::kPositions, p_.outputs, nullptr,
                      [&](int64_t at, int64_t output, Vec<float> value) {
                        store(y + (row * p_.out_cols() + at) * p_.outputs + output, value);
                      });
    }
  }

  const TrainedConvForward& p_;
  Winograd winograd_;
  Map input_;
};

class Backward {
 public:
  explicit Backward(const TrainedConvBackward& p)
      : p_(p),
        winograd_(p.strip(), p.cols, p.outputs, p.strip_images()),
        input_(input_map(p)),
        gradient_(gradient_map(p)) {
    const int64_t input = input_.floats() * p.strip_images(), gradient = gradient_.floats() * p.strip_images();
    input_.at = workspace<float>(input + gradient + (p.winograd() ? winograd_.floats() : 0));
    gradient_.at = input_.at + input;
    winograd_.use(gradient_.at + gradient);
  }

  void run(int64_t unit) {
    weight_grad_ = p_.weight_grad + unit * p_.taps() * p_.outputs * p_.inputs;
    std::memset(weight_grad_, 0, p_.taps() * p_.outputs * p_.inputs * sizeof(float));
    double* sums = p_.scale == nullptr ? nullptr : p_.sums + unit * 2 * p_.inputs;
    if (sums != nullptr) std::memset(sums, 0, 2 * p_.inputs * sizeof(double));
    for_each_strip(p_, unit, [&](const Strip& strip) {
      // The strip's part of dx, of an image, and where it begins.
      int64_t rows = strip.count, at = (strip.n * p_.out_rows() + strip.first) * p_.out_cols();
      if (p_.spatial) {
        rows = min(strip.count * p_.stride, p_.rows - strip.first * p_.stride);
        at = (strip.n * p_.rows + strip.first * p_.stride) * p_.cols;
        fill_input(p_, input_, strip);
        fill_gradient(strip);
        p_.winograd() ? spatial_by_winograd(strip, p_.dx + at * p_.inputs)
                      : spatial(strip, rows, p_.dx + at * p_.inputs);
      } else {
        fill_positions(p_, input_, strip);
        read_gradient(p_, at, strip.rows() * p_.out_cols(), gradient_.at, gradient_.step());
        pointwise(strip, p_.dx + at * p_.inputs);
      }
      for (int t = 0; t < p_.taps(); ++t) add_weight_gradient(t, strip);
      if (sums != nullptr) {
        add_sums(p_.dx + at * p_.inputs, p_.inputs, p_.x + at * p_.inputs, p_.inputs, strip.images * rows * p_.cols,
                 p_.inputs, sums);
      }
    });
  }

 private:
  // A 3x3 convolution's has what the strip's part of dx reads: a row and a column on either side, or for stride 2 after
  // it, where Winograd's tiles need more.
  static Map gradient_map(const TrainedConvBackward& p) {
    if (!p.spatial) return {nullptr, p.strip(), p.out_cols(), p.outputs};
    if (p.winograd()) return {nullptr, p.strip() + 2, Winograd::map_cols(p.out_cols()), p.outputs};
    return {nullptr, p.strip() + 1, p.out_cols() + 1, p.outputs};
  }
  int64_t border() const { return p_.winograd() ? 1 : 0; }  // of gradient_, before the strip

  void fill_gradient(const Strip& strip) {
    for (int64_t i = 0; i < strip.images; ++i) {
      fill(gradient_.image(i), strip.first - border(), p_.out_rows(), border(), p_.out_cols(),
           [&](int64_t row, float* to) {
             read_gradient(p_, ((strip.n + i) * p_.out_rows() + row) * p_.out_cols(), p_.out_cols(), to,
                           gradient_.step());
           });
    }
  }

  void pointwise(const Strip& strip, float* dx) {
    const Operand operand = {gradient_.at, gradient_.step(), p_.weight, kPanel * p_.outputs, p_.outputs};
    const bool gated = p_.scale != nullptr;
    multiply_panels(strip.rows() * p_.out_cols(), &operand, 1, p_.inputs, nullptr,
                    [&](int64_t at, int64_t output, Vec<float> value) {
                      if (gated) value = where_open(input_.at + at * input_.step() + output, value);
                      store(dx + at * p_.inputs + output, value);
                    });
    if (p_.addend != nullptr) add_addend(strip, dx);
  }

  void add_addend(const Strip& strip, float* dx) {
    const int64_t stride = p_.addend_stride;
    const int64_t rows = (p_.rows + stride - 1) / stride, cols = (p_.cols + stride - 1) / stride;
    for (int64_t row = 0; row < strip.rows(); ++row) {
      const int64_t n = strip.n + row / strip.count, of_image = strip.first + row % strip.count;
      if (of_image % stride != 0) continue;
      for (int64_t col = 0; col < cols; ++col) {
        const int64_t from = ((n * rows + of_image / stride) * cols + col) * p_.inputs;
        float* to = dx + (row * p_.cols + col * stride) * p_.inputs;
        for (int64_t c = 0; c < p_.inputs; c += kGates) {
          const uint32_t gates = p_.addend_gate == nullptr ? ~uint32_t(0) : p_.addend_gate[(from + c) / kGates];
#pragma GCC unroll 8
          for (int k = 0; k < kGates; k += kLanes<float>) {
            store(to + c + k, load(to + c + k) + where_open(gates >> k, load(p_.addend + from + c + k)));
          }
        }
      }
    }
  }

  void spatial_by_winograd(const Strip& strip, float* dx) {
    winograd_.run(
        gradient_.at, gradient_.cols * gradient_.step(), gradient_.step(), strip.count, p_.cols, p_.weight, p_.inputs,
        [&](int64_t row, int64_t col, int64_t output, Vec<float> value) {
          const float* gate = input_.image(row / strip.count).position(row % strip.count + 1, col + 1) + output;
          store(dx + (row * p_.cols + col) * p_.inputs + output, where_open(gate, value));
        },
        strip.images, gradient_.floats());
  }

  // Stride 2: an input row or column 2i meets the middle tap of output i; one of 2i + 1 the last tap of output i and
  // the first one of output i + 1.
  void spatial(const Strip& strip, int64_t rows, float* dx) {
    struct Meeting {
      int tap, after;
    };
    constexpr Meeting kMeetings[2][2] = {{{1, 0}, {1, 0}}, {{2, 0}, {0, 1}}};
    for (int64_t of_strip = 0; of_strip < strip.images * rows; ++of_strip) {
      const int64_t row = of_strip % rows;
      const Map gradient = gradient_.image(of_strip / rows), input = input_.image(of_strip / rows);
      const int odd_row = int(row % 2);
      for (int odd_col = 0; odd_col < 2; ++odd_col) {
        Operand operands[4];
        int count = 0;
        for (int i = 0; i <= odd_row; ++i) {
          for (int j = 0; j <= odd_col; ++j) {
            const Meeting down = kMeetings[odd_row][i], across = kMeetings[odd_col][j];
            operands[count++] = {gradient.position(row / 2 + down.after, across.after), gradient.step(),
                                 p_.weight + (3 * down.tap + across.tap) * kPanel * p_.outputs,
                                 npr::kPositions * kPanel * p_.outputs, p_.outputs};
          }
        }
        multiply_panels((p_.cols + 1 - odd_col) / 2, operands, count, p_.inputs, nullptr,
                        [&](int64_t at, int64_t output, Vec<float> value) {
                          const int64_t col = 2 * at + odd_col;
                          store(dx + (of_strip * p_.cols + col) * p_.inputs + output,
                                where_open(input.position(row + 1, col + 1) + output, value));
                        });
      }
    }
  }

  // weight_grad[t][o][i] += sum over the strip's output positions of dy[o] * what tap t read[i].
  void add_weight_gradient(int t, const Strip& strip) {
    float* sum = weight_grad_ + t * p_.outputs * p_.inputs;
    const int64_t groups = (p_.outputs + kGroup - 1) / kGroup, stride = p_.spatial ? p_.stride : 1;
    const int64_t down = p_.spatial ? t / 3 : 0, across = p_.spatial ? t % 3 : 0;
    // One run of positions for 1x1 convolutions, one a row for 3x3.
    const int64_t runs = p_.spatial ? strip.rows() : 1, run = p_.spatial ? p_.out_cols() : strip.rows() * p_.out_cols();
    for (int64_t group = 0, first = 0; group < groups; ++group) {
      const int64_t last = (group + 1) * p_.outputs / groups;
      with_constant<kGroup>(int(last - first), [&](auto size) {
        constexpr int P = decltype(size)::value;
        for (int64_t input = 0; input < p_.inputs; input += kTileOutputs) {
          Tile<P> tile = {};
          for (int64_t row = 0; row < runs; ++row) {
            const int64_t image = row / strip.count, of_image = row % strip.count;
            accumulate<P>(gradient_.image(image).position(of_image + border(), border()) + first, 1,
                          input_.image(image).position(of_image * stride + down, across) + input, run, tile,
                          gradient_.step(), stride * input_.step());
          }
#pragma GCC unroll 16
          for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < kPanelVectors; ++j) {
              float* to = sum + (first + i) * p_.inputs + input + j * kLanes<float>;
              store(to, load(to) + tile[i][j]);
            }
          }
        }
      });
      first = last;
    }
  }

  const TrainedConvBackward& p_;
  Winograd winograd_;
  Map input_, gradient_;
  float* weight_grad_ = nullptr;
};

}  // namespace

void trained_conv_forward(const TrainedConvForward& p, int64_t first, int64_t last) {
  Forward forward(p);
  for (int64_t unit = first; unit < last; ++unit) forward.run(unit);
}

void trained_conv_backward(const TrainedConvBackward& p, int64_t first, int64_t last) {
  Backward backward(p);
  for (int64_t unit = first; unit < last; ++unit) backward.run(unit);
}

void block_end(const BlockEnd& p, int64_t first, int64_t last) {
  const int64_t end = min(last * p.kUnit, p.positions);
  for (int64_t i = first * p.kUnit; i < end; ++i) {
    for (int64_t group = 0; group < p.channels; group += kGates) {
      uint32_t gates = 0;
#pragma GCC unroll 8
      for (int k = 0; k < kGates; k += kLanes<float>) {
        const int64_t c = group + k, at = i * p.channels + c;
        Vec<float> shortcut = load(p.x + at);
        if (p.shortcut_scale != nullptr) shortcut = load(p.shortcut_scale + c) * shortcut + load(p.shortcut_shift + c);
        const Vec<float> out = rectify(load(p.scale + c) * load(p.y + at) + load(p.shift + c) + shortcut);
        p.past_caches ? stream(p.out + at, out) : store(p.out + at, out);
        gates |= open_gates(out) << k;
      }
      p.gate[(i * p.channels + group) / kGates] = gates;
    }
  }
  if (p.past_caches) finish_streaming();
}

void block_end_sums(const BlockEndSums& p, int64_t first, int64_t last) {
  constexpr int64_t kBlock = 16;
  float* dz = workspace<float>(kBlock * p.channels);
  for (int64_t unit = first; unit < last; ++unit) {
    double* sums = p.sums + unit * 3 * p.channels;
    std::memset(sums, 0, 3 * p.channels * sizeof(double));
    const int64_t end = min((unit + 1) * p.unit(), p.positions);
    for (int64_t i = unit * p.unit(); i < end; i += kBlock) {
      const int64_t count = min(kBlock, end - i), at = i * p.channels;
      for (int64_t c = 0; c < count * p.channels; c += kGates) {
        const uint32_t gates = p.gate[(at + c) / kGates];
#pragma GCC unroll 8
        for (int k = 0; k < kGates; k += kLanes<float>) {
          store(dz + c + k, where_open(gates >> k, load(p.grad + at + c + k)));
        }
      }
      add_sums(dz, p.channels, p.y + at, p.channels, count, p.channels, sums);
      if (p.shortcut != nullptr) add_products(dz, p.shortcut + at, count, p.channels, sums + 2 * p.channels);
    }
  }
}

}  // namespace npr::cpu::NPR_ISA
