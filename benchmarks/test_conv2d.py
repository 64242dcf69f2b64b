"""npr_conv2d against the pipeline that it replaces: normalise, NPR, first convolution."""

from __future__ import annotations

import pytest
import torch

import npr_kernels as nk
from benchmarks import eager
from benchmarks.conftest import SIZE

CHANNELS, OUTPUTS = 3, 64
POSITIONS = (SIZE // 2) ** 2
MULTIPLY_ADDS = 8 * CHANNELS * OUTPUTS * POSITIONS
IMAGE_BYTES, OUTPUT_BYTES = CHANNELS * SIZE**2, 4 * OUTPUTS * POSITIONS

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def functions():
    return {"eager": eager.conv2d, "compile": torch.compile(eager.conv2d, dynamic=False), "npr": nk.npr_conv2d}


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(OUTPUTS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_forward(measure, images, weight, name, layout):
    function, x = functions()[name], images.contiguous(memory_format=LAYOUTS[layout])
    w = weight.contiguous(memory_format=LAYOUTS[layout])

    def forward():
        with torch.no_grad():
            return function(x, w)

    torch.testing.assert_close(forward(), nk.npr_conv2d(x, weight), rtol=1e-4, atol=1e-4)
    measure(
        forward,
        op="npr_conv2d",
        work="forward",
        implementation=name,
        layout=layout,
        multiply_adds=MULTIPLY_ADDS,
        bytes=IMAGE_BYTES + OUTPUT_BYTES,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_forward_and_weight_gradient(measure, images, weight, name, layout):
    function, x = functions()[name], images.contiguous(memory_format=LAYOUTS[layout])
    w = weight.clone().contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    grad = torch.randn_like(nk.npr_conv2d(x, weight))

    def forward_and_backward():
        w.grad = None
        function(x, w).backward(grad)

    measure(
        forward_and_backward,
        op="npr_conv2d",
        work="forward + weight gradient",
        implementation=name,
        layout=layout,
        multiply_adds=2 * MULTIPLY_ADDS,
        bytes=2 * IMAGE_BYTES + 2 * OUTPUT_BYTES,
    )
