"""Figures: one image explained side by side, and the mean spectra of generators. They need matplotlib."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detector.data import FAKE, REAL
from detector.explain.activation import Explanation
from detector.explain.spectra import MeanSpectrum, radial_profile, spectrum
from detector.files import whole_file
from detector.printable import printable
from npr_kernels import npr_residual

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Pictures are drawn from at most so many pixels a side; larger ones are averaged down.
_SHOWN = 640

# Side in pixels of the part that is shown magnified, so that single cells of the residual are seen.
_DETAIL = 48

# Inches that a line below the title takes.
_LINE = 0.2

# Side of the spectrum of one image; that of smaller images is their shorter side.
_SPECTRUM = 256


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sides in inches.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("figures need matplotlib: pip install 'npr-kernels[report]'") from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a PNG, whole or not at all; the same bytes for the same figure."""
    with whole_file(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in scripts that the font does not have
        figure.savefig(part, format="png", metadata={"Software": None})


def explanation_figure(image: Tensor, explanation: Explanation, title: str, remarks: Sequence[str] = ()) -> Figure:
    """The image, where the evidence lies, what the residual looks like there, and the spectrum.

    Args:
        image: uint8 [3, H, W], what was explained.
        explanation: of it.
        title: of the figure.
        remarks: lines below the title, for which the figure is so much higher.
    """
    figure = new_figure(13.5, 8.6 + _LINE * len(remarks))
    figure.suptitle("\n".join(map(_text, (title, *remarks))))
    axes: np.ndarray = figure.subplots(2, 3)
    top, left, side = _detail(image, explanation)
    (whole, activation, saliency), (residual, magnified, frequencies) = axes

    whole.imshow(_reduced(image).permute(1, 2, 0).numpy(), extent=_extent(image))
    whole.set_title(f"image, {image.shape[2]} x {image.shape[1]} pixels")
    _frame(whole, top, left, side)
    _draw_activation(figure, activation, image, explanation)
    _frame(activation, top, left, side)
    _draw_saliency(figure, saliency, image, explanation)
    _frame(saliency, top, left, side)
    _draw_residual(figure, residual, image)
    _frame(residual, top, left, side)
    _draw_detail(magnified, image, top, left, side)
    side = min(_SPECTRUM, image.shape[1], image.shape[2])
    _draw_spectrum(figure, frequencies, np.log10(spectrum(image, side) + 1e-2), "high-pass spectrum")
    for axis in axes.flat[:5]:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure


def spectra_figure(spectra: dict[str, dict[int, MeanSpectrum]], title: str) -> Figure:
    """A row for each generator: mean spectra of reals and fakes, what fakes have more, and radial profiles.

    Args:
        spectra: by generator and label, as :func:`detector.explain.mean_spectra` gives them; not empty.
        title: of the figure.
    """
    figure = new_figure(15, 0.8 + 3.4 * len(spectra))
    figure.suptitle(_text(title))
    axes = figure.subplots(len(spectra), 4, squeeze=False)
    for row, (generator, of_label) in zip(axes, spectra.items(), strict=True):
        logs = {label: np.log10(mean.magnitude + 1e-2) for label, mean in of_label.items()}
        low = min(values.min() for values in logs.values())
        high = max(values.max() for values in logs.values())
        for axis, label in zip(row, (REAL, FAKE), strict=False):
            name = "reals" if label == REAL else "fakes"
            if label in of_label:
                head = _text(f"{generator}: {of_label[label].images} {name}")
                _draw_spectrum(figure, axis, logs[label], head, vmin=low, vmax=high)
            else:
                _leave_out(axis, _text(f"{generator}: no {name}"))
        if len(logs) == 2:
            more = logs[FAKE] - logs[REAL]
            reach = max(np.abs(more).max(), 1e-6)
            _draw_spectrum(figure, row[2], more, "log ratio, fakes to reals", cmap="RdBu_r", vmin=-reach, vmax=reach)
        else:
            _leave_out(row[2], "needs reals and fakes")
        _draw_profiles(row[3], of_label)
    return figure


def _draw_activation(figure: Figure, axis: Axes, image: Tensor, explanation: Explanation) -> None:
    """The local logits over a grey image: red speaks for generated, blue for real."""
    grey = _reduced(image).float().mean(dim=0).numpy()
    axis.imshow(0.5 * grey + 127, cmap="gray", vmin=0, vmax=255, extent=_extent(image))
    logits = explanation.local_logits.numpy()
    reach = max(np.abs(logits).max(), 1e-6)
    height, width = (length * explanation.feature_stride for length in logits.shape)
    mappable = axis.imshow(
        logits,
        cmap="RdBu_r",
        vmin=-reach,
        vmax=reach,
        alpha=0.65,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axis.set_xlim(0, image.shape[2])
    axis.set_ylim(image.shape[1], 0)
    whole = f", whole image {explanation.whole:+.2f} of it" if explanation.whole else ""
    axis.set_title(f"local logits, mean {explanation.logit:+.2f}{whole}")
    figure.colorbar(mappable, ax=axis, shrink=_bar_length(image), label="real          generated")


def _draw_saliency(figure: Figure, axis: Axes, image: Tensor, explanation: Explanation) -> None:
    """Clipped at the 99th percentile: a few pixels weigh many times the others."""
    values = _reduced(explanation.saliency[None])[0].numpy()
    mappable = axis.imshow(
        values, cmap="magma", vmin=0, vmax=max(np.percentile(values, 99), 1e-12), extent=_extent(image)
    )
    axis.set_title("saliency: |gradient of the logit|")
    figure.colorbar(mappable, ax=axis, shrink=_bar_length(image))


def _draw_residual(figure: Figure, axis: Axes, image: Tensor) -> None:
    """Its magnitude: signs would cancel where a large picture is averaged down."""
    magnitude = npr_residual(image[None])[0].float().abs().mean(dim=0)
    values = _reduced(magnitude[None])[0].numpy()
    mappable = axis.imshow(
        values, cmap="viridis", vmin=0, vmax=max(np.percentile(values, 99), 1), extent=_extent(magnitude[None])
    )
    axis.set_title("NPR residual, magnitude in grey levels")
    figure.colorbar(mappable, ax=axis, shrink=_bar_length(image))


def _draw_detail(axis: Axes, image: Tensor, top: int, left: int, side: int) -> None:
    """The residual of a few cells in colour, grey where a pixel equals its cell's first."""
    residual = npr_residual(image[None, :, top : top + side, left : left + side])[0].float()
    reach = max(residual.abs().quantile(0.99).item(), 1)
    axis.imshow((0.5 + residual / (2 * reach)).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(f"NPR residual in the frame, grey 0, ends ±{reach:.0f}")


def _draw_spectrum(figure: Figure, axis: Axes, values: np.ndarray, title: str, **colours: Any) -> None:
    half = 0.5 / len(values)  # pixels are centred on their frequencies, the first on -0.5
    low, high = -(len(values) // 2) / len(values) - half, (len(values) - 1) // 2 / len(values) + half
    options = {"cmap": "inferno"} | colours
    mappable = axis.imshow(values, extent=(low, high, high, low), interpolation="nearest", **options)
    axis.set_title(title)
    axis.set_xticks([-0.5, -0.25, 0, 0.25, 0.5])
    axis.set_yticks([-0.5, -0.25, 0, 0.25, 0.5])
    axis.set_xlim(low, high)
    axis.set_ylim(high, low)
    axis.set_xlabel("cycles a pixel")
    figure.colorbar(mappable, ax=axis, shrink=0.8, label="log10")


def _draw_profiles(axis: Axes, of_label: dict[int, MeanSpectrum]) -> None:
    for label, mean in of_label.items():
        profile = radial_profile(mean.magnitude)
        frequencies = np.arange(len(profile)) / len(mean.magnitude)
        name, colour = ("reals", "tab:blue") if label == REAL else ("fakes", "tab:red")
        axis.semilogy(frequencies, profile, label=name, color=colour)
    axis.set_title("mean over all directions")
    axis.set_xlabel("cycles a pixel")
    axis.set_xlim(0, 0.5)
    axis.grid(alpha=0.3, which="both")
    axis.legend()


def _text(text: str) -> str:
    """For matplotlib, which reads formulas between dollar signs."""
    return printable(text).replace("$", r"\$")


def _leave_out(axis: Axes, reason: str) -> None:
    axis.set_title(reason)
    axis.set_axis_off()


def _detail(image: Tensor, explanation: Explanation) -> tuple[int, int, int]:
    """Top, left and side of the square around the feature that speaks most for the verdict; top and left are even."""
    logits = explanation.local_logits if explanation.logit > 0 else -explanation.local_logits
    row, column = divmod(int(logits.argmax()), logits.shape[1])
    side = min(_DETAIL, *image.shape[1:])
    top, left = (
        min(max(at * explanation.feature_stride - side // 2, 0), size - side) // 2 * 2
        for at, size in zip((row, column), image.shape[1:], strict=True)
    )
    return top, left, side


def _frame(axis: Axes, top: int, left: int, side: int) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="lime", linewidth=1.2))


def _bar_length(image: Tensor) -> float:
    """Of a colour bar beside the image, as a part of the axes' height."""
    return 0.8 * min(1.0, max(0.4, image.shape[1] / image.shape[2]))


def _extent(image: Tensor) -> tuple[int, int, int, int]:
    """Where [C, H, W] lies when axes count its pixels, whatever it was reduced to."""
    return 0, image.shape[2], image.shape[1], 0


def _reduced(image: Tensor) -> Tensor:
    """[C, H, W] averaged down by a whole factor to at most _SHOWN pixels a side; uint8 stays uint8."""
    factor = -(-max(image.shape[1:]) // _SHOWN)
    if factor == 1:
        return image
    reduced = F.avg_pool2d(image.float()[None], min(factor, *image.shape[1:]))[0]
    return reduced.round().to(torch.uint8) if image.dtype == torch.uint8 else reduced
