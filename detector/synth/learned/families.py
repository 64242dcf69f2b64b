"""The table of learned generators that `npr synth --learned` knows."""

from __future__ import annotations

from detector.synth.learned.spec import LearnedSpec

LEARNED: tuple[LearnedSpec, ...] = (
    # Decoders of latents, as of Stable Diffusion and latent diffusion.
    LearnedSpec("autoencoder-nearest-x8", "autoencoder", "nearest", 8),
    LearnedSpec("autoencoder-nearest-x8-narrow", "autoencoder", "nearest", 8, latent=4, seed=20),
    LearnedSpec("autoencoder-nearest-x4", "autoencoder", "nearest", 4, latent=3, seed=3),
    LearnedSpec("autoencoder-fir-x8", "autoencoder", "fir", 8, activation="leaky", seed=2),
    LearnedSpec("autoencoder-transposed-x4", "autoencoder", "transposed3", 4, norm="instance", latent=4, seed=1),
    # From a code and noise, as StyleGAN2.
    LearnedSpec("gan-fir", "gan", "fir", 8, latent=16, finest=2, adversarial=0.2, seed=10),
    # Image to image, as CycleGAN and pix2pix.
    LearnedSpec("translator", "translator", "transposed3", 4, width=16, norm="instance", activation="relu", seed=7),
    LearnedSpec("unet", "unet", "transposed4", 8, width=24, norm="batch", activation="relu", finest=2, seed=9),
    # Denoising in pixel space, as pixel diffusion.
    LearnedSpec("denoiser", "denoiser", "nearest", 4, width=24, adversarial=0.0, seed=13),
    # Variants of all of them.
    LearnedSpec("autoencoder-transposed-x8", "autoencoder", "transposed4", 8, norm="batch", activation="relu", seed=4),
    LearnedSpec("autoencoder-shuffle-x4", "autoencoder", "pixelshuffle", 4, latent=4, seed=6),
    LearnedSpec("autoencoder-vq-x4", "autoencoder", "nearest", 4, latent=4, codes=256, seed=5),
    LearnedSpec("translator-nearest", "translator", "nearest", 4, width=16, norm="instance", activation="relu", seed=8),
    # Super-resolution, as SRResNet and ESRGAN.
    LearnedSpec("superresolver-shuffle-x4", "superresolver", "pixelshuffle", 4, norm="none", seed=11),
    LearnedSpec("superresolver-nearest-x4", "superresolver", "nearest", 4, norm="none", seed=12),
)
"""Every learned generator, small enough to be trained in a few minutes of a core."""
