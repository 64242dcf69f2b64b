"""What the whole image says: a logit from how periodic the strength of its detail is.

The network sees windows of some 90 pixels, and a lattice that makes every second row a few percent stronger is lost in
the noise of one of them. :func:`npr_kernels.periodicity.coherence` adds up the phases of all of an image, and this
model is linear in its logarithms: logistic regression, whose every weight can be read. The log of a coherence is what
evidence of a lattice is measured in: for random phases coherences are exponentially distributed about 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from npr_kernels.periodicity import BLOCK, DIFFERENCES, SCALES, SHAPE, blocks_of, coherence

GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "across 2": ((0, 4),),
    "down 2": ((4, 0),),
    "both 2": ((4, 4),),
    "across 4": ((0, 2),),
    "down 4": ((2, 0),),
    "both 4": ((2, 2), (6, 2), (2, 4), (4, 2)),
    "across 8": ((0, 1), (0, 3)),
    "down 8": ((1, 0), (3, 0)),
    "both 8": (
        *((row, column) for row in range(1, BLOCK) for column in (1, 3)),
        *((row, column) for row in (1, 3) for column in (2, 4)),
        *((row, 2) for row in (5, 7)),
    ),
}
"""Frequencies whose coherences are averaged, down and across, in eighths of a cycle a pixel: by period in pixels, and
whether they lie along rows, columns or both. Each of the 33 that are not each other's conjugates is in one group."""

FLOOR = 0.1
"""Added to a coherence before its logarithm: far below 1 it tells nothing."""

REFERENCE_BLOCKS = 32 * 32
"""Images of more blocks (256x256 pixels) are read as if they had so many: their coherence is known better, but a
lattice that only a huge image shows is a camera's or an editor's."""


class Periodicity(nn.Module):
    """A logit of the whole image, of 648 weights and a bias.

    Attributes:
        weight: float32 [scales, differences, 3 channels, groups], of the logarithms; zero at first.
        bias: float32 [].

    Shape: uint8, or floating in [0, 1], [N, 3, H, W] -> float32 [N, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(SCALES), len(DIFFERENCES), 3, len(GROUPS)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        measured = measure(images.detach())
        return (measured * self.weight).sum(dim=(1, 2, 3, 4)).unsqueeze(1) + self.bias


def measure(images: Tensor) -> Tensor:
    """The logarithms that the logit is linear in.

    Args:
        images: uint8, or floating in [0, 1], [N, 3, H, W].

    Returns:
        float32 [N, scales, differences, 3, groups]
    """
    blocks = blocks_of(*images.shape[2:])
    found = coherence(images)
    if blocks > REFERENCE_BLOCKS:
        found = 1 + (found - 1) * ((REFERENCE_BLOCKS - 1) / (blocks - 1))
    grouped = found.flatten(-2) @ AVERAGES.flatten(0, 1).to(found.device)
    return (grouped + FLOOR).log()


def transposed(measured: Tensor) -> Tensor:
    """What :func:`measure` finds for the transposed images, whose rows are the columns."""
    return measured[..., _TRANSPOSED_DIFFERENCES, :, :][..., _TRANSPOSED_GROUPS]


def _averages() -> Tensor:
    """See AVERAGES."""
    weights = torch.zeros(*SHAPE[-2:], len(GROUPS))
    for group, frequencies in enumerate(GROUPS.values()):
        for row, column in frequencies:
            weights[row, column, group] = 1 / len(frequencies)
    return weights


AVERAGES = _averages()
"""float32 [8, 5, groups]: from coherences at the frequencies to the groups' means."""

_TURNED = {"across": "down", "down": "across", "both": "both"}
_TRANSPOSED_GROUPS = [
    list(GROUPS).index(f"{_TURNED[where]} {period}") for where, period in (name.split() for name in GROUPS)
]
_TRANSPOSED_DIFFERENCES = [
    list(DIFFERENCES.values()).index(tuple(zip(*taps, strict=True)))  # type: ignore[arg-type]
    for taps in DIFFERENCES.values()
]
