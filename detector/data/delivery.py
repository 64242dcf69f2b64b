"""Deliveries: what happens to a picture between its maker and the detector, as a text and as a function.

The text is the name of a condition of an evaluation and the record of what befell a training image:

    none                                  nothing; stands alone
    png                                   storage without loss, which changes nothing
    jpeg:80  jpeg:80:444  jpeg:80:opencv  JPEG of a quality; chroma 420, 422 or 444; coded by pillow or opencv
    webp:75                               lossy WebP of a quality
    resize:0.5  resize:640px:lanczos      by a factor, or to so many pixels of the longest side; bicubic by default
    crop:256                              the centre, from an even row and column on
    shift:1:0                             rows and columns cut off at the top and left, which moves the grid of cells
    blur:1.5                              Gaussian blur, standard deviation in pixels
    sharpen:1:80                          unsharp mask, radius in pixels and strength in percent
    noise:2                               Gaussian noise, standard deviation in grey levels
    crop:256,jpeg:75,jpeg:90              one after the other
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from detector.data.degradations import Encoder, Filter, Subsampling
from detector.data.steps import (
    MAX_FACTOR,
    Blur,
    Crop,
    Jpeg,
    Noise,
    Png,
    Resize,
    ResizeTo,
    Sharpen,
    Shift,
    Size,
    Step,
    Webp,
    cut,
)

NONE = "none"


@dataclass(frozen=True)
class Delivery:
    """Steps that an image goes through, in order.

    `str(delivery)` is its text with defaults left out, and `Delivery.parse(str(delivery)) == delivery`.

    Attributes:
        steps: none of them leaves the image as it is.
    """

    steps: tuple[Step, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Delivery:
        """The delivery that a text names; blanks around its steps do not matter.

        Raises:
            ValueError: a step is unknown, is written otherwise than it should be, has a value out of range, or needs a
                codec that is not installed.

        Example:
            >>> from detector.data import Delivery
            >>> delivery = Delivery.parse("crop:256, resize:0.5:bicubic, jpeg:80")
            >>> str(delivery)
            'crop:256,resize:0.5,jpeg:80'
            >>> delivery.size(480, 640)
            (128, 128)
        """
        words = [word.strip() for word in text.split(",")]
        if words == [NONE]:
            return cls()
        return cls(tuple(_parse_step(word) for word in words))

    def __str__(self) -> str:
        return ",".join(map(str, self.steps)) or NONE

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The delivered image.

        Args:
            image: uint8 [3, H, W].
            generator: the only source of randomness, which only noise draws from.

        Returns:
            uint8 [3, H', W'], of :meth:`size`; the image itself, or a view of it, where its pixels do not change.

        Raises:
            ValueError: a codec does not take images so large, see :mod:`detector.data.degradations`.
        """
        for step in self.steps:
            image = step(image, generator)
        return image

    def size(self, height: int, width: int) -> Size:
        """Height and width of a delivered image."""
        size = height, width
        for step in self.steps:
            size = step.size(size)
        return size

    def crop(self, image: Tensor, top: int, left: int, side: int, generator: torch.Generator) -> Tensor:
        """`self(image, generator)[:, top : top + side, left : left + side]`, at the cost of a small image.

        Only what the crop depends on is computed. Of png, jpeg, crop, shift and blur the crop is that of the whole
        image, bit for bit; of resize it is but for the rounding of the filter's weights, mostly nothing and else a grey
        level or two; of webp it is approximately, see :class:`detector.data.steps.Webp`; of noise it has other draws.
        What follows in the chain goes on from there.

        Args:
            image: uint8 [3, H, W].
            top, left, side: in the delivered image, of which the crop must be a part.

        Returns:
            uint8 [3, side, side]
        """
        height, width = image.shape[1:]
        sizes: list[Size] = [(height, width)]
        for step in self.steps:
            sizes.append(step.size(sizes[-1]))
        height, width = sizes[-1]
        if not (0 <= top <= height - side and 0 <= left <= width - side):
            raise ValueError(f"the crop must lie in {height}x{width} pixels, got {side}x{side} from {top}, {left} on")
        windows = [((top, top + side), (left, left + side))]
        for step, size in zip(reversed(self.steps), reversed(sizes[:-1]), strict=True):
            windows.insert(0, step.source(windows[0], size))
        part = cut(image, windows[0])
        for step, size, at, window in zip(self.steps, sizes, windows, windows[1:], strict=False):
            part = step.part(part, at, window, size, generator)
        return part


class _Form(NamedTuple):
    """How a step is written."""

    usage: str
    pattern: str
    build: Callable[..., Step]


def _any(choices: Any) -> str:
    return "|".join(get_args(choices))


_WHOLE = r"(\d{1,9})"
_NUMBER = r"(\d+(?:\.\d*)?(?:e[-+]?\d+)?)"

_FORMS: dict[str, _Form] = {
    "png": _Form("png", "", Png),
    "jpeg": _Form(
        f"jpeg:Q[:{_any(Subsampling)}][:{_any(Encoder)}], Q in 1..100",
        f":{_WHOLE}(?::({_any(Subsampling)}))?(?::({_any(Encoder)}))?",
        lambda quality, subsampling, encoder: Jpeg(
            int(quality), subsampling or Jpeg.subsampling, encoder or Jpeg.encoder
        ),
    ),
    "webp": _Form("webp:Q, Q in 1..100", f":{_WHOLE}", lambda quality: Webp(int(quality))),
    "resize": _Form(
        f"resize:S[:{_any(Filter)}], S a factor up to {MAX_FACTOR} or the longest side as 640px",
        f":(?:{_NUMBER}|{_WHOLE}px)(?::({_any(Filter)}))?",
        lambda factor, longest, filter: (
            Resize(float(factor), filter or Resize.filter)
            if longest is None
            else ResizeTo(int(longest), filter or ResizeTo.filter)
        ),
    ),
    "crop": _Form("crop:S, S in pixels", f":{_WHOLE}", lambda side: Crop(int(side))),
    "shift": _Form(
        "shift:DY:DX, rows and columns in pixels",
        f":{_WHOLE}:{_WHOLE}",
        lambda rows, columns: Shift(int(rows), int(columns)),
    ),
    "blur": _Form("blur:SIGMA, SIGMA in pixels", f":{_NUMBER}", lambda sigma: Blur(float(sigma))),
    "sharpen": _Form(
        "sharpen:RADIUS:PERCENT, RADIUS in pixels",
        f":{_NUMBER}:{_WHOLE}",
        lambda radius, percent: Sharpen(float(radius), int(percent)),
    ),
    "noise": _Form("noise:SIGMA, SIGMA in grey levels", f":{_NUMBER}", lambda sigma: Noise(float(sigma))),
}


def _parse_step(text: str) -> Step:
    name = text.partition(":")[0]
    if name == NONE:
        raise ValueError(f"delivery step {text!r}: {NONE} stands alone, without other steps")
    if name not in _FORMS:
        raise ValueError(f"delivery step {text!r}: unknown; there are {', '.join([NONE, *_FORMS])}")
    form = _FORMS[name]
    match = re.fullmatch(form.pattern, text[len(name) :], re.ASCII)
    if match is None:
        raise ValueError(f"delivery step {text!r}: must be written {form.usage}")
    try:
        return form.build(*match.groups())
    except ValueError as error:
        raise ValueError(f"delivery step {text!r}: {error}") from None
