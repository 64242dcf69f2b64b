// The CUDA kernels, as their caller sees them: device pointers, sizes, a workspace and a stream.
//
// Everything is enqueued on `stream` of the current device; nothing here synchronises with the host
// or allocates. An operation writes its outputs completely and nothing else but `workspace`, device
// memory of at least the bytes that its *_workspace function asks for, aligned to 16, free to be
// reused once the stream has passed. Pointers to arrays that do not exist are null.
#pragma once

#include <cstddef>

#include "npr.h"

struct CUstream_st;

namespace npr::cuda {

using Stream = CUstream_st*;  // cudaStream_t

enum class Type { f32, bf16, f16, f64 };

constexpr int64_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

// What became of an operation: the step that failed, a kernel or a call of the runtime, and why. Kernels run
// asynchronously, so what the runtime tells with a launch may be of something that ran before, whoever's. With
// NPR_CUDA_SYNC=1 in the environment each kernel is waited for, and what it does wrong is reported with it.
struct Status {
  const char* step = nullptr;
  const char* error = nullptr;
  bool of_runtime = false;  // or the operation refuses
  bool ok() const { return error == nullptr; }
};

// What the operations know of the current device; asked for once for each of them.
struct Device {
  int multiprocessors;
};
Status current_device(Device& device);

// Whether these kernels run on the current device: loads one of them, with the runtime that they are linked to.
Status probe();
// The version of that runtime, and the newest one that the driver serves, 0 without one: 13000 is 13.0.
void versions(int& runtime, int& driver);

// A contiguous array of parameters.
struct Array {
  const void* data = nullptr;
  Type type = Type::f32;
};

// A gradient [N, O, rows, cols] of any strides, in elements.
struct Gradient {
  const void* data;
  Type type;
  int64_t stride_n, stride_o, stride_h, stride_w;
};

// What an operation reads: images through the residual of this number in kResiduals.
struct Reading {
  Images images;
  int64_t residual;

  Source source() const { return {images, kResiduals[residual]}; }
};

// Below, Q is the number of the weight's input channels, one for each map and channel of the images, and K that of the
// taps of a patch. `channel_scale` is a host array [Q]: what multiplies the integer differences.

// out = conv(differences, weight * channel_scale) + bias.
struct ConvForward : Reading {
  int64_t outputs;
  Array weight;  // [outputs, Q, 3, 3]
  Array bias;    // [outputs]
  const double* channel_scale;
  void* out;  // [N, O, rows, cols], or [N, rows, cols, O] if channels_last
  Type type;
  bool channels_last;
  bool fast;  // round the weights to one float16 term
};
int64_t conv_forward_workspace(const ConvForward&, Device);
Status conv_forward(const ConvForward&, Device, void* workspace, Stream stream);

// The gradients of the weight and the bias.
struct ConvBackward : Reading {
  int64_t outputs;
  Gradient grad;
  const double* channel_scale;
  void* grad_weight;  // [outputs, Q, 3, 3]
  void* grad_bias;    // [outputs]
  Type type;          // of both results
};
int64_t conv_backward_workspace(const ConvBackward&, Device);
Status conv_backward(const ConvBackward&, Device, void* workspace, Stream stream);

// moments = N, sum d [K], sum d d^T [K, K], exactly.
struct Moments : Reading {
  int64_t* moments;
};
int64_t moments_workspace(const Moments&, Device);
Status moments(const Moments&, Device, void* workspace, Stream stream);

// out = max_pool(relu(batch_norm(conv))), by the statistics of `moments`, or by mean and var as given.
struct StemForward : Reading {
  int64_t outputs;
  const int64_t* moments;  // null: use mean and var
  Array weight;            // [outputs, Q, 3, 3]
  Array bn_weight, bn_bias;
  Array mean, var;  // [outputs], read only without moments
  double eps;
  const double* channel_scale;
  void* out;  // [N, pooled rows, pooled cols, O]
  Type type;
  uint8_t* code;                 // null, or like out: position of the maximum (npr.h), or 9 where it is not positive
  double *used_mean, *used_var;  // [outputs]
  bool fast;
};
int64_t stem_forward_workspace(const StemForward&, Device);
Status stem_forward(const StemForward&, Device, void* workspace, Stream stream);

// The gradients of the stem's parameters; without moments the statistics are constants. Where the moments cover other
// processes' images too, the gradients are this process's share of the sum.
struct StemBackward : Reading {
  int64_t outputs;
  Gradient grad;             // of the pooled map
  const uint8_t* code;       // [N, pooled rows, pooled cols, O]
  const int64_t* moments;    // or null
  Array weight, bn_weight;   // bn_weight may be null
  const double *mean, *var;  // [outputs], as stem_forward used them
  double eps;
  const double* channel_scale;
  void *grad_weight, *grad_bn_weight, *grad_bn_bias;
  Type type;  // of the results
};
int64_t stem_backward_workspace(const StemBackward&, Device);
Status stem_backward(const StemBackward&, Device, void* workspace, Stream stream);

}  // namespace npr::cuda
