"""Contact sheets: thumbnails of images with a caption under each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detector.files import whole_file
from detector.printable import printable

_THUMBNAIL = 160
_GAP = 8
_CAPTION = 18
_HEADING = 30


class Thumbnail(NamedTuple):
    """A picture of at most 160 pixels a side and the line under it."""

    picture: Image.Image
    caption: str


def thumbnail(image: Tensor, caption: str) -> Thumbnail:
    """Shrinks a uint8 [3, H, W] to a thumbnail; smaller images keep their size."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return Thumbnail(picture, printable(caption))


def save_contact_sheet(
    path: str | os.PathLike[str], groups: Mapping[str, Sequence[Thumbnail]], columns: int = 8
) -> None:
    """Writes a PNG of the thumbnails under their headings, whole or not at all.

    Args:
        path: of the PNG.
        groups: thumbnails by heading, drawn in this order.
        columns: thumbnails in a row, where there are that many.
    """
    columns = max(1, min(columns, max((len(group) for group in groups.values()), default=1)))
    across, down = _THUMBNAIL + _GAP, _THUMBNAIL + _CAPTION + _GAP
    rows = sum(-(-len(group) // columns) for group in groups.values())
    size = max(columns * across + _GAP, 400), len(groups) * _HEADING + rows * down + _GAP
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    heading_font, caption_font = ImageFont.load_default(16), ImageFont.load_default(12)
    top = 0
    for heading, group in groups.items():
        draw.text((_GAP, top + _HEADING // 2), heading, "black", heading_font, anchor="lm")
        top += _HEADING
        for number, (picture, caption) in enumerate(group):
            row, column = divmod(number, columns)
            x, y = _GAP + column * across, top + row * down
            sheet.paste(picture, (x + (_THUMBNAIL - picture.width) // 2, y + (_THUMBNAIL - picture.height) // 2))
            text = _shortened(caption, caption_font)
            draw.text((x + _THUMBNAIL // 2, y + _THUMBNAIL + _CAPTION // 2), text, "black", caption_font, anchor="mm")
        top += -(-len(group) // columns) * down
    with whole_file(path) as part:
        sheet.save(part, format="PNG")


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or its start and three dots, as wide as a thumbnail."""
    if font.getlength(text) <= _THUMBNAIL:
        return text
    while text and font.getlength(text + "...") > _THUMBNAIL:
        text = text[:-1]
    return text + "..."
