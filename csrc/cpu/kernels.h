// The CPU kernels, as their caller sees them.
//
// Every operation is compiled once per instruction set, into namespaces of their own, and reached
// through a table; the best table that the processor supports is chosen at run time. A kernel works
// on a range of independent units, so that the caller decides about threads; no result depends on
// how the units are divided.
#pragma once

#include <cstddef>

#include "npr.h"

namespace npr::cpu {

enum class Type { f32, bf16, f16, f64 };

constexpr int64_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// Arithmetic is float, or double where the result is double.
constexpr Type compute_type(Type type) { return type == Type::f64 ? Type::f64 : Type::f32; }

// Weights in the order in which the kernels read them: [taps][outputs], each row padded with zeros
// to a multiple of kPadding, element type compute_type(type of the result).
constexpr int64_t kPadding = 64;
constexpr int64_t padded(int64_t size) { return (size + kPadding - 1) / kPadding * kPadding; }

struct ConvForward : Source {
  int64_t outputs;
  const void* weight;  // [taps][padded(outputs)]
  const void* bias;    // [padded(outputs)]
  void* out;           // [N, O, rows, cols], or [N, rows, cols, O] if channels_last
  Type type;
  bool channels_last;
  bool past_caches;  // whether out is too large for the caches, and had better not go through them

  int64_t units() const { return images.batch * images.rows(); }  // output rows
};

struct ConvBackward : Source {
  int64_t outputs;
  const void* grad;  // [N, O, rows, cols] with these strides, in elements
  int64_t stride_n, stride_o, stride_h, stride_w;
  Type type;
  bool bias;        // whether its gradient is wanted
  double* partial;  // [units()][outputs][taps + 1]: one sum per unit; the last column is the bias's

  // A unit is whole blocks of output rows, so many that its sum is smaller than the pixels it covers.
  static constexpr int64_t kBlockRows = 16;
  int64_t unit_rows() const {
    const int64_t cells = 2048 * residual.maps * ((outputs + 63) / 64), block = kBlockRows * images.cols();
    return kBlockRows * ((cells + block - 1) / block);
  }
  int64_t units() const { return (images.batch * images.rows() + unit_rows() - 1) / unit_rows(); }
};

// Exact sums over all patches: 1, d_k and d_k d_l.
struct PatchMoments : Source {
  int64_t* partial;  // [units()][1 + K + K * K]: one sum per unit

  static constexpr int64_t kUnitRows = 64;
  int64_t size() const { return 1 + taps() + taps() * taps(); }
  int64_t units() const { return (images.batch * images.rows() + kUnitRows - 1) / kUnitRows; }
};

// max_pool(relu(scale * conv + shift)), 3x3, stride 2, padding 1; the scale is folded into the weight.
// If `scale` is given it is not folded, and NaN and infinity go through every step as they would one by one.
struct StemForward : Source {
  int64_t outputs;
  const void* weight;  // [taps][padded(outputs)]
  const void* scale;   // [padded(outputs)], or null
  const void* shift;   // [padded(outputs)]
  void* out;           // [N, pooled rows, pooled cols, O]
  uint8_t* code;       // likewise, or null: arg-max position 0..8 in the window, kClosed where ReLU's gate is
  Type type;

  static constexpr int kClosed = npr::kClosed;
  int64_t units() const { return images.batch * pooled(images.rows()); }  // pooled rows
};

// Sums over the pooled map: grad times the taps at the arg-max position, and grad, where the gate is open.
struct StemBackward : Source {
  int64_t outputs;
  const void* grad;  // [N, O, pooled rows, pooled cols] with these strides, in elements
  int64_t stride_n, stride_o, stride_h, stride_w;
  Type type;
  const uint8_t* code;  // [N, pooled rows, pooled cols, O]
  double* partial;      // [units()][outputs][taps + 1]: one sum per unit; the last column is grad's

  static constexpr int64_t kUnitRows = 16;  // pooled rows
  int64_t rows() const { return images.batch * pooled(images.rows()); }
  int64_t units() const { return (rows() + kUnitRows - 1) / kUnitRows; }
};

// A residual block of ResNet-50, batch norms folded in, on maps [N, rows, cols, channels] of float:
// relu(expand(relu(spatial(relu(reduce(x))))) + shortcut), where reduce and expand are 1x1, spatial is 3x3 with
// padding 1 and the block's stride, and the shortcut is x or, if it changes shape, a 1x1 convolution of it.
//
// Weights are panels, [outputs / kPanel][depth][kPanel]. The depth of spatial is 9 taps of `width` channels or, for
// stride 1, the 36 points of Winograd's F(4x4, 3x3).
struct Bottleneck {
  int64_t batch, rows, cols;  // of x
  int64_t inputs, width, outputs, stride;
  const float* x;
  const float *reduce, *reduce_bias;
  const float *spatial, *spatial_bias;
  const float *expand, *expand_bias;
  const float* project;  // the shortcut's, of the same bias; null if it is x
  bool winograd;
  float* out;  // [N, out_rows, out_cols, outputs]

  static constexpr int64_t kPanel = 32;
  static constexpr int kPoints = 36, kTile = 4;

  int64_t out_rows() const { return (rows + stride - 1) / stride; }
  int64_t out_cols() const { return (cols + stride - 1) / stride; }
  // A unit is a strip of output rows whose intermediate maps stay in the second-level cache.
  int64_t strip() const {
    const int64_t wanted = (kStripPositions + out_cols() - 1) / out_cols();
    return ((wanted < out_rows() ? wanted : out_rows()) + kTile - 1) / kTile * kTile;
  }
  int64_t strips() const { return (out_rows() + strip() - 1) / strip(); }
  int64_t units() const { return batch * strips(); }

 private:
  static constexpr int64_t kStripPositions = 256;
};

// A convolution of a residual block in training, with the batch norm and the ReLU before it, on maps [N, rows, cols,
// channels] of float: 1x1, or 3x3 with padding 1. Its work is strips of output rows of an image, or of several whole
// images; a unit is some strips one after the other, whose sums are one part of the whole.
struct TrainedConv {
  int64_t batch, rows, cols;  // of x
  int64_t inputs, outputs, stride;
  bool spatial;  // 3x3
  const float* x;
  const float *scale, *shift;  // it reads relu(scale * x + shift), a value a channel; null: x itself

  static constexpr int64_t kPanel = Bottleneck::kPanel;
  int64_t taps() const { return spatial ? npr::kPositions : 1; }
  bool winograd() const { return spatial && stride == 1; }
  int64_t out_rows() const { return (rows + stride - 1) / stride; }
  int64_t out_cols() const { return (cols + stride - 1) / stride; }
  int64_t out_positions() const { return batch * out_rows() * out_cols(); }
  int64_t strip() const {
    const int64_t wanted = (kStripPositions + out_cols() - 1) / out_cols();
    const int64_t most = wanted < out_rows() ? wanted : out_rows();
    return winograd() ? (most + Bottleneck::kTile - 1) / Bottleneck::kTile * Bottleneck::kTile : most;
  }
  // Small maps share a strip, so that weights are read for many positions; but so few that four threads find work.
  int64_t strip_images() const {
    const int64_t fitting = kStripPositions / (out_rows() * out_cols()), shares = (batch + 3) / 4;
    return fitting < 2 || shares < 2 ? 1 : fitting < shares ? fitting : shares;
  }
  int64_t image_strips() const { return (out_rows() + strip() - 1) / strip(); }
  int64_t strips() const { return (batch + strip_images() - 1) / strip_images() * image_strips(); }
  // Not more units than whose sums of weights' gradients are small; whatever the number of threads.
  int64_t unit() const {
    const int64_t fitting = kPartialFloats / (taps() * inputs * outputs);
    const int64_t most = fitting < 2 ? 2 : fitting < kMostUnits ? fitting : kMostUnits;
    return (strips() + most - 1) / most;
  }
  int64_t units() const { return (strips() + unit() - 1) / unit(); }

 private:
  static constexpr int64_t kStripPositions = 512, kMostUnits = 32, kPartialFloats = int64_t(8) << 20;
};

// y = conv(relu(scale * x + shift)), and the sums that its batch statistics follow from.
struct TrainedConvForward : TrainedConv {
  const float* weight;  // panels: [outputs / kPanel][taps, or Winograd's 36 points][inputs][kPanel]
  float* y;             // [N, out_rows, out_cols, outputs]
  double* sums;         // [units()][2][outputs]: of y and of y^2
};

// Its gradients, from those of the batch norm after it: dy = slope * dz + slant * y + offset, a value a channel.
struct TrainedConvBackward : TrainedConv {
  const float* grad;     // [N, out_rows, out_cols, outputs]
  const uint32_t* gate;  // gates of as many, or null: dz is grad where they are open, or everywhere
  const float* y;        // as grad
  const float *slope, *slant, *offset;
  const float* weight;  // panels of what takes dy to dx: [inputs / kPanel][taps, or 36 points][outputs][kPanel]
  // With `scale`, dx is the gradient of scale * x + shift, 0 where ReLU is closed. Else it is that of x plus, at every
  // `addend_stride`-th row and column, `addend` where `addend_gate` is open, or everywhere if that is null.
  // [N, rows, cols, inputs]; of a 1x1 convolution of stride 2 the positions that it reads, [N, out_rows, out_cols,
  // inputs].
  float* dx;
  const float* addend;  // null: nothing is added
  const uint32_t* addend_gate;
  int64_t addend_stride;
  float* weight_grad;  // [units()][taps][outputs][inputs]
  double* sums;        // [units()][2][inputs]: of dx and of dx * x; with `scale` alone
};

// What ends a residual block: relu(scale * y + shift + shortcut), the shortcut being x or shortcut_scale * x +
// shortcut_shift. All maps are [positions, channels]. Where ReLU is open is all that the backward pass reads of the
// result: gates [positions][channels / kGates], of which bit i is that of the i-th of so many channels.
struct BlockEnd {
  int64_t positions, channels;
  const float *y, *scale, *shift;
  const float *x, *shortcut_scale, *shortcut_shift;  // both null: x itself
  float* out;
  uint32_t* gate;
  bool past_caches;  // writes the result past them

  static constexpr int64_t kUnit = 512, kGates = 32;
  int64_t units() const { return (positions + kUnit - 1) / kUnit; }
};

// Sums over positions of dz, dz * y and, where given, dz * shortcut; dz is grad where the gate is open.
struct BlockEndSums {
  int64_t positions, channels;
  const float* grad;
  const uint32_t* gate;
  const float *y, *shortcut;  // the latter or null
  double* sums;               // [units()][3][channels]

  static constexpr int64_t kMostUnits = 64;
  int64_t unit() const { return (positions + kMostUnits - 1) / kMostUnits; }
  int64_t units() const { return positions == 0 ? 0 : (positions + unit() - 1) / unit(); }
};

// A convolution of 8-bit maps: weights of which four channels lie side by side, and for each output what makes its
// integer sum a number of the result's steps.
struct QuantisedConv {
  const int8_t* weight;  // [outputs / kPanel][depth / kQuad][kPanel][kQuad]
  const float* gain;     // [outputs]
  const float* bias;     // [outputs]; the shortcut's is part of expand's
};

// The same block on maps [N, rows, cols, channels] of bytes, numbers of steps from 0 up, that are rounded to bytes
// again after every ReLU. The depth of spatial is 9 taps of `width` channels. Of shortcut, the weight is null where it
// is x.
struct QuantisedBottleneck {
  int64_t batch, rows, cols;  // of x
  int64_t inputs, width, outputs, stride;
  const uint8_t* x;
  QuantisedConv reduce, spatial, expand, shortcut;
  bool as_float;  // the result is float, not rounded
  void* out;      // [N, out_rows, out_cols, outputs]

  static constexpr int64_t kPanel = 32, kQuad = 4;
  static constexpr int kLargestWeight = 64;  // to either side
  // Of the weights of one sign among four that 16 bits add: channels 0, 1, 4, 5 and 2, 3, 6, 7 of each eight of an
  // output, in each of the spatial convolution's places.
  static constexpr int kLargestSum = 128;
  static constexpr int64_t kMaxDepth = INT32_MAX / (255 * kLargestWeight);  // whose sums int32 holds

  int64_t out_rows() const { return (rows + stride - 1) / stride; }
  int64_t out_cols() const { return (cols + stride - 1) / stride; }
  // A unit is a strip of output rows whose intermediate maps stay in the cache.
  int64_t strip() const {
    const int64_t wanted = (kStripPositions + out_cols() - 1) / out_cols();
    return wanted < out_rows() ? wanted : out_rows();
  }
  int64_t strips() const { return (out_rows() + strip() - 1) / strip(); }
  int64_t units() const { return batch * strips(); }

 private:
  static constexpr int64_t kStripPositions = 256;
};

// Floats to bytes: times the channel's gain, to nearest, ties to even, 0 or 255 beyond.
struct Quantise {
  const float* x;     // [positions, channels]
  const float* gain;  // [channels]
  uint8_t* out;       // [positions, channels]
  int64_t positions, channels;

  static constexpr int64_t kUnit = 256;  // positions
  int64_t units() const { return (positions + kUnit - 1) / kUnit; }
};

// The coherence of the strength of detail, npr_kernels/periodicity.py: a float for each scale, difference, channel of
// the image and frequency down and across. A unit is an image.
struct Coherence {
  Images images;  // of 3 channels
  float* out;     // [N, kScales, kDifferences, 3, kBlock, kAcross]

  static constexpr int kChannels = 3, kScales = 3, kDifferences = 8, kBlock = 8, kAcross = kBlock / 2 + 1;
  static constexpr int64_t kSize = kScales * kDifferences * kChannels * kBlock * kAcross;  // of an image
  int64_t units() const { return images.batch; }
};

// Profiles of second differences, npr_kernels/resampling.py. A unit is an image.
struct Profiles {
  Images images;   // of 3 channels
  double* across;  // [N, W - 2]
  double* down;    // [N, H - 2]

  int64_t units() const { return images.batch; }
};

// How many cells of 2x2 pixels have any texture, npr_kernels/texture.py. A unit is an image.
struct Texture {
  Images images;  // of 3 channels
  int64_t step;   // from cell to cell, across and down
  int64_t* out;   // [N]

  int64_t units() const { return images.batch; }
};

struct Kernels {
  const char* name;
  void (*conv_forward)(const ConvForward&, int64_t first, int64_t last);
  void (*conv_backward)(const ConvBackward&, int64_t first, int64_t last);
  void (*patch_moments)(const PatchMoments&, int64_t first, int64_t last);
  void (*stem_forward)(const StemForward&, int64_t first, int64_t last);
  void (*stem_backward)(const StemBackward&, int64_t first, int64_t last);
  void (*bottleneck)(const Bottleneck&, int64_t first, int64_t last);
  void (*trained_conv_forward)(const TrainedConvForward&, int64_t first, int64_t last);
  void (*trained_conv_backward)(const TrainedConvBackward&, int64_t first, int64_t last);
  void (*block_end)(const BlockEnd&, int64_t first, int64_t last);
  void (*block_end_sums)(const BlockEndSums&, int64_t first, int64_t last);
  void (*quantised_bottleneck)(const QuantisedBottleneck&, int64_t first, int64_t last);
  void (*quantise)(const Quantise&, int64_t first, int64_t last);
  void (*coherence)(const Coherence&, int64_t first, int64_t last);
  void (*profiles)(const Profiles&, int64_t first, int64_t last);
  void (*texture)(const Texture&, int64_t first, int64_t last);
  int64_t (*multiply_adds)(int64_t steps);  // does so many steps of float's at full speed; returns their number
};

// The tables in this library that the processor supports, from the plainest to the best. Visible to facts.cpp, which is
// linked to the library.
struct Supported {
  const Kernels* tables[4];
  int count;
};
[[gnu::visibility("default")]] const Supported& supported();

// The table in use: the best one, or the one that select() named. select() returns false for an
// unknown or unsupported name.
const Kernels& kernels();
bool select(const char* name);

}  // namespace npr::cpu
