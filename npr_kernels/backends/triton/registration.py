"""The ops ``torch.ops.npr.triton_*``: the contracts of ``torch.ops.npr`` (npr_kernels/ops.py), always run by Triton.

torch.compile calls them as they are. Each launches several kernels, with configurations chosen at run time and a
workspace whose size depends on them, so there is nothing in them for a compiler to plan or fuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from npr_kernels import ops
from npr_kernels.backends.triton import compat
from npr_kernels.backends.triton.conv2d import conv2d
from npr_kernels.backends.triton.conv2d_backward import conv2d_backward
from npr_kernels.backends.triton.patch_moments import patch_moments
from npr_kernels.backends.triton.stem import stem
from npr_kernels.backends.triton.stem_backward import stem_backward
from npr_kernels.residuals import RESIDUALS

_SCHEMAS: dict[Callable[..., Any], str] = {
    conv2d: "(Tensor images, Tensor weight, Tensor? bias, float[] channel_scale, ScalarType out_dtype,"
    " bool channels_last, bool fast, *, str residual='npr') -> Tensor",
    conv2d_backward: "(Tensor grad, Tensor images, float[] channel_scale, ScalarType weight_dtype, bool bias, *,"
    " str residual='npr') -> (Tensor, Tensor)",
    patch_moments: "(Tensor images, *, str residual='npr') -> Tensor",
    stem: "(Tensor images, Tensor? moments, Tensor weight, Tensor? bn_weight, Tensor? bn_bias, Tensor? mean,"
    " Tensor? var, float eps, float[] channel_scale, ScalarType out_dtype, bool save, bool fast, *,"
    " str residual='npr') -> (Tensor, Tensor, Tensor, Tensor)",
    stem_backward: "(Tensor grad, Tensor images, Tensor code, Tensor? moments, Tensor weight, Tensor? bn_weight,"
    " Tensor mean, Tensor var, float eps, float[] channel_scale, *, str residual='npr') -> (Tensor, Tensor, Tensor)",
}

_PREFIX = "triton_"
_library = torch.library.Library("npr", "FRAGMENT")


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device; the first tensor says which it should be."""

    @functools.wraps(function)
    def call(first: torch.Tensor, *args: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *args)

    return call


def _of_known_residuals(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, residual: str = "npr") -> Any:
        if residual not in RESIDUALS:
            raise ValueError(f"npr: residual must be one of {', '.join(RESIDUALS)}, got {residual}")
        return function(*args, residual)

    return call


for _function, _schema in _SCHEMAS.items():
    _library.define(f"{_PREFIX}{_function.__name__}{_schema}")
    if compat.INTERPRETED:
        _library.impl(f"{_PREFIX}{_function.__name__}", _of_known_residuals(_function), "CPU")
    else:
        _library.impl(f"{_PREFIX}{_function.__name__}", _of_known_residuals(_on_its_device(_function)), "CUDA")
ops.register(_PREFIX)
