"""Runs the trained networks of Python packages with ncnn, on the CPU: on images, or on photographs shrunk for them.

    network = load_network("realesrgan-x4plus")
    large = network(image)                # uint8 [3, H, W] -> uint8 [3, 4 H, 4 W]
    fake = network.reconstruct(photos)    # uint8 [N, 3, H, W], shrunk to a quarter and made large again

Only ncnn runs them (pip install 'npr-kernels[networks]'); the packages bring the files.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.synth.networks.table import NETWORKS, NetworkSpec
from detector.synth.shrinking import FILTERS, shrink

_MULTIPLE = 4
"""Padded inputs get sides that are multiples of this, as U-Nets of two levels need."""


class NetworkError(ValueError):
    """A network, its files or ncnn is missing or cannot be used."""


class Network:
    """A trained network, ready to run; on one thread, so that several can run side by side.

    The same input gives the same bytes on the same kind of processor.

    Args:
        spec: which one, and how it is called.
        files: its .param and .bin file, without the suffix.

    Raises:
        NetworkError: ncnn is not installed, or cannot read the files.
    """

    def __init__(self, spec: NetworkSpec, files: Path) -> None:
        self.spec = spec
        self._ncnn = _import_ncnn()
        self._net = self._ncnn.Net()
        options = self._net.opt
        options.num_threads = 1
        options.use_vulkan_compute = False
        # Half precision depends on the processor and rounds the output's last bits.
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        for suffix, load in ((".param", self._net.load_param), (".bin", self._net.load_model)):
            path = f"{files}{suffix}"
            if not os.path.isfile(path) or load(path) != 0:
                raise NetworkError(f"network {spec.name}: {path} is missing or no file of ncnn")

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it beside its spec."""
        return {"ncnn": str(self._ncnn.__version__)}

    def __call__(self, image: Tensor) -> Tensor:
        """The image made large.

        Args:
            image: uint8 [3, H, W], H and W at least 1.

        Returns:
            uint8 [3, factor * H, factor * W], aligned to it: pixel (y, x) stands where (y * factor, x * factor) to
            ((y + 1) * factor - 1, (x + 1) * factor - 1) stand.

        Raises:
            TypeError, ValueError: the image is another thing.
        """
        if image.dtype != torch.uint8:
            raise TypeError(f"image must be uint8, got {image.dtype}")
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"image must have shape [3, H, W], got {list(image.shape)}")
        spec, factor = self.spec, self.spec.factor
        height, width = image.shape[1:]
        x = _bordered(image.float() / 255, spec.border)
        y = self._run(x * spec.scale + spec.shift).sub(spec.shift).div(spec.scale)
        # What a network eats of its input it eats evenly from all sides.
        top, left = ((factor * extent - own) // 2 for extent, own in zip(x.shape[1:], y.shape[1:], strict=True))
        if spec.adds_input:
            large = x.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            y = y + large[:, top : top + y.shape[1], left : left + y.shape[2]]
        top, left = factor * spec.border - top, factor * spec.border - left
        y = y[:, top : top + factor * height, left : left + factor * width]
        return (y * 255).round().clamp(0, 255).to(torch.uint8).contiguous()

    def reconstruct(self, images: Tensor) -> Tensor:
        """Photographs as the network makes them from their shrunk versions.

        The filter of the shrinking is drawn anew for each photograph, from its own bytes: a photograph has one
        version, whatever else is in the batch.

        Args:
            images: uint8 [N, 3, H, W].

        Returns:
            uint8 [N, 3, H, W]
        """
        return torch.stack([self._reconstruct(image) for image in images]) if len(images) else images.clone()

    def _reconstruct(self, image: Tensor) -> Tensor:
        factor = self.spec.factor
        height, width = image.shape[1:]
        digest = hashlib.sha256(self.spec.name.encode() + image.contiguous().numpy().tobytes()).digest()
        kind = tuple(FILTERS)[np.random.default_rng(list(digest)).integers(len(FILTERS))]
        whole = _extended(image, -height % factor, -width % factor)
        return self(shrink(whole, factor, kind))[:, :height, :width]

    def _run(self, x: Tensor) -> Tensor:
        array = np.ascontiguousarray(x.numpy(), dtype=np.float32)
        # The Mat of an array is a view of it: its clone is the network's own.
        blob = self._ncnn.Mat(array).clone()
        with self._net.create_extractor() as extractor:
            extractor.input(self.spec.blobs[0], blob)
            status, result = extractor.extract(self.spec.blobs[1])
            if status != 0:
                raise NetworkError(f"network {self.spec.name}: ncnn failed with status {status}")
            return torch.from_numpy(np.array(result))  # a copy: the extractor's memory goes with it


def load_network(name: str, folder: str | os.PathLike[str] | None = None) -> Network:
    """The trained network of that name.

    Args:
        name: of NETWORKS.
        folder: where the packages lie unpacked, as `pip install --target` or unzipped wheels leave them; None for the
            installed ones.

    Raises:
        NetworkError: the name is unknown, no package of it is there, or ncnn is missing.
    """
    spec = next((spec for spec in NETWORKS if spec.name == name), None)
    if spec is None:
        raise NetworkError(f"unknown network {name}; known are {', '.join(spec.name for spec in NETWORKS)}")
    files = next(_places(spec, folder), None)
    if files is None:
        missing = "is not installed" if folder is None else f"does not lie in {os.fspath(folder)}"
        raise NetworkError(f"network {name}: its package, {' or '.join(spec.packages)}, {missing}")
    return Network(spec, files)


def available_networks(folder: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the networks whose files are there; `folder` as in load_network."""
    return tuple(spec.name for spec in NETWORKS if next(_places(spec, folder), None) is not None)


def _places(spec: NetworkSpec, folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Where its files are, each without its suffix."""
    for module, file in spec.places:
        for root in _package_folders(module) if folder is None else [Path(folder) / module]:
            if all((root / f"{file}{suffix}").is_file() for suffix in (".param", ".bin")):
                yield root / file


def _package_folders(module: str) -> list[Path]:
    """The folders of an installed package, which is not imported: some would load a GPU's library."""
    found = importlib.util.find_spec(module)
    return [] if found is None else [Path(path) for path in found.submodule_search_locations or ()]


def _import_ncnn() -> Any:
    try:
        return importlib.import_module("ncnn")
    except ImportError as error:
        raise NetworkError(
            f"trained networks are run by ncnn, which is not here ({error}): pip install 'npr-kernels[networks]'"
        ) from error


def _bordered(x: Tensor, border: int) -> Tensor:
    """Reflected by the border on all sides, and at the bottom and right up to multiples that the networks take."""
    height, width = (extent + 2 * border for extent in x.shape[1:])
    return _extended(x, -height % _MULTIPLE, -width % _MULTIPLE, border)


def _extended(x: Tensor, bottom: int, right: int, border: int = 0) -> Tensor:
    """[3, H, W] with reflected rims; any width of them, as numpy's reflection goes on."""
    rims = ((0, 0), (border, border + bottom), (border, border + right))
    return torch.from_numpy(np.pad(x.numpy(), rims, mode="reflect"))
