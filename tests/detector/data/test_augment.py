"""What is drawn for training images."""

import numpy as np
import pytest
import torch

from detector.data import Delivery, degradations
from detector.data.augment import Augmentation
from detector.data.steps import Blur, Jpeg


def test_draws_are_the_papers(seed):
    augmentation = Augmentation(0.5, (0.0, 3.0), 0.1, (30, 100), ("pillow", "opencv"))
    generator = torch.Generator().manual_seed(seed)
    drawn = [augmentation.draw(generator) for _ in range(4000)]
    steps = [step for delivery in drawn for step in delivery.steps]
    sigmas = np.array([step.sigma for step in steps if isinstance(step, Blur)])
    qualities = [step.quality for step in steps if isinstance(step, Jpeg)]
    assert any([type(step) for step in delivery.steps] == [Blur, Jpeg] for delivery in drawn)
    assert len(sigmas) / 4000 == pytest.approx(0.5, abs=0.04)
    assert len(qualities) / 4000 == pytest.approx(0.1, abs=0.03)
    assert 0 <= sigmas.min() < 0.1 < 2.9 < sigmas.max() <= 3
    assert sigmas.mean() == pytest.approx(1.5, abs=0.12)
    assert 30 <= min(qualities) < 40 < 90 < max(qualities) <= 100
    encoders = [step.encoder for step in steps if isinstance(step, Jpeg)]
    assert np.mean([encoder == "opencv" for encoder in encoders]) == pytest.approx(0.5, abs=0.13)


def test_both_ends_of_the_qualities_are_drawn():
    augmentation = Augmentation(jpeg_probability=1, jpeg_quality=(30, 31), jpeg_encoders=("pillow",))
    generator = torch.Generator().manual_seed(0)
    assert {str(augmentation.draw(generator)) for _ in range(50)} == {"jpeg:30", "jpeg:31"}


def test_nothing_is_drawn_by_default(seed):
    generator = torch.Generator().manual_seed(seed)
    assert all(Augmentation().draw(generator) == Delivery() for _ in range(20))


def test_encoders_must_be_installed(monkeypatch):
    monkeypatch.setattr(degradations.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="jpeg_encoders: opencv is not installed"):
        Augmentation(jpeg_probability=0.5)
    Augmentation(blur_probability=0.5)
    Augmentation(jpeg_probability=0.5, jpeg_encoders=("pillow",))


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ({"blur_probability": 1.5}, ValueError, "blur_probability must be in 0..1, got 1.5"),
        ({"jpeg_probability": -0.1}, ValueError, "jpeg_probability must be finite and not negative"),
        ({"jpeg_probability": "half"}, TypeError, "jpeg_probability must be a number, got str"),
        ({"blur_sigma": (3.0, 1.0)}, ValueError, "blur_sigma must not end below its start, got 3.0 to 1.0"),
        ({"blur_sigma": (-1.0, 1.0)}, ValueError, "blur_sigma must be finite and not negative, got -1.0"),
        ({"blur_sigma": 1.0}, ValueError, "blur_sigma must be a lowest and a highest value, got 1.0"),
        ({"jpeg_quality": (0, 50)}, ValueError, r"jpeg_quality must be in 1..100, got 0"),
        ({"jpeg_quality": (30.5, 50)}, TypeError, "jpeg_quality must be an int, got float"),
        ({"jpeg_encoders": ()}, ValueError, "jpeg_encoders must be a tuple of names"),
        ({"jpeg_encoders": ("mozjpeg",)}, ValueError, "jpeg_encoders must be of opencv, pillow, got 'mozjpeg'"),
    ],
)
def test_wrong_values(values, kind, match):
    with pytest.raises(kind, match=match):
        Augmentation(**values)
