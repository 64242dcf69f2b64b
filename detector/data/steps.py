"""The steps of a delivery: what each does to an image, and which pixels a window of its result depends on.

A window is the rows and the columns of an image, each from a start to before a stop. Sizes are height and width. What a
step computes is defined in `detector.data.degradations`; here it gets its text, and its way to compute no more than a
window of a large photograph needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.data.degradations import (
    Encoder,
    Filter,
    Subsampling,
    blur_radius,
    check_choice,
    check_encoder,
    check_not_negative,
    check_quality,
    check_webp,
    gaussian_blur,
    gaussian_noise,
    jpeg,
    resample,
    scaled,
    sharpen,
    sharpen_reach,
    webp,
)

Size = tuple[int, int]
Span = tuple[int, int]
Window = tuple[Span, Span]

#: A factor of a step `resize`, at most.
MAX_FACTOR = 8

# JPEG codes so many rows and columns together (8x8 blocks of chroma at its resolution), and knows nothing of the
# others...
_JPEG_BLOCKS: dict[str, Size] = {"420": (16, 16), "422": (8, 16), "444": (8, 8)}
# ...but decoders interpolate halved chroma with one sample, two pixels, of the neighbouring blocks. Four, so that no
# part is four pixels wide or less, unless the image is: libjpeg repeats the chroma of such instead.
_CHROMA_REACH = 4

# VP8, the codec of lossy WebP, codes macroblocks of this side.
_WEBP_BLOCK = 16

# Of Pillow's filters, in pixels of the smaller image.
_SUPPORT: dict[str, float] = {"nearest": 0, "area": 0.5, "bilinear": 1, "bicubic": 2, "lanczos": 3}


class Step:
    """One step; this class leaves the image as it is. Steps are values: frozen, and equal where they do the same."""

    def __str__(self) -> str:
        """The text of the step, defaults left out."""
        raise NotImplementedError

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, H', W']; the generator is the only source of randomness."""
        return image

    def size(self, size: Size) -> Size:
        """The size of the result of an image of some size."""
        return size

    def source(self, window: Window, size: Size) -> Window:
        """What `part` needs of an image of some size for a window of the result."""
        rows, columns = (self._source(axis, *window[axis], size[axis]) for axis in (0, 1))
        return rows, columns

    def part(self, source: Tensor, at: Window, window: Window, size: Size, generator: torch.Generator) -> Tensor:
        """A window of the result.

        Args:
            source: uint8 [3, rows, columns], the image's pixels at `at`, which are those that :meth:`source` names.
            window: of the result.
            size: of the whole image.
        """
        return cut(self(source, generator), window, at)

    def _source(self, axis: int, start: int, stop: int, size: int) -> Span:
        """The rows (axis 0) or columns (1) that so many of the result depend on."""
        block, reach = self._grid(axis)
        start = (start - reach) // block * block
        stop = -(-(stop + reach) // block) * block
        return max(start, 0), min(stop, size)

    def _grid(self, axis: int) -> tuple[int, int]:
        """How many pixels are treated together, and how far from there they are looked at."""
        return 1, 0


@dataclass(frozen=True)
class Png(Step):
    """Storage without loss: nothing changes."""

    def __str__(self) -> str:
        return "png"


@dataclass(frozen=True)
class Jpeg(Step):
    """See :func:`detector.data.degradations.jpeg`. A window is exact."""

    quality: int
    subsampling: Subsampling = "420"
    encoder: Encoder = "pillow"

    def __post_init__(self) -> None:
        check_quality("quality", self.quality)
        check_choice("subsampling", self.subsampling, Subsampling)
        check_encoder("encoder", self.encoder)

    def __str__(self) -> str:
        subsampling = "" if self.subsampling == Jpeg.subsampling else f":{self.subsampling}"
        encoder = "" if self.encoder == Jpeg.encoder else f":{self.encoder}"
        return f"jpeg:{self.quality}{subsampling}{encoder}"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return jpeg(image, self.quality, self.encoder, self.subsampling)

    def _grid(self, axis: int) -> tuple[int, int]:
        block = _JPEG_BLOCKS[self.subsampling][axis]
        return block, _CHROMA_REACH if block == 16 else 0


@dataclass(frozen=True)
class Webp(Step):
    """See :func:`detector.data.degradations.webp`.

    A window is approximate: macroblocks are predicted from those above and to the left, and the encoder spreads its
    bits over the whole image. One macroblock around the window is coded with it, on the image's own grid.
    """

    quality: int

    def __post_init__(self) -> None:
        check_quality("quality", self.quality)
        check_webp()

    def __str__(self) -> str:
        return f"webp:{self.quality}"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return webp(image, self.quality)

    def _grid(self, axis: int) -> tuple[int, int]:
        return _WEBP_BLOCK, _WEBP_BLOCK


class _Resampling(Step):
    """Pillow's resize to the size that a subclass tells.

    A window is exact but for rounding: the filter's weights may differ in their last bits, and with them few values by
    one, seldom two. Where pixels are equally near, "nearest" may take the other one, and "area" one more or less.
    """

    filter: Filter

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        return resample(image, self.size((height, width)), self.filter)

    def source(self, window: Window, size: Size) -> Window:
        result = self.size(size)
        if result == size:
            return window
        spans = []
        for (start, stop), before, after in zip(window, size, result, strict=True):
            scale = before / after
            reach = math.ceil(_SUPPORT[self.filter] * max(scale, 1)) + 1
            spans.append((max(math.floor(start * scale) - reach, 0), min(math.ceil(stop * scale) + reach, before)))
        rows, columns = spans
        return rows, columns

    def part(self, source: Tensor, at: Window, window: Window, size: Size, generator: torch.Generator) -> Tensor:
        result = self.size(size)
        if result == size:
            return source
        (top, bottom), (left, right) = (
            (start * before / after - first, min(stop * before / after, last) - first)
            for (start, stop), (first, last), before, after in zip(window, at, size, result, strict=True)
        )
        height, width = (stop - start for start, stop in window)
        return resample(source, (height, width), self.filter, (top, left, bottom, right))


@dataclass(frozen=True)
class Resize(_Resampling):
    """Resizes both sides by a factor, see :func:`detector.data.degradations.resize`."""

    factor: float
    filter: Filter = "bicubic"

    def __post_init__(self) -> None:
        scaled((2, 2), self.factor)  # raises for what is no factor
        if self.factor > MAX_FACTOR:
            raise ValueError(f"factor must be at most {MAX_FACTOR}, got {number(self.factor)}")
        check_choice("filter", self.filter, Filter)

    def __str__(self) -> str:
        return f"resize:{number(self.factor)}{_suffix(self.filter)}"

    def size(self, size: Size) -> Size:
        return scaled(size, self.factor)


@dataclass(frozen=True)
class ResizeTo(_Resampling):
    """Resizes the longest side to so many pixels, be it longer or shorter; the other in proportion, at least 2."""

    longest: int
    filter: Filter = "bicubic"

    def __post_init__(self) -> None:
        check_pixels("longest", self.longest, at_least=2)
        check_choice("filter", self.filter, Filter)

    def __str__(self) -> str:
        return f"resize:{self.longest}px{_suffix(self.filter)}"

    def size(self, size: Size) -> Size:
        return scaled(size, self.longest / max(size))


class _Cut(Step):
    """Cuts off what lies outside the window that a subclass tells. A window is exact."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        height, width = image.shape[1:]
        return cut(image, self.kept((height, width)))

    def kept(self, size: Size) -> Window:
        """What is left of an image of some size."""
        raise NotImplementedError

    def size(self, size: Size) -> Size:
        height, width = (stop - start for start, stop in self.kept(size))
        return height, width

    def source(self, window: Window, size: Size) -> Window:
        rows, columns = (
            (first + start, first + stop) for (first, _), (start, stop) in zip(self.kept(size), window, strict=True)
        )
        return rows, columns

    def part(self, source: Tensor, at: Window, window: Window, size: Size, generator: torch.Generator) -> Tensor:
        return source


@dataclass(frozen=True)
class Crop(_Cut):
    """The centre of the image, `side` pixels a side or all there are, from an even row and an even column on.

    So the cells of the image, two pixels a side, stay cells.
    """

    side: int

    def __post_init__(self) -> None:
        check_pixels("side", self.side, at_least=2)

    def __str__(self) -> str:
        return f"crop:{self.side}"

    def kept(self, size: Size) -> Window:
        rows, columns = (_centre(self.side, length) for length in size)
        return rows, columns


@dataclass(frozen=True)
class Shift(_Cut):
    """Cuts off so many rows at the top and columns at the left; two are left, where there are two.

    Odd numbers move the grid of two-pixel cells over the image.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        check_pixels("rows", self.rows, at_least=0)
        check_pixels("columns", self.columns, at_least=0)

    def __str__(self) -> str:
        return f"shift:{self.rows}:{self.columns}"

    def kept(self, size: Size) -> Window:
        height, width = size
        return (min(self.rows, max(height - 2, 0)), height), (min(self.columns, max(width - 2, 0)), width)


@dataclass(frozen=True)
class Blur(Step):
    """See :func:`detector.data.degradations.gaussian_blur`. A window is exact."""

    sigma: float

    def __post_init__(self) -> None:
        check_not_negative("sigma", self.sigma)

    def __str__(self) -> str:
        return f"blur:{number(self.sigma)}"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return gaussian_blur(image, self.sigma)

    def _grid(self, axis: int) -> tuple[int, int]:
        return 1, blur_radius(self.sigma)


@dataclass(frozen=True)
class Sharpen(Step):
    """See :func:`detector.data.degradations.sharpen`. A window is exact."""

    radius: float
    percent: int

    def __post_init__(self) -> None:
        check_not_negative("radius", self.radius)
        check_not_negative("percent", self.percent)

    def __str__(self) -> str:
        return f"sharpen:{number(self.radius)}:{self.percent}"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return sharpen(image, self.radius, self.percent)

    def _grid(self, axis: int) -> tuple[int, int]:
        return 1, sharpen_reach(self.radius)


@dataclass(frozen=True)
class Noise(Step):
    """See :func:`detector.data.degradations.gaussian_noise`. A window has other noise of the same kind."""

    sigma: float

    def __post_init__(self) -> None:
        check_not_negative("sigma", self.sigma)

    def __str__(self) -> str:
        return f"noise:{number(self.sigma)}"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return gaussian_noise(image, self.sigma, generator)


def cut(image: Tensor, window: Window, origin: Window = ((0, 0), (0, 0))) -> Tensor:
    """The window of an image of which `image` is the part that starts where `origin` does."""
    (top, bottom), (left, right) = window
    (first_row, _), (first_column, _) = origin
    return image[:, top - first_row : bottom - first_row, left - first_column : right - first_column]


def number(value: float) -> str:
    """The shortest text that float() makes the value of."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _centre(side: int, length: int) -> Span:
    side = min(side, length)
    start = (length - side) // 2 // 2 * 2
    return start, start + side


def _suffix(filter: Filter) -> str:
    return "" if filter == Resize.filter else f":{filter}"


def check_pixels(name: str, value: object, *, at_least: int) -> None:
    """Raises TypeError or ValueError for anything but a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least} pixels, got {value}")
