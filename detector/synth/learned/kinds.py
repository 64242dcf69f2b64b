"""The kinds of learned generators. Each makes a picture of a photograph, through what its kind cannot keep of it.

All are modules with one method more: `forward(photographs)` gives the pictures and a penalty; both are [N, 3, H, W] in
-1..1, H and W multiples of the kind's factor. They are small versions of published generators' architectures.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.synth.learned.blocks import Fir, Residual, activation, conv, norm, up

if TYPE_CHECKING:
    from detector.synth.learned.spec import LearnedSpec


class Autoencoder(nn.Module):
    """A latent of few channels, a fourth or an eighth as large, as in latent diffusion (Rombach et al., CVPR 2022).

    With `codes`, the latent is rounded to a learned codebook (VQ-VAE, van den Oord et al., NeurIPS 2017); otherwise it
    is a normal distribution with a Kullback-Leibler penalty, which is sampled.

    The latent's first three channels start as the shrunk photograph, and its deviations as small, so that a few hundred
    steps are enough to learn the colours and the rest is spent on the fine structure.
    """

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        levels = spec.factor.bit_length() - 1
        widths = [spec.width, spec.width * 3 // 2 // 8 * 8, spec.width * 2, spec.width * 3][: levels + 1]
        block = (spec.norm, spec.activation)
        encoder: list[nn.Module] = [conv(3, widths[0])]
        for here, below in pairwise(widths):
            encoder += [Residual(here, *block), conv(here, below, stride=2)]
        encoder += [Residual(widths[-1], *block), norm(spec.norm, widths[-1]), activation(spec.activation)]
        code = conv(widths[-1], spec.latent if spec.codes else 2 * spec.latent)
        if not spec.codes:
            assert code.bias is not None
            nn.init.constant_(code.bias.data[spec.latent :], -6.0)
        encoder += [code]
        decoder: list[nn.Module] = [conv(spec.latent, widths[-1]), Residual(widths[-1], *block)]
        decoder += [Residual(widths[-1], *block)]
        for below, here in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            decoder += [up(spec.up, below, here), Residual(here, *block)]
        decoder += [norm(spec.norm, widths[0]), activation(spec.activation), conv(widths[0], 3)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.codebook = nn.Parameter(torch.randn(spec.codes, spec.latent) * 0.5) if spec.codes else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        code = with_colours(self.encoder(images).float(), images)
        if self.codebook is None:
            mean, log_variance = code.chunk(2, 1)
            log_variance = log_variance.clamp(-12, 4)
            penalty = 1e-4 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            return self.decoder(mean + 0.5 * torch.randn_like(mean) * (0.5 * log_variance).exp()), penalty
        flat = code.permute(0, 2, 3, 1).reshape(-1, code.shape[1])
        nearest = torch.cdist(flat.detach(), self.codebook.detach()).argmin(1)
        chosen = self.codebook[nearest].view(code.shape[0], *code.shape[2:], -1).permute(0, 3, 1, 2)
        penalty = (chosen - code.detach()).square().mean() + 0.25 * (code - chosen.detach()).square().mean()
        return self.decoder(code + (chosen - code).detach()), penalty


class Translator(nn.Module):
    """CycleGAN's generator (Zhu et al., ICCV 2017): down by four, residual blocks, up by four. It gives a photograph of
    changed colours and contrast, slightly blurred, its own look again."""

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        w, act, kind = spec.width, spec.activation, spec.norm
        layers: list[nn.Module] = [conv(3, w, 7), norm(kind, w), activation(act)]
        layers += [conv(w, 2 * w, stride=2), norm(kind, 2 * w), activation(act)]
        layers += [conv(2 * w, 4 * w, stride=2), norm(kind, 4 * w), activation(act)]
        layers += [Residual(4 * w, kind, act) for _ in range(3)]
        layers += [up(spec.up, 4 * w, 2 * w), norm(kind, 2 * w), activation(act)]
        layers += [up(spec.up, 2 * w, w), norm(kind, w), activation(act), conv(w, 3, 7), nn.Tanh()]
        self.body = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(changed_look(images)), images.new_zeros(())


class UNet(nn.Module):
    """pix2pix's generator (Isola et al., CVPR 2017): three levels down and up with skips, the last of which gives the
    colours at once; its input is the photograph's outlines and coarse colours, so that it has to paint the rest."""

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        w, kind, act = spec.width, spec.norm, spec.activation
        sizes = [w, 2 * w, 4 * w]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), norm(kind, b), activation("leaky"))
            for a, b in pairwise([4, *sizes])
        )
        self.middle = nn.Sequential(Residual(4 * w, kind, act), Residual(4 * w, kind, act))
        self.up = nn.ModuleList(
            nn.Sequential(up(spec.up, a, b), norm(kind, b), activation(act)) for a, b in ((4 * w, 2 * w), (4 * w, w))
        )
        self.out = nn.Sequential(up(spec.up, 2 * w, 3), nn.Tanh())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        coarse = F.interpolate(F.avg_pool2d(images, 8), scale_factor=8, mode="bilinear")
        edges = (images - F.avg_pool2d(images, 3, 1, 1)).mean(1, keepdim=True).sign()
        x = torch.cat([coarse, edges], 1)
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.up[0](self.middle(x))
        x = self.up[1](torch.cat([x, skips[1]], 1))
        return self.out(torch.cat([x, skips[0]], 1)), images.new_zeros(())


class StyleGenerator(nn.Module):
    """StyleGAN2's synthesis (Karras et al., CVPR 2020): modulated convolutions, up-sampling by a transposed convolution
    and a filter, noise at every pixel, colours summed over the levels. Where StyleGAN2 starts from a constant it starts
    from a small code of the photograph, so that real and fake stay aligned."""

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        levels = spec.factor.bit_length() - 1
        # From the code to full size: narrower at larger sizes.
        self.widths = [spec.width * 3, *(spec.width * 2 for _ in range(levels - 1)), spec.width]
        encoder: list[nn.Module] = [conv(3, spec.width)]
        for _ in range(levels):
            encoder += [activation("leaky"), conv(spec.width, spec.width, stride=2)]
        self.encoder = nn.Sequential(*encoder, activation("leaky"), conv(spec.width, spec.latent))
        self.start = conv(spec.latent, self.widths[0])
        self.style = nn.Sequential(nn.Linear(spec.latent, 64), activation("leaky"), nn.Linear(64, 64))
        pairs = list(pairwise(self.widths))
        self.ups = nn.ModuleList(up("fir", a, b) for a, b in pairs)
        self.convs = nn.ModuleList(conv(b, b) for _, b in pairs)
        self.scales = nn.ModuleList(nn.Linear(64, channels) for a, b in pairs for channels in (a, b))
        self.noise = nn.Parameter(torch.full((2 * levels,), 0.05))
        self.colours = nn.ModuleList(conv(b, 3, 1) for _, b in pairs)
        self.up_colours = Fir(3, stuffing=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        code = with_colours(self.encoder(images), images)
        style = self.style(code.mean((2, 3)))
        x = F.leaky_relu(self.start(code), 0.2)
        colour: Tensor | None = None
        for level, (enlarge, layer) in enumerate(zip(self.ups, self.convs, strict=True)):
            for part, step in enumerate((enlarge, layer)):
                number = 2 * level + part
                x = step(x * (1 + self.scales[number](style)[:, :, None, None]))
                x = x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6).to(x.dtype)
                x = F.leaky_relu(x + self.noise[number] * torch.randn_like(x[:, :1]), 0.2)
            shade = self.colours[level](x)
            colour = shade if colour is None else self.up_colours(colour) + shade
        assert colour is not None
        return colour, images.new_zeros(())


class SuperResolver(nn.Module):
    """Residual blocks on the shrunk photograph, then up-sampling (SRResNet, Ledig et al., CVPR 2017; with nearest
    neighbours ESRGAN's, Wang et al., ECCVW 2018)."""

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        w, kind, act = spec.width, spec.norm, spec.activation
        self.factor = spec.factor
        layers: list[nn.Module] = [conv(3, w)]
        layers += [Residual(w, kind, act) for _ in range(4)]
        for _ in range(spec.factor.bit_length() - 1):
            layers += [up(spec.up, w, w), activation(act)]
        self.body = nn.Sequential(*layers, conv(w, w), activation(act), conv(w, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        small = F.avg_pool2d(images, self.factor)
        return self.body(small), images.new_zeros(())


class Denoiser(nn.Module):
    """A U-Net in pixel space that predicts the photograph from a noisy one (as DDPM, Ho et al., NeurIPS 2020), run from
    strong noise in a few deterministic steps (DDIM, Song et al., ICLR 2021)."""

    STEPS = (1.5, 0.8, 0.35, 0.12)
    """Standard deviations of the noise, in units of -1..1, from which it steps down to none."""

    def __init__(self, spec: LearnedSpec) -> None:
        super().__init__()
        w, kind, act = spec.width, spec.norm, spec.activation
        self.first = conv(4, w)
        self.fine = Residual(w, kind, act)
        self.down = nn.ModuleList([conv(w, 2 * w, stride=2), conv(2 * w, 3 * w, stride=2)])
        self.middle = nn.ModuleList([Residual(2 * w, kind, act), Residual(3 * w, kind, act)])
        self.up = nn.ModuleList([up(spec.up, 3 * w, 2 * w), up(spec.up, 2 * w, w)])
        self.after = nn.ModuleList([Residual(2 * w, kind, act), Residual(w, kind, act)])
        self.last = nn.Sequential(norm(kind, w), activation(act), conv(w, 3))

    def denoised(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """[N, 3, H, W] with noise of deviation sigma [N, 1, 1, 1] -> the prediction of the picture."""
        scale = torch.rsqrt(sigma.square() + 0.25)
        x = self.first(torch.cat([noisy * scale, sigma.log().expand_as(noisy[:, :1])], 1))
        x = self.fine(x)
        y = self.middle[0](self.down[0](x))
        z = self.middle[1](self.down[1](y))
        y = self.after[0](self.up[0](z) + y)
        x = self.after[1](self.up[1](y) + x)
        return self.last(x)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            sigma = torch.exp(torch.randn(len(images), 1, 1, 1, device=images.device) - 1).clamp(0.05, 3)
            return self.denoised(images + sigma * torch.randn_like(images), sigma), images.new_zeros(())
        noise = torch.randn_like(images)
        x = images + self.STEPS[0] * noise
        for level, following in zip(self.STEPS, [*self.STEPS[1:], 0.0], strict=True):
            deviation = torch.full((len(images), 1, 1, 1), level, device=images.device)
            picture = self.denoised(x, deviation)
            x = picture + following / level * (x - picture)
        return x, images.new_zeros(())


def with_colours(code: Tensor, images: Tensor) -> Tensor:
    """A code [N, C, h, w], C at least 3, to whose first three channels the images [N, 3, H, W], shrunk to its size, are
    added: it starts with the colours, which then need not be learned."""
    shrunk = F.avg_pool2d(images, images.shape[2] // code.shape[2])
    return torch.cat([code[:, :3] + shrunk, code[:, 3:]], 1)


def changed_look(images: Tensor) -> Tensor:
    """Other gains and offsets of the colours, and a slight blur; [N, 3, H, W] in -1..1."""
    gain = 0.6 + 0.8 * torch.rand(len(images), 3, 1, 1, device=images.device)
    offset = 0.4 * torch.rand(len(images), 3, 1, 1, device=images.device) - 0.2
    return (F.avg_pool2d(images, 3, 1, 1) * gain + offset).clamp(-1, 1)


KINDS: dict[str, type[nn.Module]] = {
    "autoencoder": Autoencoder,
    "translator": Translator,
    "unet": UNet,
    "gan": StyleGenerator,
    "superresolver": SuperResolver,
    "denoiser": Denoiser,
}
