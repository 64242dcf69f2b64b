"""The whole NPRDetector on the fused stem and layer by layer; everything behind the stem is the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import npr_kernels as nk
from benchmarks.conftest import BATCH
from detector.models import NPRDetector

BACKENDS = {"eager": "reference", "npr": "cpu"}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("work", ["inference", "training step"])
def test_detector(measure, images, work, layout, name):
    """`layout` is the images' and, for channels_last, that of the model's weights too, as `npr` has it."""
    torch.manual_seed(0)
    model = NPRDetector().train(work == "training step")
    x = images
    if layout == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    labels = torch.arange(BATCH, dtype=torch.float32).view(-1, 1) % 2

    def infer():
        with torch.no_grad(), nk.backend(BACKENDS[name]):
            return model(x)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with nk.backend(BACKENDS[name]):
            F.binary_cross_entropy_with_logits(model(x), labels).backward()
        optimizer.step()

    measure(infer if work == "inference" else step, op="NPRDetector", work=work, implementation=name, layout=layout)
