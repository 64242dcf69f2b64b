"""npr_stem against the layers that it replaces, and NPRDetector with it and without."""

from __future__ import annotations

import pytest
import torch

import npr_kernels as nk
from benchmarks import eager
from benchmarks.conftest import BATCH
from benchmarks.test_conv2d import IMAGE_BYTES, LAYOUTS, MULTIPLY_ADDS, OUTPUTS, POSITIONS
from detector.models import NPRDetector

POOLED = OUTPUTS * POSITIONS // 4
TAPS = 24
# Moments: half of a symmetric product, and M1; gather: one patch per output.
MOMENT_MULTIPLY_ADDS = POSITIONS * TAPS * (TAPS + 3) // 2
GATHER_MULTIPLY_ADDS = POOLED * TAPS


def functions():
    return {"eager": eager.stem, "compile": torch.compile(eager.stem, dynamic=False), "npr": nk.npr_stem}


def parameters(layout: torch.memory_format, requires_grad: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUTPUTS, 3, 3, 3, generator=generator).contiguous(memory_format=layout)
    bn_weight, bn_bias = torch.randn(OUTPUTS, generator=generator), torch.randn(OUTPUTS, generator=generator)
    return [t.requires_grad_(requires_grad) for t in (weight, bn_weight, bn_bias)]


def running_statistics() -> list[torch.Tensor]:
    return [torch.zeros(OUTPUTS), torch.ones(OUTPUTS)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_stem_inference(measure, images, name, layout):
    function, x = functions()[name], images.contiguous(memory_format=LAYOUTS[layout])
    arguments = [*parameters(LAYOUTS[layout], False), *running_statistics()]

    def forward():
        with torch.no_grad():
            return function(x, *arguments, training=False)

    torch.testing.assert_close(forward(), nk.npr_stem(x, *arguments), rtol=1e-4, atol=1e-4)
    measure(
        forward,
        op="npr_stem",
        work="inference",
        implementation=name,
        layout=layout,
        multiply_adds=MULTIPLY_ADDS,
        bytes=IMAGE_BYTES + 4 * POOLED,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["eager", "compile", "npr"])
def test_stem_training(measure, images, name, layout):
    function, x = functions()[name], images.contiguous(memory_format=LAYOUTS[layout])
    trained, statistics = parameters(LAYOUTS[layout], True), running_statistics()
    grad = torch.randn_like(nk.npr_stem(x, *trained, *statistics, training=True))
    if LAYOUTS[layout] == torch.contiguous_format:
        grad = grad.contiguous()  # what eager's own layout passes on

    def forward_and_backward():
        for parameter in trained:
            parameter.grad = None
        function(x, *trained, *statistics, training=True).backward(grad)

    measure(
        forward_and_backward,
        op="npr_stem",
        work="training, forward + backward",
        implementation=name,
        layout=layout,
        multiply_adds=MULTIPLY_ADDS + MOMENT_MULTIPLY_ADDS + GATHER_MULTIPLY_ADDS,
        bytes=3 * IMAGE_BYTES + 4 * POOLED + 2 * POOLED + 4 * POOLED,
    )


@pytest.mark.parametrize("name", ["eager", "npr"])
@pytest.mark.parametrize("work", ["inference", "training step"])
def test_detector(measure, images, work, name):
    """The whole network: "eager" is its reference stem, everything else alike."""
    torch.manual_seed(0)
    model = NPRDetector().train(work == "training step")
    backend = {"eager": "reference", "npr": "cpu"}[name]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    labels = torch.arange(BATCH, dtype=torch.float32).view(-1, 1) % 2

    def infer():
        with torch.no_grad(), nk.backend(backend):
            return model(images)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with nk.backend(backend):
            torch.nn.functional.binary_cross_entropy_with_logits(model(images), labels).backward()
        optimizer.step()

    measure(infer if work == "inference" else step, op="NPRDetector", work=work, implementation=name, layout="nchw")
