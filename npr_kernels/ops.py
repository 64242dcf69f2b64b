"""The ops ``torch.ops.npr``: fake kernels and autograd of what the extension implements.

``csrc/bindings.cpp`` defines the schemas and registers the kernels of each device:

    npr::conv2d(Tensor images, Tensor weight, Tensor? bias, float[] channel_scale,
                ScalarType out_dtype, bool channels_last, bool fast) -> Tensor
    npr::conv2d_backward(Tensor grad, Tensor images, float[] channel_scale,
                         ScalarType weight_dtype, bool bias) -> (Tensor, Tensor)

``images`` is uint8 [N, C, H, W] of any strides, ``weight`` [O, C, 3, 3], and ``channel_scale[c]`` multiplies the
integer residual of channel c: scale / (255 std_c). The convolution is linear in its weight, so differentiating
``conv2d_backward`` again is another ``conv2d``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from npr_kernels.backends import native


def conv2d_shape(images: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """[N, O, OH, OW] of the fused convolution."""
    return images.shape[0], weight.shape[0], images.shape[2] // 2, images.shape[3] // 2


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def fake_conv2d(images, weight, bias, channel_scale, out_dtype, channels_last, fast):
    shape = conv2d_shape(images, weight)
    return images.new_empty(shape, dtype=out_dtype).to(memory_format=memory_format(channels_last))


def fake_conv2d_backward(grad, images, channel_scale, weight_dtype, bias):
    out = grad.shape[1]
    return (
        grad.new_empty((out, images.shape[1], 3, 3), dtype=weight_dtype),
        grad.new_empty((out if bias else 0,), dtype=weight_dtype),
    )


def save_for_backward(ctx, inputs, output):
    images, weight, bias, channel_scale = inputs[:4]
    ctx.save_for_backward(images)
    ctx.channel_scale, ctx.weight_dtype, ctx.bias = channel_scale, weight.dtype, bias is not None


def conv2d_backward(ctx, grad):
    weight_grad = bias_grad = None
    bias = ctx.bias and ctx.needs_input_grad[2]
    if ctx.needs_input_grad[1] or bias:
        (images,) = ctx.saved_tensors
        weight_grad, bias_grad = torch.ops.npr.conv2d_backward(grad, images, ctx.channel_scale, ctx.weight_dtype, bias)
    return None, weight_grad, bias_grad if bias else None, None, None, None, None


def save_for_double_backward(ctx, inputs, output):
    grad, images, channel_scale, _, _ = inputs
    ctx.save_for_backward(images)
    ctx.channel_scale, ctx.grad_dtype = channel_scale, grad.dtype
    ctx.channels_last = grad.is_contiguous(memory_format=torch.channels_last) and not grad.is_contiguous()


def conv2d_double_backward(ctx, weight_cotangent, bias_cotangent):
    (images,) = ctx.saved_tensors
    bias = bias_cotangent if bias_cotangent.numel() else None
    grad = torch.ops.npr.conv2d(
        images, weight_cotangent, bias, ctx.channel_scale, ctx.grad_dtype, ctx.channels_last, False
    )
    return grad, None, None, None, None


if native.extension is not None:
    torch.library.register_fake("npr::conv2d", fake_conv2d)
    torch.library.register_autograd("npr::conv2d", conv2d_backward, setup_context=save_for_backward)
    torch.library.register_fake("npr::conv2d_backward", fake_conv2d_backward)
    torch.library.register_autograd(
        "npr::conv2d_backward", conv2d_double_backward, setup_context=save_for_double_backward
    )
