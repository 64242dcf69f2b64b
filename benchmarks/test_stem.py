"""npr_stem against the layers that it replaces: normalise, NPR, convolution, batch norm, ReLU, max-pooling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import npr_kernels as nk
from benchmarks import eager
from benchmarks.test_conv2d import IMAGE_BYTES, LAYOUTS, MULTIPLY_ADDS, OUTPUT_BYTES, OUTPUTS

POOLED_BYTES = OUTPUT_BYTES // 4


def stem(name: str, layout: str) -> nn.Module:
    torch.manual_seed(0)
    module = nk.NPRStem(OUTPUTS) if name == "npr" else eager.Stem(OUTPUTS)
    module = module.to(memory_format=LAYOUTS[layout])
    return torch.compile(module, dynamic=False) if name == "compile" else module


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_inference(measure, images, name, layout):
    module, x = stem(name, layout).eval(), images.contiguous(memory_format=LAYOUTS[layout])

    def inference():
        with torch.no_grad():
            return module(x)

    torch.testing.assert_close(inference(), stem("npr", layout).eval()(x), rtol=1e-4, atol=1e-4)
    measure(
        inference,
        op="npr_stem",
        work="inference",
        implementation=name,
        layout=layout,
        multiply_adds=MULTIPLY_ADDS,
        bytes=IMAGE_BYTES + POOLED_BYTES,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_training(measure, images, name, layout):
    module, x = stem(name, layout).train(), images.contiguous(memory_format=LAYOUTS[layout])
    grad = torch.randn_like(module(x))

    def training():
        module.zero_grad()
        module(x).backward(grad)

    measure(
        training,
        op="npr_stem",
        work="training, forward + backward",
        implementation=name,
        layout=layout,
        # The moments are products of 24 integers with each other; the backward pass gathers a quarter of the patches.
        multiply_adds=MULTIPLY_ADDS * (1 + 24 / 2 / OUTPUTS + 1 / 4),
        bytes=3 * IMAGE_BYTES + 2 * POOLED_BYTES + POOLED_BYTES // 2,
    )
