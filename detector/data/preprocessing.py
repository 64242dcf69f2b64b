"""What happens to a decoded image before a detector sees it: the resize and crop policy, and the normalisation.

Detectors carry their Preprocessing with them, so that images are treated in use as they were in training. All of it
works on uint8; mean, std and scale are applied by the detector's first kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.data.augment import Augmentation
from detector.data.delivery import Delivery
from npr_kernels.constants import IMAGENET_MEAN, IMAGENET_STD, NPR_SCALE

Policy = Literal["native", "resize", "centre"]


@dataclass(frozen=True)
class Preprocessing:
    """The treatment of images, in training and in testing.

    Attributes:
        policy: "native" never resizes: random crops in training, the whole image in testing. "resize" is the papers'
            (Wang et al. 2020, Tan et al. 2024): bilinear resize to `resize` x `resize`, then random crops in
            training, no crop in testing. "centre" never resizes: random crops in training, the centre crop in testing.
        crop: side of the crop in pixels. Images smaller than the crop are tiled up to it, as the NPR authors prescribe
            for small images, not stretched.
        resize: side in pixels for the policy "resize", at least `crop`.
        flip: mirror half of the training crops.
        mean, std: normalisation of the channels R, G, B, in units of the value range 0..1.
        scale: factor on the NPR residual before the first convolution.
    """

    policy: Policy = "native"
    crop: int = 224
    resize: int = 256
    flip: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: float = NPR_SCALE

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy must be one of {', '.join(get_args(Policy))}, got {self.policy!r}")
        for name in ("crop", "resize"):
            _check_side(name, getattr(self, name))
        if self.policy == "resize" and self.resize < self.crop:
            raise ValueError(f"resize must be at least crop, got resize {self.resize} and crop {self.crop}")
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be a bool, got {type(self.flip).__name__}")
        object.__setattr__(self, "mean", _triple("mean", self.mean))
        object.__setattr__(self, "std", _triple("std", self.std))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        object.__setattr__(self, "scale", _number("scale", self.scale))
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary from which from_dict makes an equal Preprocessing."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of to_dict; what is not given takes its default.

        Raises:
            TypeError, ValueError: a key is unknown, or a value is of the wrong kind or out of range.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"preprocessing must be a mapping, got {type(values).__name__}")
        known = [field.name for field in fields(cls)]
        if unknown := [str(key) for key in values if key not in known]:
            raise ValueError(f"unknown preprocessing keys {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**values)

    def training_view(
        self, image: Tensor, generator: torch.Generator, augmentation: Augmentation | None = None
    ) -> Tensor:
        """A random crop of the image, flipped at random.

        Args:
            image: uint8 [3, H, W].
            generator: the only source of randomness.
            augmentation: what befalls the image after resizing, before it is tiled and cropped, as in Wang et al. Of
                the image delivered no more is computed than the crop depends on, see
                :meth:`detector.data.Delivery.crop`.

        Returns:
            uint8 [3, crop, crop]
        """
        _check_image(image)
        if self.policy == "resize":
            image = _resize(image, self.resize)
        height, width = image.shape[1:]
        top = _draw(self._places(height), generator)
        left = _draw(self._places(width), generator)
        # Drawn in any case, and before the delivery, so that crops depend neither on flips nor on augmentation.
        mirrored = _draw(2, generator) == 1
        delivery = Delivery() if augmentation is None else augmentation.draw(generator, (height, width), self.crop)
        # At the same place in proportion, where the delivered image has another size.
        delivered_height, delivered_width = delivery.size(height, width)
        top = top * self._places(delivered_height) // self._places(height)
        left = left * self._places(delivered_width) // self._places(width)
        if min(delivered_height, delivered_width) >= self.crop:
            image = delivery.crop(image, top, left, self.crop, generator)
        else:
            image = _tile(delivery(image, generator), self.crop)[:, top : top + self.crop, left : left + self.crop]
        return image.flip(2) if self.flip and mirrored else image

    def _places(self, side: int) -> int:
        """How many places a crop has along a side, which is tiled up to the crop where it is shorter."""
        return max(side - self.crop, 0) + 1

    def test_view(self, image: Tensor) -> Tensor:
        """The image as it is tested and detected on.

        Args:
            image: uint8 [3, H, W].

        Returns:
            uint8: [3, H, W] for "native", [3, resize, resize] for "resize", [3, crop, crop] for "centre".
        """
        _check_image(image)
        match self.policy:
            case "native":
                return image
            case "resize":
                return _resize(image, self.resize)
            case "centre":
                image = _tile(image, self.crop)
                top, left = (image.shape[1] - self.crop) // 2, (image.shape[2] - self.crop) // 2
                return image[:, top : top + self.crop, left : left + self.crop]


def _tile(image: Tensor, side: int) -> Tensor:
    """Repeats the image from its top-left corner until neither side is below `side`; [3, H, W] of enough size stays."""
    height, width = image.shape[1:]
    if height >= side and width >= side:
        return image
    down, across = -(-side // height), -(-side // width)
    return image.repeat(1, down, across)[:, : max(side, height), : max(side, width)]


def _resize(image: Tensor, side: int) -> Tensor:
    """Pillow's bilinear resize (area-weighted when shrinking), as torchvision resizes Pillow images."""
    if image.shape[1:] == (side, side):
        return image
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a Tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must be [3, H, W] and not empty, got {list(image.shape)}")


def _check_side(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 2:
        raise ValueError(f"{name} must be at least 2 pixels, got {value}")


def _triple(name: str, value: object) -> tuple[float, float, float]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of 3 numbers, got {type(value).__name__}")
    if len(value) != 3:
        raise ValueError(f"{name} must have 3 numbers, one a channel, got {len(value)}")
    red, green, blue = (_number(name, number) for number in value)
    return red, green, blue


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be made of numbers, got {type(value).__name__}")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)
