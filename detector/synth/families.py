"""The tables of simulated generators that `npr synth` knows."""

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
"""Every generator of the default data set: mostly single levels, so that the up-sampler is what differs."""

_KNOWN = {spec.name: spec for spec in FAMILIES}

SUITE_28: tuple[GeneratorSpec, ...] = (
    # One level and another seed, kernel or operator: what of a trace carries over.
    *(_KNOWN[name] for name in ("nearest", "nearest-seed1", "nearest-k5", "fir", "bilinear", "bilinear-k5", "bicubic")),
    *(_KNOWN[name] for name in ("lowpass", "transposed-k3", "transposed-k4", "pixelshuffle")),
    GeneratorSpec("unpool-k5", "GAN-like", "unpool", kernel=5),
    # The last two levels of a generator, each fitted to what the one below really makes.
    GeneratorSpec("nearest-x4", "GAN-like", "nearest", channels=(8, 26), seed=8),
    GeneratorSpec("residual-gan-x4", "GAN-like", "nearest", channels=(8, 26), hidden=12, seed=9),
    GeneratorSpec("fir-x4", "GAN-like", "fir", channels=(8, 26), seed=10),
    GeneratorSpec("transposed-x4", "GAN-like", "transposed", kernel=4, channels=(8, 26), seed=11),
    # Denoisers in pixel space: residual blocks around the up-sampling of a U-Net.
    _KNOWN["residual"],
    GeneratorSpec("residual-x4", "diffusion-like", "nearest", channels=(9, 28), hidden=16, seed=12),
    GeneratorSpec("residual-bilinear", "diffusion-like", "bilinear", hidden=16, seed=13),
    # Decoders of latents: levels of nearest neighbours and a convolution, with residual blocks or without, or the
    # transposed convolutions of vector-quantised autoencoders.
    GeneratorSpec("latent-x4", "diffusion-like", "nearest", channels=(9, 28), seed=14),
    _KNOWN["latent-x8"],
    GeneratorSpec("latent-x8-k5", "diffusion-like", "nearest", kernel=5, channels=(8, 18, 36), seed=15),
    GeneratorSpec("latent-x8-residual", "diffusion-like", "nearest", channels=(8, 24, 64), hidden=8, seed=16),
    GeneratorSpec("latent-x8-transposed", "diffusion-like", "transposed", channels=(8, 24, 64), hidden=8, seed=17),
    # A super-resolving stage of another operator on top of a decoder.
    GeneratorSpec("cascade-bicubic", "diffusion-like", "bicubic", channels=(8, 26), coarse="nearest", seed=18),
    GeneratorSpec(
        "cascade-bilinear", "diffusion-like", "bilinear", channels=(8, 24, 64), coarse="nearest", hidden=8, seed=19
    ),
    # Transformers that map each token to a patch of pixels by itself.
    GeneratorSpec("patches-x4", "diffusion-like", "pixelshuffle", kernel=1, channels=(9, 28), seed=20),
    _KNOWN["faceswap"],
)
"""As many and of such kinds as Tan et al. (2024) test on: 16 GAN-like, 11 diffusion-like and one face-swap-like."""

SUITES: dict[str, tuple[GeneratorSpec, ...]] = {"default": FAMILIES, "28": SUITE_28}
"""By the names that `npr synth --suite` takes."""


def find_families(names: Sequence[str], families: Sequence[GeneratorSpec] = FAMILIES) -> tuple[GeneratorSpec, ...]:
    """The generators of the given names, in the given order.

    Args:
        names: of generators.
        families: where to look for them.

    Raises:
        ValueError: a name is unknown or given twice, or there is none.
    """
    known = {spec.name: spec for spec in families}
    if not names:
        raise ValueError(f"no generator families named; known are {', '.join(known)}")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown generator families {', '.join(unknown)}; known are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"generator families named twice: {', '.join(names)}")
    return tuple(known[name] for name in names)
