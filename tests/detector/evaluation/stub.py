"""A detector that is quick, and folders of images for it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from detector.data import Preprocessing
from detector.models.detector import Detector


class Roughness(Detector):
    """Scores an image by its mean difference between neighbouring pixels: smooth ones are fake."""

    def __init__(self, preprocessing=None, slope=-0.2):
        super().__init__()
        self.preprocessing = preprocessing or Preprocessing(policy="native", crop=16)
        self.fc = nn.Linear(1, 1)
        nn.init.constant_(self.fc.weight, slope)
        nn.init.constant_(self.fc.bias, 4.0)
        self.calls = 0

    @property
    def architecture(self):
        return {}

    @property
    def classifier(self):
        return self.fc

    @property
    def feature_stride(self):
        return 1

    @property
    def feature_reach(self):
        return 1

    def features(self, images):
        self.calls += len(images)
        return images.float().diff(dim=3).abs().mean(dim=1, keepdim=True)


def save_image(path, rng, smooth, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (*size, 3)) * rng.uniform(0.1, 0.3 if smooth else 1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_tree(root, folders, rng, count=2, labels=("0_real", "1_fake"), size=(24, 20)):
    """`count` rough reals and smooth fakes in every folder."""
    for folder in folders:
        for i in range(count):
            for label in labels:
                smooth = label in ("1_fake", "ai", "fake")
                save_image(root / folder / label / f"{i}.png", rng, smooth, size)
    return root


def read_image(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


class Brightness(Roughness):
    """Scores an image by its mean grey level v: sigmoid((v - 128) / 16), so that scores can be planted."""

    def __init__(self, threshold=None):
        super().__init__(Preprocessing(policy="native", crop=8), slope=1 / 16)
        nn.init.constant_(self.fc.bias, -8.0)
        if threshold is not None:
            self.threshold = threshold

    def features(self, images):
        self.calls += len(images)
        return images.double().mean(dim=(1, 2, 3)).float()[:, None, None, None]


def save_grey(path, level, size=(8, 8), **options):
    """A file of one grey level, which most formats keep."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (level,) * 3).save(path, **options)
