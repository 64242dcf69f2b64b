"""Random input for the tests: images of every layout, weights, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

RESIDUALS = ("npr", "haar", "npr+haar")

LAYOUTS = ("nchw", "channels_last", "strided", "expanded")


def draw_images(rng: np.random.Generator, shape: tuple[int, int, int, int], layout: str = "nchw") -> Tensor:
    """uint8 images [N, C, H, W] of a layout: dense, a view with gaps in every dimension, or one image repeated."""
    n, c, h, w = shape
    if layout == "strided":
        return torch.from_numpy(rng.integers(0, 256, (n + 1, c + 1, 2 * h + 1, 3 * w + 1), dtype=np.uint8))[
            1:, 1:, 1::2, 1::3
        ]
    if layout == "expanded":
        return torch.from_numpy(rng.integers(0, 256, (1, c, h, w), dtype=np.uint8)).expand(n, c, h, w)
    images = torch.from_numpy(rng.integers(0, 256, (n, c, h, w), dtype=np.uint8))
    return images.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else images


def draw_grad(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> Tensor:
    """A gradient [N, O, H, W]: contiguous, channels_last, with gaps, or one number expanded, as sum() makes it."""
    if layout == "expanded":
        return torch.from_numpy(rng.standard_normal(())).to(dtype).expand(shape)
    if layout == "strided":
        n, o, h, w = shape
        return torch.from_numpy(rng.standard_normal((n + 1, o + 1, h + 1, 2 * w))).to(dtype)[1:, 1:, 1:, ::2]
    grad = torch.from_numpy(rng.standard_normal(shape)).to(dtype)
    return grad.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else grad


def draw_weight(
    rng: np.random.Generator, outputs: int, channels: int, dtype: torch.dtype = torch.float32, residual: str = "npr"
) -> Tensor:
    """A weight for images of so many channels."""
    channels *= 2 if residual == "npr+haar" else 1
    return torch.from_numpy(rng.standard_normal((outputs, channels, 3, 3))).to(dtype)


def on_the_diagonal(row: Any, rows: Sequence[Any], column: Any, columns: Sequence[Any]) -> bool:
    """Of a table of test cases, a few that have every row and, if there are as many, every column."""
    return columns.index(column) == rows.index(row) % len(columns)


@dataclass(frozen=True)
class Normalisation:
    """std and scale of the public functions, and the channel_scale of the ops that they fold into."""

    std: list[float]
    scale: float

    def channel_scale(self, residual: str = "npr") -> list[float]:
        npr = [self.scale / (255 * s) for s in self.std]
        haar = [scale / 2 for scale in npr]
        return {"npr": npr, "haar": haar, "npr+haar": npr + haar}[residual]


def draw_normalisation(rng: np.random.Generator, channels: int) -> Normalisation:
    return Normalisation(rng.uniform(0.1, 0.5, channels).tolist(), rng.uniform(0.3, 2.0))
