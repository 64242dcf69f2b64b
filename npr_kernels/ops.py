"""The ops ``torch.ops.npr``: fake kernels and autograd of what the extension implements.

``csrc/bindings.cpp``, ``bindings_body.cpp``, ``bindings_training.cpp``, ``bindings_quantised.cpp``,
``bindings_periodicity.cpp`` and ``bindings_signs.cpp`` define the schemas, ``bindings_cpu.cpp``, ``bindings_cuda.cpp``
and again the latter five register the kernels of each device::

    npr::conv2d(Tensor images, Tensor weight, Tensor? bias, float[] channel_scale,
                ScalarType out_dtype, bool channels_last, bool fast, *, str residual="npr") -> Tensor
    npr::conv2d_backward(Tensor grad, Tensor images, float[] channel_scale,
                         ScalarType weight_dtype, bool bias, *, str residual="npr") -> (Tensor, Tensor)
    npr::patch_moments(Tensor images, *, str residual="npr") -> Tensor
    npr::stem(Tensor images, Tensor? moments, Tensor weight, Tensor? bn_weight, Tensor? bn_bias,
              Tensor? mean, Tensor? var, float eps, float[] channel_scale, ScalarType out_dtype, bool save,
              bool fast, *, str residual="npr") -> (Tensor out, Tensor code, Tensor mean, Tensor var)
    npr::stem_backward(Tensor grad, Tensor images, Tensor code, Tensor? moments, Tensor weight, Tensor? bn_weight,
                       Tensor mean, Tensor var, float eps, float[] channel_scale, *, str residual="npr")
                       -> (Tensor, Tensor, Tensor)
    npr::bottleneck(Tensor x, Tensor reduce, Tensor reduce_bias, Tensor spatial, Tensor spatial_bias, Tensor expand,
                    Tensor expand_bias, Tensor? project, int stride) -> Tensor
    npr::bottleneck_out(... the same, Tensor(a!) out) -> ()
    npr::trained_bottleneck(Tensor x, Tensor reduce, Tensor spatial, Tensor expand, Tensor? project, Tensor gamma,
                            Tensor beta, int stride, float eps)
                            -> (Tensor out, Tensor gate, Tensor reduced, Tensor middle, Tensor expanded,
                                Tensor projected, Tensor mean, Tensor var)
    npr::trained_bottleneck_backward(Tensor grad, Tensor x, ... what trained_bottleneck gave and took)
                                     -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)
    npr::coherence(Tensor images) -> Tensor
    npr::profiles(Tensor images) -> (Tensor, Tensor)
    npr::textured_cells(Tensor images, int step) -> Tensor

``images`` is uint8 [N, C, H, W] of any strides. ``weight`` is [O, Q, 3, 3], Q = C for the residuals "npr" and "haar",
2 C for "npr+haar", and ``channel_scale[q]`` multiplies the integers that its channel q reads: scale / (255 std_c), half
of that for Haar's. The convolution is linear in its weight, so differentiating ``conv2d_backward`` again is another
``conv2d``.

``patch_moments`` counts the patches d, K = 8 C, 9 C or 17 C integers each in the order of the weight's taps, and sums d
and d d^T: int64 [1 + K + K^2], exact.
``stem`` normalises with the statistics that follow from them or, without them, with ``mean`` and ``var``, and returns
the float64 statistics that it used. If ``save``, it returns one byte for each output, the arg-max position 0..8, the
first of equals, or 9 where ReLU's gate is closed: all that ``stem_backward`` needs beside the images. Of
16-bit results, values that differ by less than 2^-19 of themselves may count as equal. docs/stem.md has the derivation.
``bottleneck`` is for inference alone and for the CPU; :mod:`npr_kernels.bottleneck` packs its weights.
``trained_bottleneck`` is the block in training, for the CPU: :mod:`npr_kernels.trained_bottleneck`. ``gamma`` and
``beta`` are its batch norms', one after the other, as are the float64 ``mean`` and (biased) ``var`` of the batch; the
maps that it gives besides are its convolutions' results. ``gate`` is int32 [N, rows, columns, outputs / 32]: bit i of
an element tells whether the last ReLU is open at the i-th of its 32 channels.
``coherence``, ``profiles`` and ``textured_cells`` are for the CPU, and for images of 3 channels:
:mod:`npr_kernels.periodicity`, :mod:`npr_kernels.resampling` and :mod:`npr_kernels.texture`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from npr_kernels import periodicity
from npr_kernels.backends import native
from npr_kernels.bottleneck import PANEL
from npr_kernels.residuals import RESIDUALS, taps


def conv2d_shape(images: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """[N, O, OH, OW] of the fused convolution."""
    return images.shape[0], weight.shape[0], images.shape[2] // 2, images.shape[3] // 2


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def fake_conv2d(images, weight, bias, channel_scale, out_dtype, channels_last, fast, *, residual="npr"):
    shape = conv2d_shape(images, weight)
    return images.new_empty(shape, dtype=out_dtype).to(memory_format=memory_format(channels_last))


def fake_conv2d_backward(grad, images, channel_scale, weight_dtype, bias, *, residual="npr"):
    out = grad.shape[1]
    return (
        grad.new_empty((out, images.shape[1] * len(RESIDUALS[residual]), 3, 3), dtype=weight_dtype),
        grad.new_empty((out if bias else 0,), dtype=weight_dtype),
    )


def save_for_backward(ctx, inputs, keyword_only_inputs, output):
    images, weight, bias, channel_scale = inputs[:4]
    ctx.save_for_backward(images)
    ctx.channel_scale, ctx.weight_dtype, ctx.bias = channel_scale, weight.dtype, bias is not None
    ctx.residual = keyword_only_inputs["residual"]


def conv2d_backward(ctx, grad, *, prefix):
    weight_grad = bias_grad = None
    bias = ctx.bias and ctx.needs_input_grad[2]
    if ctx.needs_input_grad[1] or bias:
        (images,) = ctx.saved_tensors
        op = getattr(torch.ops.npr, f"{prefix}conv2d_backward")
        weight_grad, bias_grad = op(grad, images, ctx.channel_scale, ctx.weight_dtype, bias, residual=ctx.residual)
    return None, weight_grad, bias_grad if bias else None, None, None, None, None


def save_for_double_backward(ctx, inputs, keyword_only_inputs, output):
    grad, images, channel_scale, _, _ = inputs
    ctx.save_for_backward(images)
    ctx.channel_scale, ctx.grad_dtype = channel_scale, grad.dtype
    ctx.residual = keyword_only_inputs["residual"]
    ctx.channels_last = grad.is_contiguous(memory_format=torch.channels_last) and not grad.is_contiguous()


def conv2d_double_backward(ctx, weight_cotangent, bias_cotangent, *, prefix):
    (images,) = ctx.saved_tensors
    bias = bias_cotangent if bias_cotangent.numel() else None
    grad = getattr(torch.ops.npr, f"{prefix}conv2d")(
        images,
        weight_cotangent,
        bias,
        ctx.channel_scale,
        ctx.grad_dtype,
        ctx.channels_last,
        False,
        residual=ctx.residual,
    )
    return grad, None, None, None, None


def fake_patch_moments(images, *, residual="npr"):
    length = taps(residual) * images.shape[1]
    return images.new_empty((1 + length + length * length,), dtype=torch.int64)


def stem_shape(images: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
    """[N, O, PH, PW] of the fused stem."""
    return images.shape[0], weight.shape[0], (images.shape[2] // 2 + 1) // 2, (images.shape[3] // 2 + 1) // 2


def fake_stem(
    images, moments, weight, bn_weight, bn_bias, mean, var, eps, channel_scale, out_dtype, save, fast, *,
    residual="npr",
):  # fmt: skip
    shape = stem_shape(images, weight)
    out = images.new_empty(shape, dtype=out_dtype).to(memory_format=torch.channels_last)
    code = out.to(torch.uint8) if save else images.new_empty((0,))
    statistics = images.new_empty((weight.shape[0],), dtype=torch.float64)
    return out, code, statistics, torch.empty_like(statistics)


def save_for_stem_backward(ctx, inputs, keyword_only_inputs, output):
    images, moments, weight, bn_weight, bn_bias, _, _, eps, channel_scale, _, save, _ = inputs
    _, code, mean, var = output
    # Gradients of code and statistics would be materialised as zeros otherwise.
    ctx.mark_non_differentiable(code, mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(images, code if save else None, moments, weight, bn_weight, mean, var)
    ctx.eps, ctx.channel_scale, ctx.residual = eps, channel_scale, keyword_only_inputs["residual"]
    ctx.bias_dtype = None if bn_bias is None else bn_bias.dtype


def stem_backward(ctx, grad, *_, prefix):
    images, code, moments, weight, bn_weight, mean, var = ctx.saved_tensors
    if code is None:
        raise RuntimeError("npr::stem was called without save=True, so it cannot be differentiated")
    op = getattr(torch.ops.npr, f"{prefix}stem_backward")
    weight_grad, bn_weight_grad, bn_bias_grad = op(
        grad, images, code, moments, weight, bn_weight, mean, var, ctx.eps, ctx.channel_scale,
        residual=ctx.residual,
    )  # fmt: skip
    return (
        None,
        None,
        weight_grad,
        None if bn_weight is None else bn_weight_grad.to(bn_weight.dtype),
        None if ctx.bias_dtype is None else bn_bias_grad.to(ctx.bias_dtype),
        *[None] * 7,
    )


def refuse_stem_double_backward(ctx, *_):
    raise NotImplementedError("npr_stem cannot be differentiated twice; under npr_kernels.backend('reference') it can")


def fake_stem_backward(
    grad, images, code, moments, weight, bn_weight, mean, var, eps, channel_scale, *, residual="npr"
):  # fmt: skip
    vector = weight.new_empty((weight.shape[0],))
    return weight.new_empty(weight.shape), vector, torch.empty_like(vector)


def fake_bottleneck(
    x, reduce, reduce_bias, spatial, spatial_bias, expand, expand_bias, project, stride
):  # fmt: skip
    rows, columns = ((size + stride - 1) // stride for size in x.shape[2:])
    out = x.new_empty((x.shape[0], expand_bias.shape[0], rows, columns))
    return out.to(memory_format=torch.channels_last)


def fake_trained_bottleneck(x, reduce, spatial, expand, project, gamma, beta, stride, eps):
    halved = [(size + stride - 1) // stride for size in x.shape[2:]]

    def channels_last(channels, size):
        return x.new_empty((x.shape[0], channels, *size)).to(memory_format=torch.channels_last)

    reduced, middle = channels_last(reduce.shape[0], x.shape[2:]), channels_last(spatial.shape[0], halved)
    expanded, out = channels_last(expand.shape[0], halved), channels_last(expand.shape[0], halved)
    projected = x.new_empty((0,)) if project is None else torch.empty_like(expanded)
    mean = gamma.new_empty(gamma.shape, dtype=torch.float64)
    gate = x.new_empty((x.shape[0], *halved, expand.shape[0] // PANEL), dtype=torch.int32)
    return out, gate, reduced, middle, expanded, projected, mean, torch.empty_like(mean)


def save_for_trained_bottleneck_backward(ctx, inputs, output):
    x, reduce, spatial, expand, project, gamma, beta, stride, eps = inputs
    _, gate, *maps, mean, var = output
    ctx.mark_non_differentiable(gate, *maps, mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gate, *maps, reduce, spatial, expand, project, gamma, beta, mean, var)
    ctx.stride, ctx.eps = stride, eps


def trained_bottleneck_backward(ctx, grad, *_):
    saved = ctx.saved_tensors
    grad = grad.contiguous(memory_format=torch.channels_last)
    *grads, project, gamma, beta = torch.ops.npr.trained_bottleneck_backward(grad, *saved, ctx.stride, ctx.eps)
    return (*grads, None if saved[9] is None else project, gamma, beta, None, None)


def refuse_trained_bottleneck_double_backward(ctx, *_):
    raise NotImplementedError(
        "a residual block in training cannot be differentiated twice; under npr_kernels.backend('reference') it can"
    )


def fake_trained_bottleneck_backward(
    grad, x, gate, reduced, middle, expanded, projected, reduce, spatial, expand, project, gamma, beta, mean, var,
    stride, eps,
):  # fmt: skip
    weights = [torch.empty_like(weight) for weight in (reduce, spatial, expand)]
    last = x.new_empty((0,)) if project is None else torch.empty_like(project)
    return torch.empty_like(x), *weights, last, torch.empty_like(gamma), torch.empty_like(beta)


def fake_coherence(images):
    return images.new_empty((images.shape[0], *periodicity.SHAPE), dtype=torch.float32)


def fake_profiles(images):
    batch, _, height, width = images.shape
    return tuple(images.new_empty((batch, side - 2), dtype=torch.float64) for side in (width, height))


def fake_textured_cells(images, step):
    return images.new_empty((images.shape[0],), dtype=torch.int64)


def register(prefix: str = "") -> None:
    """Fake kernels and autograd of the ops ``npr::{prefix}conv2d`` and so on, each differentiated by its own kind."""
    op = f"npr::{prefix}{{}}".format
    library = torch.library
    library.register_fake(op("conv2d"), fake_conv2d)
    library.register_autograd(op("conv2d"), partial(conv2d_backward, prefix=prefix), setup_context=save_for_backward)
    library.register_fake(op("conv2d_backward"), fake_conv2d_backward)
    library.register_autograd(
        op("conv2d_backward"), partial(conv2d_double_backward, prefix=prefix), setup_context=save_for_double_backward
    )
    library.register_fake(op("patch_moments"), fake_patch_moments)
    library.register_fake(op("stem"), fake_stem)
    library.register_autograd(op("stem"), partial(stem_backward, prefix=prefix), setup_context=save_for_stem_backward)
    library.register_fake(op("stem_backward"), fake_stem_backward)
    library.register_autograd(op("stem_backward"), refuse_stem_double_backward)


if native.extension is not None:
    register()
    torch.library.register_fake("npr::bottleneck", fake_bottleneck)
    torch.library.register_fake("npr::bottleneck_out", lambda *_: None)
    torch.library.register_fake("npr::trained_bottleneck", fake_trained_bottleneck)
    torch.library.register_autograd(
        "npr::trained_bottleneck", trained_bottleneck_backward, setup_context=save_for_trained_bottleneck_backward
    )
    torch.library.register_fake("npr::trained_bottleneck_backward", fake_trained_bottleneck_backward)
    torch.library.register_autograd("npr::trained_bottleneck_backward", refuse_trained_bottleneck_double_backward)
    torch.library.register_fake("npr::coherence", fake_coherence)
    torch.library.register_fake("npr::profiles", fake_profiles)
    torch.library.register_fake("npr::textured_cells", fake_textured_cells)
