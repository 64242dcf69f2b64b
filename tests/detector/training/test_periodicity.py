"""The regression, against scikit-learn where it is installed and by its own conditions, and its data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import DataError, decode, find_images
from detector.models.periodicity import transposed
from detector.training.periodicity import PENALTY, fit_periodicity, regress


def problem(rng, count=400, width=12):
    values = rng.normal(0, 1, (count, width)) * np.arange(1, width + 1) + rng.normal(0, 5, width)
    labels = (values[:, 0] - values[:, 0].mean() + rng.normal(0, 1, count) > 0.7).astype(float)
    return torch.from_numpy(values), torch.from_numpy(labels)


def test_the_gradient_is_zero_and_labels_weigh_the_same(rng):
    values, labels = problem(rng)
    penalty = float(rng.uniform(0.001, 0.1))
    weight, bias = regress(values, labels, penalty)
    weight.requires_grad_()
    bias = bias.detach().requires_grad_()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(values @ weight + bias, labels, reduction="none")
    balanced = (losses[labels == 1].mean() + losses[labels == 0].mean()) / 2
    scaled = weight * values.std(dim=0)
    (balanced + penalty / 2 * scaled.square().sum()).backward()
    assert bias.grad.abs() < 1e-8
    assert (weight.grad / values.std(dim=0)).abs().max() < 1e-8


def test_it_is_scikit_learns(rng):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    values, labels = problem(rng)
    weight, _ = regress(values, labels, 0.05)
    mean, deviation = values.mean(dim=0), values.std(dim=0)
    share = np.where(labels.numpy() == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    other = linear_model.LogisticRegression(C=1 / 0.05, tol=1e-10, max_iter=10_000)
    other.fit(((values - mean) / deviation).numpy(), labels.numpy(), sample_weight=share)
    np.testing.assert_allclose((weight * deviation).numpy(), other.coef_[0], atol=1e-5)


def test_separable_and_constant_columns(rng):
    """Newton's method alone would run away from labels that a column tells, and divide by a column that never moves."""
    values, labels = problem(rng)
    values = torch.cat([values, 100 * labels[:, None], torch.ones(len(labels), 1, dtype=torch.float64)], dim=1)
    weight, bias = regress(values, labels, PENALTY)
    assert weight.isfinite().all()
    assert bias.isfinite()
    assert (((values @ weight + bias) > 0) == (labels == 1)).all()


@pytest.fixture
def data(tmp_path, rng):
    """Noise, in the fakes of which odd columns are half as strong again; all of random sizes."""
    for label, gain in (("0_real", 1.0), ("1_fake", 1.5)):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(8):
            height, width = rng.integers(160, 230, 2)
            strength = np.where(np.arange(width) % 2, gain, 1.0)
            pixels = 128 + rng.normal(0, 20, (height, width, 3)) * strength[None, :, None]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "train" / label / f"{number}.png")
    return tmp_path


def test_it_finds_the_lattice_and_not_its_direction(data):
    collection = find_images(data)
    head = fit_periodicity(collection, seed=1, deliveries=2, verbose=False)
    # Symmetric because every image is there transposed too, up to the conditioning of the last step.
    torch.testing.assert_close(head.weight, transposed(head.weight), rtol=0, atol=1e-6)
    for sample in collection.samples:
        image = decode(sample.path)[None]
        for each in (image, image.transpose(2, 3)):
            assert (head(each).item() > 0) == (sample.label == 1), sample.path


def test_equal_arguments_give_equal_weights(data):
    (data / "train" / "0_real" / "broken.png").write_bytes(b"no image")
    fits = [fit_periodicity(find_images(data), seed=seed, deliveries=1, verbose=False) for seed in (3, 3, 4)]
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert torch.equal(fits[0].bias, fits[1].bias)
    assert not torch.equal(fits[0].weight, fits[2].weight)


def test_both_labels_are_needed(data):
    everything = find_images(data)
    reals = replace(everything, samples=tuple(sample for sample in everything.samples if sample.label == 0))
    with pytest.raises(DataError, match="not both"):
        fit_periodicity(reals, seed=0, deliveries=1, verbose=False)
