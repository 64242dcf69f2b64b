"""Training on the fused stem follows training on the reference, as closely as rounding lets any two runs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import npr_kernels as nk
from detector.models import NPRDetector

STEPS, BATCH, SIZE = 50, 16, 32


@pytest.fixture(autouse=True)
def one_thread():
    """The steps are short; a second thread would mostly wait, and long where others use its processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_batch(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth noise, and the same enlarged twofold: uint8 [N, 3, SIZE, SIZE] and labels [N, 1]."""

    def noise(size: int) -> torch.Tensor:
        return torch.rand(count // 2, 3, size, size, generator=generator)

    def smooth(images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)

    fake = F.interpolate(noise(SIZE // 2), scale_factor=2, mode="nearest")
    images = torch.cat([smooth(noise(SIZE)), smooth(fake)])
    labels = torch.arange(2).repeat_interleave(count // 2).float().view(-1, 1)
    return images.mul(255).round().byte(), labels


def train(model: NPRDetector, batches, backend: str) -> tuple[torch.Tensor, NPRDetector]:
    """The losses of each step, and the trained model."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    losses = []
    with nk.backend(backend):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return torch.tensor(losses), model.eval()


def accuracy(model: NPRDetector, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return ((model(images) > 0) == (labels > 0)).float().mean().item()


@pytest.mark.slow
def test_fused_run_follows_the_reference(seed):
    """The yardstick is a reference run whose first weights differ by one unit in the last place."""
    backend = next(name for name in ("cpu", "reference") if nk.available_backends()[name])
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = [draw_batch(generator, BATCH) for _ in range(STEPS)]
    model = NPRDetector()
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        nudged.conv1.weight.mul_(1 + 2**-23)

    fused, fused_model = train(model, batches, backend)
    reference, reference_model = train(model, batches, "reference")
    other, _ = train(nudged, batches, "reference")

    assert reference[-10:].mean() < 0.5 * reference[0]  # it learns
    torch.testing.assert_close(fused[0], reference[0], rtol=1e-5, atol=0)
    yardstick = (other - reference).abs().max()
    assert (fused - reference).abs().max() <= 20 * yardstick
    images, labels = draw_batch(generator, 200)
    assert abs(accuracy(fused_model, images, labels) - accuracy(reference_model, images, labels)) <= 0.02
