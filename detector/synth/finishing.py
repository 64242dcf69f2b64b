"""What happens to some generators' images after decoding: blending into a photograph, and lossy compression."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.data import decode


def blend_region(photo: Tensor, generated: Tensor, rng: np.random.Generator) -> Tensor:
    """Puts the generated pixels into a soft ellipse of the photograph, as face swaps do.

    Args:
        photo, generated: uint8 [3, H, W].
        rng: draws the ellipse, whose axes are 0.5 to 0.8 of the image and which lies near the centre.

    Returns:
        uint8 [3, H, W]
    """
    height, width = photo.shape[1:]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    (centre_y, centre_x), (half_y, half_x) = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.5, 0.8, 2)
    distance = np.hypot((y - centre_y) / half_y, (x - centre_x) / half_x)
    # 1 inside, 0 outside, falling linearly over the outer fifth of the radius.
    mask = torch.from_numpy(np.clip((1 - distance) / 0.2, 0, 1)).float()
    return torch.lerp(photo.float(), generated.float(), mask).round().to(torch.uint8)


def compress(image: Tensor, quality: int) -> Tensor:
    """The image after JPEG compression at the given Pillow quality, chroma subsampled; uint8 [3, H, W]."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(file, "JPEG", quality=quality)
    return decode(file.getvalue())
