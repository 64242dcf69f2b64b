"""What a file's first bytes tell of whether it can be scored: its format and its size, before it may wait in line."""

from __future__ import annotations

from detector.data import FormatRefusedError, ImageError, TooManyPixelsError, read_size
from detector.detection import Content
from detector.serve.refusal import Refusal


def check(content: Content, max_pixels: int) -> None:
    """Decodes no pixel.

    Raises:
        Refusal: 415 for a format that is not decoded, 413 for more pixels than that, 422 for a damaged header. The
            reason is the one that :func:`detector.detection.detect` gives, but for pixels.
    """
    try:
        width, height = read_size(content.data)
    except FormatRefusedError as error:
        raise Refusal(415, error.reason, path=content.name) from error
    except TooManyPixelsError as error:
        raise Refusal(413, error.reason, path=content.name) from error
    except ImageError as error:
        raise Refusal(422, error.reason, path=content.name) from error
    if width * height > max_pixels:
        reason = f"has too many pixels, {width}x{height}, more than the service's limit of {max_pixels}"
        raise Refusal(413, reason, path=content.name)
