"""NPRConv takes the place of normalisation, NPR and nn.Conv2d."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import npr_kernels as nk
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.inputs import draw_images


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("bias", [False, True])
def test_loads_the_state_dict_of_conv2d(rng, bias):
    conv = nn.Conv2d(3, 7, 3, stride=2, padding=1, bias=bias)
    layer = nk.NPRConv(3, 7, bias=bias)
    layer.load_state_dict(conv.state_dict())
    conv.load_state_dict(layer.state_dict())

    images = draw_images(rng, (2, 3, 12, 14))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (nk.IMAGENET_MEAN, nk.IMAGENET_STD))
    x = (images / 255.0 - mean) / std
    anchors = x[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert_relative(layer(images).detach(), conv.double()((x - anchors) * 2 / 3).detach(), 1e-6)


def test_is_a_conv2d():
    assert isinstance(nk.NPRConv(3, 8), nn.Conv2d)
    assert nk.NPRConv(3, 8).bias is None


@pytest.mark.parametrize(("residual", "channels", "stride"), [("npr", 3, 2), ("haar", 3, 1), ("npr+haar", 6, 1)])
def test_shape_of_the_weight(rng, residual, channels, stride):
    layer, images = nk.NPRConv(3, 64, residual=residual), draw_images(rng, (2, 3, 13, 16))
    assert layer.weight.shape == (64, channels, 3, 3)
    assert layer.stride == (stride, stride)
    assert layer(images).shape == (2, 64, 6, 8)
    assert torch.equal(layer(images), nk.npr_conv2d(images, layer.weight, residual=residual))


@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_passes_its_options_on(rng):
    options = {"stride": 1, "padding": 2, "std": [0.2, 0.3], "scale": 0.5, "patch": 3, "anchor": 4}
    layer = nk.NPRConv(2, 5, 5, bias=True, out_dtype=torch.float64, dtype=torch.float64, **options)
    images = draw_images(rng, (2, 2, 13, 11))
    want = nk.npr_conv2d(images, layer.weight, layer.bias, **options)
    assert torch.equal(layer(images), want)


def test_repr_tells_what_the_layer_does():
    text = repr(nk.NPRConv(3, 64, mode="max"))
    for part in (
        "3, 64",
        "kernel_size=(3, 3)",
        "stride=(2, 2)",
        "std=(0.229",
        "scale=0.666667",
        "residual='npr'",
        "mode='max'",
    ):
        assert part in text


def test_copies_and_pickles(rng):
    layer, images = nk.NPRConv(3, 4), draw_images(rng, (1, 3, 6, 6))
    file = io.BytesIO()
    pickle.dump(layer, file)
    for twin in (copy.deepcopy(layer), pickle.loads(file.getvalue())):
        assert torch.equal(twin(images), layer(images))


def test_dtype_and_device_arguments():
    layer = nk.NPRConv(3, 4, device="meta", dtype=torch.bfloat16)
    assert layer.weight.device.type == "meta"
    assert layer.weight.dtype == torch.bfloat16


def test_learns(rng):
    """A step of gradient descent lowers the loss."""
    layer, images = nk.NPRConv(3, 8), draw_images(rng, (4, 3, 16, 16))
    target = torch.randn(4, 8, 8, 8)
    loss = lambda: (layer(images) - target).square().mean()  # noqa: E731
    before = loss()
    before.backward()
    with torch.no_grad():
        layer.weight -= 1e-3 * layer.weight.grad / layer.weight.grad.norm()
    assert loss() < before
