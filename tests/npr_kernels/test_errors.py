"""Bad input: TypeError or ValueError that names the function, the argument, what came and what is wanted."""

from __future__ import annotations

import re

import pytest
import torch

import npr_kernels as nk
from tests import needs

IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
WEIGHT = torch.zeros(4, 3, 3, 3)
BOTH = {"residual": "npr+haar", "weight": torch.zeros(4, 6, 3, 3)}
NAN = float("nan")

RESIDUAL = [
    ("images", TypeError, {"images": [[1, 2]]}, "list"),
    ("images", TypeError, {"images": None}, "NoneType"),
    ("images", TypeError, {"images": IMAGES.int()}, "int32"),
    ("images", TypeError, {"images": IMAGES.bool()}, "bool"),
    ("images", TypeError, {"images": torch.zeros(2, 3, 8, 8, dtype=torch.complex64)}, "complex64"),
    ("images", ValueError, {"images": IMAGES[0]}, "[3, 8, 8]"),
    ("images", ValueError, {"images": IMAGES[None]}, "[1, 2, 3, 8, 8]"),
    ("images", ValueError, {"images": IMAGES[:, :0]}, "[2, 0, 8, 8]"),
    ("images", ValueError, {"images": IMAGES[:, :, :1]}, "[2, 3, 1, 8]"),
    ("images", ValueError, {"images": IMAGES[:, :, :, :0]}, "[2, 3, 8, 0]"),
    ("images", ValueError, {"images": IMAGES[:, :, :3], "patch": 4}, "[2, 3, 3, 8]"),
    ("patch", TypeError, {"patch": 2.0}, "float"),
    ("patch", TypeError, {"patch": True}, "bool"),
    ("patch", TypeError, {"patch": None}, "NoneType"),
    ("patch", ValueError, {"patch": 1}, "1"),
    ("patch", ValueError, {"patch": -2}, "-2"),
    ("anchor", TypeError, {"anchor": "0"}, "str"),
    ("anchor", ValueError, {"anchor": 4}, "4"),
    ("anchor", ValueError, {"anchor": -1}, "-1"),
    ("mode", TypeError, {"mode": 0}, "int"),
    ("mode", ValueError, {"mode": "median"}, "'median'"),
]

CONV = [
    *RESIDUAL,
    ("weight", TypeError, {"weight": None}, "NoneType"),
    ("weight", TypeError, {"weight": WEIGHT.int()}, "int32"),
    ("weight", TypeError, {"weight": WEIGHT.to(torch.complex64)}, "complex64"),
    ("weight", ValueError, {"weight": WEIGHT[0]}, "[3, 3, 3]"),
    ("weight", ValueError, {"weight": WEIGHT[:0]}, "[0, 3, 3, 3]"),
    ("weight", ValueError, {"weight": WEIGHT[:, :2]}, "[4, 2, 3, 3]"),
    ("weight", ValueError, {"weight": WEIGHT.to("meta")}, "meta"),
    ("images", ValueError, {"images": IMAGES.to("meta")}, "meta"),
    ("bias", TypeError, {"bias": 0.0}, "float"),
    ("bias", TypeError, {"bias": torch.zeros(4, dtype=torch.float64)}, "float64"),
    ("bias", ValueError, {"bias": torch.zeros(3)}, "[3]"),
    ("bias", ValueError, {"bias": torch.zeros(4, 1)}, "[4, 1]"),
    ("bias", ValueError, {"bias": torch.zeros(4, device="meta")}, "meta"),
    ("stride", TypeError, {"stride": 2.0}, "2.0"),
    ("stride", TypeError, {"stride": True}, "True"),
    ("stride", TypeError, {"stride": (2, 1.5)}, "(2, 1.5)"),
    ("stride", ValueError, {"stride": 0}, "0"),
    ("stride", ValueError, {"stride": (1, 2, 3)}, "(1, 2, 3)"),
    ("stride", ValueError, {"stride": ()}, "()"),
    ("padding", TypeError, {"padding": "same"}, "'same'"),
    ("padding", ValueError, {"padding": -1}, "-1"),
    ("padding", ValueError, BOTH | {"padding": 0}, "0"),
    ("padding", ValueError, BOTH | {"padding": (1, 2)}, "2"),
    ("residual", TypeError, {"residual": None}, "NoneType"),
    ("residual", ValueError, {"residual": "dct"}, "'dct'"),
    ("patch", ValueError, {"residual": "haar", "patch": 4}, "4"),
    ("anchor", ValueError, {"residual": "haar", "anchor": 1}, "1"),
    ("mode", ValueError, BOTH | {"mode": "max"}, "'max'"),
    ("weight", ValueError, {"residual": "npr+haar"}, "[4, 3, 3, 3]"),
    ("weight", ValueError, BOTH | {"residual": "haar"}, "[4, 6, 3, 3]"),
    ("images", ValueError, {"images": IMAGES[:, :, :5], "residual": "haar", "padding": 0}, "2"),
    ("images", ValueError, {"images": IMAGES[:, :, :2], "padding": 0}, "2"),
    ("std", TypeError, {"std": 0.2}, "float"),
    ("std", TypeError, {"std": "123"}, "str"),
    ("std", TypeError, {"std": [0.1, 0.2, "0.3"]}, "str"),
    ("std", ValueError, {"std": [0.1, 0.2]}, "2"),
    ("std", ValueError, {"std": [0.1, 0.2, 0.0]}, "0.0"),
    ("std", ValueError, {"std": [0.1, 0.2, -1.0]}, "-1.0"),
    ("std", ValueError, {"std": [0.1, 0.2, NAN]}, "nan"),
    ("std", ValueError, {"std": None}, "uint8"),
    ("scale", TypeError, {"scale": "1"}, "str"),
    ("scale", TypeError, {"scale": None}, "NoneType"),
    ("scale", ValueError, {"scale": NAN}, "nan"),
    ("scale", ValueError, {"scale": float("inf")}, "inf"),
    ("out_dtype", TypeError, {"out_dtype": "float32"}, "str"),
    ("out_dtype", ValueError, {"out_dtype": torch.int32}, "int32"),
    ("precision", TypeError, {"precision": 1}, "int"),
    ("precision", ValueError, {"precision": "half"}, "'half'"),
]

VECTOR = torch.ones(4)
STEM_ARGUMENTS = {
    "images": IMAGES, "weight": WEIGHT, "bn_weight": VECTOR, "bn_bias": VECTOR, "running_mean": VECTOR,
    "running_var": VECTOR,
}  # fmt: skip
STEM = [
    *(case for case in CONV if case[0] in ("images", "weight", "residual", "std", "scale", "out_dtype", "precision")
      and not {"patch", "padding"} & set(case[2])),
    ("weight", ValueError, {"weight": torch.zeros(4, 3, 5, 5)}, "[4, 3, 5, 5]"),
    *((name, TypeError, {name: 1.0}, "float") for name in list(STEM_ARGUMENTS)[2:]),
    *((name, TypeError, {name: VECTOR.int()}, "int32") for name in list(STEM_ARGUMENTS)[2:]),
    *((name, ValueError, {name: torch.ones(3)}, "[3]") for name in list(STEM_ARGUMENTS)[2:]),
    *((name, ValueError, {name: VECTOR.to("meta")}, "meta") for name in list(STEM_ARGUMENTS)[2:]),
    ("running_mean", ValueError, {"running_mean": None}, "together"),
    ("running_var", ValueError, {"running_var": None, "training": True}, "together"),
    ("running_mean", ValueError, {"running_mean": None, "running_var": None}, "inference"),
    ("images", ValueError, {"images": IMAGES[:1, :, :3, :2], "training": True}, "[1, 3, 3, 2]"),
    ("momentum", TypeError, {"momentum": None}, "NoneType"),
    ("momentum", ValueError, {"momentum": NAN}, "nan"),
    ("eps", TypeError, {"eps": "0"}, "str"),
    ("eps", ValueError, {"eps": -1e-5}, "-1e-05"),
    ("eps", ValueError, {"eps": NAN}, "nan"),
]  # fmt: skip


def case_id(case):
    argument, error, options, got = case
    return f"{argument}-{error.__name__}-{got}" + (f"-{options['residual']}" if "residual" in options else "")


@pytest.mark.parametrize(("argument", "error", "options", "got"), RESIDUAL, ids=map(case_id, RESIDUAL))
def test_npr_residual(argument, error, options, got):
    check(nk.npr_residual, {"images": IMAGES} | options, error, "npr_residual", argument, got)


HAAR = [case for case in RESIDUAL if case[0] == "images" and "patch" not in case[2]]


@pytest.mark.parametrize(("argument", "error", "options", "got"), HAAR, ids=map(case_id, HAAR))
def test_haar_residual(argument, error, options, got):
    check(nk.haar_residual, options, error, "haar_residual", argument, got)


LAYER = [case for case in CONV if case[0] in ("residual", "patch", "anchor", "mode")]


@pytest.mark.parametrize(("argument", "error", "options", "got"), LAYER, ids=map(case_id, LAYER))
def test_npr_conv(argument, error, options, got):
    options = {name: value for name, value in options.items() if name != "weight"}
    check(nk.NPRConv, {"in_channels": 3, "out_channels": 4} | options, error, "NPRConv", argument, got)


@pytest.mark.parametrize(("argument", "error", "options", "got"), CONV, ids=map(case_id, CONV))
def test_npr_conv2d(argument, error, options, got):
    check(nk.npr_conv2d, {"images": IMAGES, "weight": WEIGHT} | options, error, "npr_conv2d", argument, got)


@pytest.mark.parametrize(("argument", "error", "options", "got"), STEM, ids=map(case_id, STEM))
def test_npr_stem(argument, error, options, got):
    check(nk.npr_stem, STEM_ARGUMENTS | options, error, "npr_stem", argument, got)


def check(function, arguments, error, name, argument, got):
    pattern = rf"^{name}: .*\b{argument}\b.*{re.escape(got)}"
    with pytest.raises(error, match=pattern):
        function(**arguments)


@pytest.mark.parametrize("name", ["tpu", "", None, 3])
def test_unknown_backend(name):
    with pytest.raises((TypeError, ValueError), match=r"backend must be one of reference, cpu, triton, cuda; got"):
        nk.backend(name)


def test_backend_that_cannot_run():
    missing = [name for name, available in nk.available_backends().items() if not available]
    if not missing:
        pytest.skip("every backend runs here")
    with pytest.raises(RuntimeError, match=f"backend '{missing[0]}' is not available: .+"):
        nk.backend(missing[0])


def test_backend_is_left_after_an_error():
    with pytest.raises(ZeroDivisionError), nk.backend("reference"):
        raise ZeroDivisionError
    assert nk.backends._requested is None


# The ops themselves are public too (torch.ops.npr): whatever they are given, they must not read foreign memory.
OP_ARGUMENTS = {
    "images": IMAGES, "weight": WEIGHT, "bias": None, "channel_scale": [1.0] * 3, "out_dtype": torch.float32,
    "channels_last": False, "fast": False,
}  # fmt: skip
BACKWARD_ARGUMENTS = {
    "grad": torch.zeros(2, 4, 4, 4), "images": IMAGES, "channel_scale": [1.0] * 3, "weight_dtype": torch.float32,
    "bias": True,
}  # fmt: skip


@needs.extension
@pytest.mark.parametrize(
    "options",
    [
        {"images": IMAGES.int()},
        {"images": IMAGES[0]},
        {"images": IMAGES[:, :, :1]},
        {"weight": WEIGHT[:, :2]},
        {"weight": torch.zeros(4, 3, 3, 2)},
        {"bias": torch.zeros(3)},
        {"channel_scale": [1.0] * 2},
        {"residual": "dct"},
        {"residual": "npr+haar"},
        {"residual": "npr+haar", "weight": torch.zeros(4, 6, 3, 3)},
        {"out_dtype": torch.int32},
        {"out_dtype": torch.complex64},
    ],
    ids=lambda options: next(iter(options)),
)
def test_conv2d_op(options):
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.npr.conv2d(**(OP_ARGUMENTS | options))


@needs.extension
@pytest.mark.parametrize(
    "options",
    [
        {"grad": torch.zeros(2, 4, 4, 3)},
        {"grad": torch.zeros(1, 4, 4, 4)},
        {"grad": torch.zeros(2, 0, 4, 4)},
        {"grad": torch.zeros(2, 4, 4, 4, dtype=torch.int32)},
        {"images": IMAGES.float()},
        {"channel_scale": []},
        {"residual": "npr+haar"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_conv2d_backward_op(options):
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.npr.conv2d_backward(**(BACKWARD_ARGUMENTS | options))
