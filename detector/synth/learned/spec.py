"""What a learned generator is, in values: equal specs trained on equal photographs on one machine are equal."""

from __future__ import annotations

from dataclasses import dataclass

from detector.synth.learned.blocks import Activation, Norm, Up


@dataclass(frozen=True)
class LearnedSpec:
    """One learned generator.

    Attributes:
        name: its name, also that of its folder.
        kind: of :data:`detector.synth.learned.kinds.KINDS`.
        up: how it up-samples.
        factor: how much smaller than the photograph what it is made from is: 2, 4, 8, ...
        width: channels at full size; more at smaller ones.
        norm, activation: of its blocks.
        latent: channels of an autoencoder's latent.
        codes: entries of an autoencoder's codebook; 0 for a normal latent.
        finest: the finest scale at which it must follow the photograph, see
            :func:`detector.synth.learned.losses.reconstruction`; what is finer is the discriminator's alone.
        adversarial: weight of the discriminator's judgement.
        seed: of weights, crops and noise.
    """

    name: str
    kind: str
    up: Up
    factor: int
    width: int = 32
    norm: Norm = "group"
    activation: Activation = "silu"
    latent: int = 8
    codes: int = 0
    finest: int = 1
    adversarial: float = 0.1
    seed: int = 0

    # What the builder of data sets asks of every generator: images are neither blended nor compressed at the end.
    blend = False
    jpeg = None

    @property
    def scale(self) -> int:
        return self.factor

    @property
    def description(self) -> str:
        """What it is, in one line."""
        latent = f"codebook of {self.codes}" if self.codes else f"{self.latent} latent channels"
        parts = [
            f"learned {self.kind}: {self.up} x{self.factor}",
            f"width {self.width}",
            f"{self.norm} norm",
            *([latent] if self.kind == "autoencoder" else []),
            f"seed {self.seed}",
        ]
        return ", ".join(parts)
