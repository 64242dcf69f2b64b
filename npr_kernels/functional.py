"""The public functions: they check their input, choose a backend and call its op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from npr_kernels import backends, reference
from npr_kernels.constants import IMAGENET_STD, NPR_SCALE
from npr_kernels.residuals import RESIDUALS, default_stride

MODES = ("pixel", "mean", "max")
PRECISIONS = ("full", "fast")


def npr_residual(
    images: Tensor,  # [N, C, H, W]
    *,
    patch: int = 2,
    anchor: int = 0,
    mode: str = "pixel",
) -> Tensor:  # [N, C, H - H % patch, W - W % patch]
    """Neighbouring pixel relationships: every pixel minus a representative of its patch x patch cell.

    Args:
        images: [N, C, H, W], uint8 or floating, H and W >= patch.
        patch: side of the cell; the paper's l, default 2.
        anchor: which pixel of the cell represents it, 0 .. patch^2 - 1 in row-major order; the paper's j. 0, the
            top-left one, by default. Only for ``mode="pixel"``.
        mode: "pixel", or "mean" or "max" of the cell (the paper's Table 7).

    Returns:
        The residual; odd last rows and columns (H % patch, W % patch) are dropped. int16 in [-255, 255] for uint8
        images (float32 for ``mode="mean"``), otherwise the images' dtype.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wants.

    Source: Tan et al., CVPR 2024, Section 3.

    Example:
        >>> import torch, npr_kernels as nk
        >>> image = torch.tensor([[[[10, 12], [13, 10]]]], dtype=torch.uint8)
        >>> nk.npr_residual(image).tolist()
        [[[[0, 2], [3, 0]]]]
    """
    _check_images("npr_residual", images, patch)
    _check_cell("npr_residual", patch, anchor, mode)
    return reference.npr_residual(images, patch=patch, anchor=anchor, mode=mode)


def haar_residual(
    images: Tensor,  # [N, C, H, W]
) -> Tensor:  # [N, C, H // 2, W // 2]
    """Twice the diagonal band of the Haar transform: a - b - c + d of each 2x2 cell, a and b above c and d.

    Args:
        images: [N, C, H, W], uint8 or floating, H and W >= 2.

    Returns:
        The differences, half as large as the images; an odd last row or column is dropped. int16 in [-510, 510] for
        uint8 images, otherwise the images' dtype. The band itself, which :func:`npr_conv2d` convolves, is half of it.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wants.

    Source: Li et al., KDD 2025 (arXiv 2408.06741).

    Example:
        >>> import torch, npr_kernels as nk
        >>> image = torch.tensor([[[[10, 12], [13, 10]]]], dtype=torch.uint8)
        >>> nk.haar_residual(image).tolist()
        [[[[-5]]]]
    """
    _check_images("haar_residual", images, 2)
    return reference.haar_residual(images)


def npr_conv2d(
    images: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [O, C, KH, KW], or [O, 2 C, KH, KW] for "npr+haar"
    bias: Tensor | None = None,  # [O]
    *,
    residual: str = "npr",
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 1,
    std: Sequence[float] | None = IMAGENET_STD,
    scale: float = NPR_SCALE,
    patch: int = 2,
    anchor: int = 0,
    mode: str = "pixel",
    out_dtype: torch.dtype | None = None,
    precision: str = "full",
) -> Tensor:  # [N, O, OH, OW]
    """Decode-normalise, residual and convolution in one pass.

    ``conv2d(scale * residual((images - mean) / std), weight, bias)``; the mean cancels in the residual. Differentiable
    in ``weight`` and ``bias``, and in floating ``images``. The fused kernels cover uint8 images with the papers'
    geometry (3x3, one output for each 2x2 cell, padding 1, patch 2, anchor 0, "pixel"); everything else runs on
    :mod:`npr_kernels.reference` and says so once.

    Args:
        images: [N, C, H, W], uint8, or floating in [0, 1]; NCHW or channels_last or any strides; N >= 0; H, W >= patch.
            Odd last rows and columns are dropped before the residual.
        weight: [O, C, KH, KW], floating; [O, 2 C, KH, KW] for "npr+haar", the first C channels reading NPR.
        bias: [O] of the weight's dtype, or None.
        residual: "npr", see :func:`npr_residual`; "haar", the diagonal Haar band of each 2x2 cell, half of
            :func:`haar_residual`; or "npr+haar", both, added up in one convolution.
        stride: counts pixels for "npr", cells otherwise. None steps from cell to cell: 2 or 1.
        padding: as in :func:`torch.nn.functional.conv2d`; pads the residual with zeros. "npr+haar" wants half the
            kernel, rounded down, without which its maps do not align.
        std: one positive number per channel, in units of [0, 1] images; None says that floating images are already
            normalised.
        scale: multiplies the residual; 2/3 in the paper's code.
        patch, anchor, mode: see :func:`npr_residual`; for the residual "npr" alone.
        out_dtype: dtype of the result; by default the weight's, or autocast's where it is on.
        precision: "full" is as accurate as float32 arithmetic on every backend; "fast" lets GPU tensor cores round the
            weights to one float16 term (about 2e-4 relative: mostly a thirteenth of what rounding to bfloat16 does,
            more where sums cancel; docs/gpu.md).

    Returns:
        [N, O, OH, OW] in the images' memory format.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wants.

    Sources: Tan et al., CVPR 2024, Section 3 and their code; Li et al., KDD 2025 (arXiv 2408.06741), for Haar. The
    folding is exact (see docs).

    Example:
        >>> import torch, npr_kernels as nk
        >>> images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
        >>> weight = torch.randn(16, 3, 3, 3, requires_grad=True)
        >>> features = nk.npr_conv2d(images, weight)
        >>> features.shape
        torch.Size([2, 16, 32, 24])
        >>> features.sum().backward()
        >>> weight.grad.shape
        torch.Size([16, 3, 3, 3])
        >>> nk.npr_conv2d(images, torch.randn(16, 6, 3, 3), residual="npr+haar").shape
        torch.Size([2, 16, 32, 24])
    """
    op = "npr_conv2d"
    _check_images(op, images, patch)
    check_residual(op, residual, patch, anchor, mode)
    _check_weight(op, images, weight, residual)
    if bias is not None:
        _check_vector(op, "bias", bias, weight)
    stride = _pair(op, "stride", default_stride(residual) if stride is None else stride, 1)
    padding = _pair(op, "padding", padding, 0)
    _check_window(op, images, weight, padding, residual, patch)
    _check_std(op, images, std)
    _check_number(op, "scale", scale)
    _check_choice(op, "precision", precision, PRECISIONS)
    out_dtype = _out_dtype(op, out_dtype, images, weight)

    uncovered = _uncovered(images, weight, residual, stride, padding, patch, anchor, mode)
    chosen = backends.choose(op, images.device, residual, uncovered)
    if chosen == "reference":
        out = reference.npr_conv2d(
            images, weight, bias, residual=residual, stride=stride, padding=padding, std=std, scale=scale,
            patch=patch, anchor=anchor, mode=mode, out_dtype=out_dtype,
        )  # fmt: skip
        return out.contiguous(memory_format=_memory_format(images))
    result: Tensor = _low_level_op("conv2d", chosen)(
        images, weight, bias, _channel_scale(residual, std, scale), out_dtype, _is_channels_last(images),
        precision == "fast", residual=residual,
    )  # fmt: skip
    return result


def npr_stem(
    images: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [O, C, 3, 3], or [O, 2 C, 3, 3] for "npr+haar"
    bn_weight: Tensor | None,  # [O]
    bn_bias: Tensor | None,  # [O]
    running_mean: Tensor | None,  # [O]
    running_var: Tensor | None,  # [O]
    *,
    residual: str = "npr",
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    std: Sequence[float] | None = IMAGENET_STD,
    scale: float = NPR_SCALE,
    out_dtype: torch.dtype | None = None,
    precision: str = "full",
    group: dist.ProcessGroup | None = None,
) -> Tensor:  # [N, O, PH, PW]
    """The detector's stem in one pass: ``max_pool2d(relu(batch_norm(npr_conv2d(images, weight))), 3, 2, 1)``.

    Nothing of the convolution's size exists, forward or backward: the batch statistics come from exact integer moments
    of the patches, and the backward pass needs the uint8 images and one byte for each output. Differentiable in
    ``weight``, ``bn_weight`` and ``bn_bias``; floating images run on the reference, where they are differentiable too.

    Args:
        images: [N, C, H, W], uint8, or floating in [0, 1]; any strides; N >= 0; H, W >= 2; odd last rows and columns
            are dropped.
        weight: [O, C, 3, 3], floating; [O, 2 C, 3, 3] for "npr+haar".
        bn_weight, bn_bias: [O] or None for ones and zeros, as in :func:`torch.nn.functional.batch_norm`.
        running_mean, running_var: [O]; used in inference, updated in place in training; None in training to track none.
        residual: see :func:`npr_conv2d`.
        training: normalise with the statistics of the batch.
        momentum, eps: as in batch_norm.
        std, scale, out_dtype, precision: see :func:`npr_conv2d`.
        group: process group whose ranks share their batch statistics in training; exact, by one all-reduce of
            1 + K + K^2 integers, K = 8 C, 9 C or 17 C by the residual. Gradients are each rank's share: they add up to
            the gradient of the whole batch. None: no synchronisation.

    Returns:
        [N, O, PH, PW] in channels_last, PH = ceil(floor(H / 2) / 2), PW likewise.

    Raises:
        TypeError, ValueError: naming the argument, what it got and what it wants.

    Source: Tan et al., CVPR 2024, their network; the algebra is derived in docs/stem.md.

    Example:
        >>> import torch, npr_kernels as nk
        >>> images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
        >>> weight, mean, var = torch.randn(16, 3, 3, 3), torch.zeros(16), torch.ones(16)
        >>> nk.npr_stem(images, weight, None, None, mean, var, training=True).shape
        torch.Size([2, 16, 16, 12])
        >>> bool((var != 1).all())  # updated in place
        True
    """
    op = "npr_stem"
    _check_images(op, images, 2)
    _check_choice(op, "residual", residual, tuple(RESIDUALS))
    _check_weight(op, images, weight, residual)
    if tuple(weight.shape[2:]) != (3, 3):
        raise ValueError(f"{op}: weight must be [O, {weight.shape[1]}, 3, 3], got shape {list(weight.shape)}")
    vectors = {
        "bn_weight": bn_weight, "bn_bias": bn_bias, "running_mean": running_mean, "running_var": running_var
    }  # fmt: skip
    for name, vector in vectors.items():
        if vector is not None:
            _check_vector(op, name, vector, weight, same_dtype=False)
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{op}: running_mean and running_var must be given together")
    if running_mean is None and not training:
        raise ValueError(f"{op}: running_mean and running_var must be given in inference")
    _check_number(op, "momentum", momentum)
    _check_number(op, "eps", eps)
    if eps < 0:
        raise ValueError(f"{op}: eps must not be negative, got {eps}")
    _check_std(op, images, std)
    _check_number(op, "scale", scale)
    _check_choice(op, "precision", precision, PRECISIONS)
    out_dtype = _out_dtype(op, out_dtype, images, weight)
    positions = images.shape[0] * (images.shape[2] // 2) * (images.shape[3] // 2)
    if training and group is None and positions == 1:
        raise ValueError(f"{op}: images must give more than 1 value per channel in training, got {list(images.shape)}")

    uncovered = None if images.dtype == torch.uint8 else f"fused kernels read uint8 images, these are {images.dtype}"
    chosen = backends.choose(op, images.device, residual, uncovered)
    if chosen == "reference":
        out = reference.npr_stem(
            images, weight, bn_weight, bn_bias, running_mean, running_var, residual=residual, training=training,
            momentum=momentum, eps=eps, std=std, scale=scale, out_dtype=out_dtype, group=group,
        )  # fmt: skip
        return out.contiguous(memory_format=torch.channels_last)

    moments: Tensor | None = None
    if training and positions == 0 and group is None:  # nothing to normalise, and no statistics to track
        training, running_mean, running_var = False, weight.new_zeros(len(weight)), weight.new_ones(len(weight))
    if training:
        moments = _low_level_op("patch_moments", chosen)(images, residual=residual)
        if group is not None:
            dist.all_reduce(moments, group=group)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (weight, bn_weight, bn_bias))
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _low_level_op("stem", chosen)(
        images, moments, weight, bn_weight, bn_bias, None if training else running_mean,
        None if training else running_var, eps, _channel_scale(residual, std, scale), out_dtype, save,
        precision == "fast", residual=residual,
    )  # fmt: skip
    out, _, mean, var = result
    if moments is not None and running_mean is not None and running_var is not None:
        with torch.no_grad():
            count = moments[0].double()
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return out


def _low_level_op(name: str, chosen: str) -> Callable[..., Any]:
    """The op of a backend: ``torch.ops.npr.*`` is the extension's, by device; Triton's have names of their own."""
    op: Callable[..., Any] = getattr(torch.ops.npr, f"triton_{name}" if chosen == "triton" else name)
    return op


def _channel_scale(residual: str, std: Sequence[float] | None, scale: float) -> list[float]:
    """What multiplies the integers that each channel of the weight reads of uint8 images."""
    assert std is not None
    return [each.gain * scale / (255 * s) for each in RESIDUALS[residual] for s in std]


def _is_channels_last(images: Tensor) -> bool:
    """The layout that outputs follow: channels_last when neighbouring elements are channels and columns are not."""
    return images.stride(1) == 1 and images.stride(3) != 1


def _memory_format(images: Tensor) -> torch.memory_format:
    return torch.channels_last if _is_channels_last(images) else torch.contiguous_format


def _uncovered(
    images: Tensor,
    weight: Tensor,
    residual: str,
    stride: tuple[int, int],
    padding: tuple[int, int],
    patch: int,
    anchor: int,
    mode: str,
) -> str | None:
    """Why no fused kernel covers a convolution; None when they do."""
    if images.dtype != torch.uint8:
        return f"fused kernels read uint8 images, these are {images.dtype}"
    if (patch, anchor, mode) != (2, 0, "pixel"):
        return f"fused kernels subtract the top-left pixel of 2x2 cells, not {mode} {anchor} of {patch}x{patch}"
    fused_stride = default_stride(residual)
    if tuple(weight.shape[2:]) != (3, 3) or stride != (fused_stride, fused_stride) or padding != (1, 1):
        size = "x".join(map(str, weight.shape[2:]))
        fused = f"3x3, stride {fused_stride}, padding 1"
        return f"fused kernels are {fused}, not {size}, stride {stride}, padding {padding}"
    return None


def _out_dtype(op: str, out_dtype: torch.dtype | None, images: Tensor, weight: Tensor) -> torch.dtype:
    if out_dtype is None:
        device = images.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if not isinstance(out_dtype, torch.dtype):
        raise TypeError(f"{op}: out_dtype must be a torch.dtype, got {type(out_dtype).__name__}")
    if not out_dtype.is_floating_point:
        raise ValueError(f"{op}: out_dtype must be a floating dtype, got {out_dtype}")
    return out_dtype


# The checks: one for each argument. They name the function, the argument, what came and what is wanted.


def _check_images(op: str, images: Tensor, patch: int) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"{op}: images must be a Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{op}: images must be uint8 or floating, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"{op}: images must be [N, C, H, W], got shape {list(images.shape)}")
    smallest = patch if isinstance(patch, int) and patch > 0 else 1
    if images.shape[1] < 1 or images.shape[2] < smallest or images.shape[3] < smallest:
        raise ValueError(
            f"{op}: images must have at least 1 channel and {smallest} rows and columns, got shape {list(images.shape)}"
        )


def check_residual(op: str, residual: str, patch: int, anchor: int, mode: str) -> None:
    _check_choice(op, "residual", residual, tuple(RESIDUALS))
    _check_cell(op, patch, anchor, mode)
    for name, value, only in (("patch", patch, 2), ("anchor", anchor, 0), ("mode", mode, "pixel")):
        if residual != "npr" and value != only:
            raise ValueError(f"{op}: {name} must be {only!r} with residual {residual!r}, got {value!r}")


def _check_cell(op: str, patch: int, anchor: int, mode: str) -> None:
    _check_choice(op, "mode", mode, MODES)
    for name, value in (("patch", patch), ("anchor", anchor)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if patch < 2:
        raise ValueError(f"{op}: patch must be at least 2, got {patch}")
    if not 0 <= anchor < patch * patch:
        raise ValueError(f"{op}: anchor must be in 0..{patch * patch - 1} for patch {patch}, got {anchor}")


def _check_weight(op: str, images: Tensor, weight: Tensor, residual: str) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"{op}: weight must be a Tensor, got {type(weight).__name__}")
    if not weight.is_floating_point():
        raise TypeError(f"{op}: weight must be floating, got {weight.dtype}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"{op}: weight must be [O, C, KH, KW] and not empty, got shape {list(weight.shape)}")
    maps = len(RESIDUALS[residual])
    if weight.shape[1] != images.shape[1] * maps:
        times = f" {maps} times" if maps > 1 else ""
        raise ValueError(
            f"{op}: weight must have the images' {images.shape[1]} channels{times} with residual {residual!r}, "
            f"got shape {list(weight.shape)}"
        )
    _check_device(op, "weight", weight, images)


def _check_vector(op: str, name: str, vector: Tensor, weight: Tensor, same_dtype: bool = True) -> None:
    if not isinstance(vector, Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor or None, got {type(vector).__name__}")
    if not vector.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating, got {vector.dtype}")
    if same_dtype and vector.dtype != weight.dtype:
        raise TypeError(f"{op}: {name} must have the weight's dtype {weight.dtype}, got {vector.dtype}")
    if vector.shape != weight.shape[:1]:
        raise ValueError(f"{op}: {name} must have shape [{weight.shape[0]}], got {list(vector.shape)}")
    _check_device(op, name, vector, weight)


def _check_device(op: str, name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{op}: {name} must be on the images' device {other.device}, got {tensor.device}")


def _check_window(
    op: str, images: Tensor, weight: Tensor, padding: tuple[int, int], residual: str, patch: int
) -> None:  # fmt: skip
    for axis, name in ((0, "rows"), (1, "columns")):
        kernel = weight.shape[2 + axis]
        if residual == "npr+haar" and padding[axis] != kernel // 2:
            raise ValueError(
                f"{op}: padding must be half the kernel's {kernel} {name}, {kernel // 2}, with residual {residual!r}, "
                f"got {padding[axis]}"
            )
        size = images.shape[2 + axis] // patch * (patch if residual == "npr" else 1) + 2 * padding[axis]
        if size < kernel:
            raise ValueError(f"{op}: images must have as many padded {name} as the kernel's {kernel}, got {size}")


def _check_std(op: str, images: Tensor, std: Sequence[float] | None) -> None:
    if std is None:
        if images.dtype == torch.uint8:
            raise ValueError(f"{op}: std must be given for uint8 images; None says that they are already normalised")
        return
    if isinstance(std, (str, bytes)) or not isinstance(std, Sequence):
        raise TypeError(f"{op}: std must be a sequence of numbers or None, got {type(std).__name__}")
    if len(std) != images.shape[1]:
        raise ValueError(f"{op}: std must have one value for each of the {images.shape[1]} channels, got {len(std)}")
    for value in std:
        _check_number(op, "std", value)
        if value <= 0:
            raise ValueError(f"{op}: std must be positive, got {value}")


def _check_number(op: str, name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{op}: {name} must be finite, got {value}")


def _check_choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{op}: {name} must be a string, got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def _pair(op: str, name: str, value: int | tuple[int, int], smallest: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else None
    if pair is None or any(not isinstance(v, int) or isinstance(v, bool) for v in pair):
        raise TypeError(f"{op}: {name} must be an int or a pair of ints, got {value!r}")
    if len(pair) != 2 or min(pair) < smallest:
        raise ValueError(f"{op}: {name} must be one or two values of at least {smallest}, got {value!r}")
    return pair[0], pair[1]
