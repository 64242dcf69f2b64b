"""The table of simulated generators that `npr synth` knows."""

from __future__ import annotations

from collections.abc import Sequence

from detector.synth.generators import GeneratorSpec

FAMILIES: tuple[GeneratorSpec, ...] = (
    GeneratorSpec("nearest", "GAN-like", "nearest"),
    GeneratorSpec("nearest-seed1", "GAN-like", "nearest", seed=1),
    GeneratorSpec("nearest-seed2", "GAN-like", "nearest", channels=(6,), seed=2),
    GeneratorSpec("nearest-k5", "GAN-like", "nearest", kernel=5, seed=3),
    GeneratorSpec("nearest-k7", "GAN-like", "nearest", kernel=7, seed=4),
    GeneratorSpec("fir", "GAN-like", "fir"),
    GeneratorSpec("fir-k5", "GAN-like", "fir", kernel=5, seed=1),
    GeneratorSpec("bilinear", "GAN-like", "bilinear"),
    GeneratorSpec("bilinear-k5", "GAN-like", "bilinear", kernel=5, seed=1),
    GeneratorSpec("bicubic", "GAN-like", "bicubic"),
    GeneratorSpec("lowpass", "GAN-like", "lowpass"),
    GeneratorSpec("transposed-k3", "GAN-like", "transposed"),
    GeneratorSpec("transposed-k4", "GAN-like", "transposed", kernel=4, seed=1),
    GeneratorSpec("pixelshuffle", "GAN-like", "pixelshuffle"),
    GeneratorSpec("unpool", "GAN-like", "unpool"),
    GeneratorSpec("residual", "diffusion-like", "nearest", hidden=16, seed=5),
    GeneratorSpec("latent-x8", "diffusion-like", "nearest", channels=(8, 24, 64), seed=6),
    GeneratorSpec("faceswap", "face-swap-like", "bilinear", channels=(6,), blend=True, jpeg=90, seed=7),
)
"""Every generator of the default data set."""


def find_families(names: Sequence[str]) -> tuple[GeneratorSpec, ...]:
    """The generators of the given names, in the given order.

    Raises:
        ValueError: a name is unknown or given twice, or there is none.
    """
    known = {spec.name: spec for spec in FAMILIES}
    if not names:
        raise ValueError(f"no generator families named; known are {', '.join(known)}")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown generator families {', '.join(unknown)}; known are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"generator families named twice: {', '.join(names)}")
    return tuple(known[name] for name in names)
