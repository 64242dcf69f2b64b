"""Simulated generators: decoders fitted in closed form that leave the traces of real generators' up-sampling.

The last stage of a generator is linear in its weights, y = conv(up(z)), so imitating one takes no training loop.
An encoder takes a photograph's features z at half size (2x2 cells unfolded into channels, then a random orthonormal
projection that keeps a part of them). The decoder up-samples z with the operator under study, and its convolution is
solved by ridge regression against the photograph. Several levels in a row make decoders of x4 and x8; each level is
fitted to the encoder's features one level up, from what the level below really produces.

These are models of the up-sampling trace, not of any published generator, and results on them must say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detector.synth.upsampling import Upsampler, upsample

RIDGE = 1e-3
"""Weight of the regression's penalty, relative to the mean square of the features."""

Kind = Literal["GAN-like", "diffusion-like", "face-swap-like"]


@dataclass(frozen=True)
class GeneratorSpec:
    """One simulated generator, complete: equal specs fitted on equal photographs are equal generators.

    Attributes:
        name: its name, also that of its folder.
        kind: the kind of generator that it stands for.
        upsampler: the operator of the finest level, and of every other level unless `coarse` names theirs.
        kernel: side of the fitted convolution after each up-sampling.
        channels: feature channels kept at each level, finest first; as many x2 levels as there are numbers. A level
            unfolds to four times the channels above it, and the image has 3, so 8 keeps two thirds of a photograph.
        coarse: the operator of the levels below the finest, as where a super-resolving stage of its own follows a
            decoder; None for `upsampler`.
        hidden: channels of a residual block before each level's convolution, y = conv(u) + conv(relu(conv(u))) with
            random inner weights; 0 for none.
        blend: the generated pixels fill only a soft elliptic region of the photograph, as a swapped face does.
        jpeg: quality at which the generator's images, real and fake alike, are compressed at the end; None for no
            compression.
        seed: draws the encoder's projections and the residual blocks.
    """

    name: str
    kind: Kind
    upsampler: Upsampler
    kernel: int = 3
    channels: tuple[int, ...] = (8,)
    coarse: Upsampler | None = None
    hidden: int = 0
    blend: bool = False
    jpeg: int | None = None
    seed: int = 0

    @property
    def scale(self) -> int:
        """Up-sampling factor of all levels together."""
        return 2 ** len(self.channels)

    def operator(self, level: int) -> Upsampler:
        """The up-sampling operator of a level, 0 the finest."""
        return self.upsampler if level == 0 or self.coarse is None else self.coarse

    @property
    def description(self) -> str:
        """What it is, in one line."""
        below = f"{self.coarse} x{self.scale // 2}, then " if self.coarse else ""
        parts = [
            f"{self.kind}: {below}{self.upsampler} x{2 if self.coarse else self.scale}",
            f"{self.kernel}x{self.kernel} convolution",
            f"{'+'.join(map(str, self.channels))} channels",
        ]
        if self.hidden:
            parts.append(f"residual block of {self.hidden}")
        if self.blend:
            parts.append("blended region")
        if self.jpeg is not None:
            parts.append(f"JPEG {self.jpeg}")
        return ", ".join([*parts, f"seed {self.seed}"])


class _Code(NamedTuple):
    """What the encoder keeps of one level."""

    features: Tensor  # [N, m, h, w]
    switches: Tensor  # int64 [N, h, w], phase of each cell's maximum, for un-pooling


class Generator:
    """A simulated generator, fitted on photographs.

    Args:
        spec: which generator.
        images: uint8 [N, 3, H, W], the crops to fit on; H and W multiples of `spec.scale`.
    """

    def __init__(self, spec: GeneratorSpec, images: Tensor) -> None:
        self.spec = spec
        rng = np.random.default_rng(spec.seed)
        self._projections = _projections(spec.channels, rng)
        self._inner = [
            torch.from_numpy(rng.normal(0, (9 * m) ** -0.5, (spec.hidden, m, 3, 3))).float() for m in spec.channels
        ]
        self._weights: list[tuple[Tensor, Tensor]] = []  # convolution weight and bias of each level, coarsest first
        self._fit(_to_unit(images))

    def reconstruct(self, images: Tensor) -> Tensor:
        """The generator's version of each image: encoded, decoded, rounded to 8 bits.

        Args:
            images: uint8 [N, 3, H, W]; H and W multiples of `spec.scale`.

        Returns:
            uint8 [N, 3, H, W]
        """
        codes = self._encode(_to_unit(images))
        z = codes[-1].features
        for level in reversed(range(len(codes))):
            weight, bias = self._weights[len(codes) - 1 - level]
            z = self._rearrange(F.conv2d(self._basis(z, codes, level), weight, bias), level)
        return ((z + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _encode(self, x: Tensor) -> list[_Code]:
        codes = []
        for projection in self._projections:
            cells = F.pixel_unshuffle(x, 2)
            switches = cells.unflatten(1, (-1, 4)).mean(1).argmax(1)
            x = F.conv2d(cells, projection[:, :, None, None])
            codes.append(_Code(x, switches))
        return codes

    def _basis(self, z: Tensor, codes: list[_Code], level: int) -> Tensor:
        """What the fitted convolution of a level sees, padded for it: the up-sampled features and the hidden ones."""
        u = upsample(z, self.spec.operator(level), codes[level].switches)
        if self.spec.hidden:
            u = torch.cat([u, F.relu(F.conv2d(_pad(u, 3), self._inner[level]))], 1)
        return _pad(u, self.spec.kernel)

    def _rearrange(self, y: Tensor, level: int) -> Tensor:
        return F.pixel_shuffle(y, 2) if self.spec.operator(level) == "pixelshuffle" else y

    def _fit(self, x: Tensor) -> None:
        codes = self._encode(x)
        z = codes[-1].features
        for level in reversed(range(len(codes))):
            target = codes[level - 1].features if level else x
            if self.spec.operator(level) == "pixelshuffle":
                target = F.pixel_unshuffle(target, 2)
            basis = self._basis(z, codes, level)
            weight, bias = _ridge(basis, target, self.spec.kernel)
            self._weights.append((weight, bias))
            z = self._rearrange(F.conv2d(basis, weight, bias), level)


def _to_unit(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _pad(x: Tensor, kernel: int) -> Tensor:
    """Keeps a convolution's output at its input's size. Edges repeat: zeros would leave a frame to detect."""
    before, after = (kernel - 1) // 2, kernel // 2
    return F.pad(x, (before, after, before, after), mode="replicate")


def _projections(channels: tuple[int, ...], rng: np.random.Generator) -> list[Tensor]:
    """Random matrices [m, 4 * channels above] of orthonormal rows, one a level."""
    projections, above = [], 3
    for m in channels:
        orthogonal, _ = np.linalg.qr(rng.normal(size=(4 * above, 4 * above)))
        projections.append(torch.from_numpy(orthogonal[:m]).float())
        above = m
    return projections


def _ridge(basis: Tensor, target: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Convolution weight [out, in, k, k] and bias [out] that take the padded basis closest to the target.

    Solves the normal equations (D D' + lambda I) W = D T', D being the unfolded basis with a row of ones; sums run
    image by image in float64, so that memory stays small.
    """
    terms = basis.shape[1] * kernel**2 + 1
    gram = torch.zeros(terms, terms, dtype=torch.float64)
    moment = torch.zeros(terms, target.shape[1], dtype=torch.float64)
    for b, t in zip(basis, target, strict=True):
        columns = F.unfold(b[None], kernel)[0].double()
        columns = torch.cat([columns, torch.ones_like(columns[:1])])
        gram += columns @ columns.T
        moment += columns @ t.flatten(1).double().T
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, moment).float()
    weight = solution[:-1].T.reshape(target.shape[1], basis.shape[1], kernel, kernel)
    return weight.contiguous(), solution[-1].contiguous()
