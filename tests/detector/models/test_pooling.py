"""Pooling of the largest local logits: against sorting, uncut and in tiles."""

import math

import numpy as np
import pytest
import torch

from detector.explain import explain
from detector.models import NPRDetector, load_checkpoint, save_checkpoint
from detector.models.inference import logits
from detector.models.pooling import mean_of_largest, share_of
from tests.detector.models.original import randomise


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("percent", ["1", "10", "12.5", "33.3", "100"])
def test_against_sorting(rng, percent):
    for size in (1, 7, 30, 100, 401):
        values = rng.normal(size=(3, size))
        count = math.ceil(round(size * float(percent) / 100, 9))
        expected = np.sort(values, axis=1)[:, ::-1][:, :count].mean(axis=1, keepdims=True)
        got = mean_of_largest(torch.from_numpy(values), share_of(f"top-{percent}%"))
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)
    assert mean_of_largest(torch.zeros(0, 5), share_of(f"top-{percent}%")).shape == (0, 1)


@pytest.mark.parametrize("bad", ["max", "top-0%", "top-101%", "top--1%", "top-10", "top-nan%", "", None, 10])
def test_wrong_poolings(bad):
    with pytest.raises(ValueError, match=r"pooling must be 'mean' or 'top-K%'"):
        NPRDetector(pooling=bad)


@torch.no_grad()
def test_of_all_is_the_mean():
    plain = randomise(NPRDetector()).eval()
    pooled = NPRDetector(pooling="top-100%").eval()
    pooled.load_state_dict(plain.state_dict())
    images = random_images(3, 3, 40, 58)
    torch.testing.assert_close(pooled(images), plain(images), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_logit_is_of_the_largest():
    model = randomise(NPRDetector(pooling="top-25%")).eval()
    images = random_images(2, 3, 50, 71)
    features = model.features(images).double().flatten(2).numpy()
    weight, bias = (p.detach().double().numpy() for p in (model.fc1.weight, model.fc1.bias))
    local = np.einsum("ncp,c->np", features, weight[0]) + bias
    count = math.ceil(0.25 * local.shape[1])
    expected = np.sort(local, axis=1)[:, -count:].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(model(images).double().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", ["npr", "haar"])
@pytest.mark.parametrize("size", [(161, 130), (98, 225)], ids=str)
def test_tiles_give_the_uncut_logit(residual, size, monkeypatch):
    model = randomise(NPRDetector(residual=residual, pooling="top-10%")).eval()
    images = random_images(1, 3, *size)
    images[..., : size[1] // 2] //= 8  # the largest lie in a part of the tiles
    whole = logits(model, images, max_pixels=2**30)
    passes = []
    stem = model.stem
    monkeypatch.setattr(model, "stem", lambda part: passes.append(1) or stem(part))
    tiled = logits(model, images, max_pixels=144**2)
    assert len(passes) > 3
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_gradients_reach_the_largest_alone():
    local = torch.randn(2, 20, requires_grad=True)
    mean_of_largest(local, share_of("top-15%")).sum().backward()
    chosen = torch.zeros_like(local).scatter(1, local.detach().argsort(1, descending=True)[:, :3], 1 / 3)
    torch.testing.assert_close(local.grad, chosen)


def test_checkpoints_and_explanations(tmp_path):
    model = randomise(NPRDetector(pooling="top-10%")).eval()
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.architecture["pooling"] == loaded.pooling == "top-10%"
    assert "pooling" not in NPRDetector().architecture, "checkpoints of others do not change"
    with pytest.raises(ValueError, match="the detector's pooling is 'top-10%'"):
        explain(loaded, random_images(3, 32, 32))
