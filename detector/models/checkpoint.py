"""Checkpoints: safetensors files that say what they are, and the original implementations' .pth files, read safely.

A checkpoint holds a model's state dict and, as metadata, strings of JSON: `architecture` (the model's name and
arguments), `preprocessing`, `threshold`, `calibration` and `ranges` where there were any, `decoder` (what decoded
images in the process that wrote it), `recipe` and whatever else the writer adds. No file is ever unpickled into
anything but tensors and plain containers.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from detector.box import find
from detector.data import DecoderWarning, Preprocessing, check_decoder, find_decoder
from detector.models.cnn_detector import CNNDetector
from detector.models.detector import Detector
from detector.models.npr_detector import NPRDetector
from detector.models.safe_detector import SAFEDetector, has_two_outputs, one_logit
from detector.printable import printable
from detector.tensors import write_tensors
from detector.verdicts import THRESHOLD, check_threshold
from npr_kernels import __version__

FORMAT = "npr-kernels checkpoint"
FORMAT_VERSION = 1

MODELS: dict[str, Callable[..., Detector]] = {
    "NPRDetector": NPRDetector,
    "CNNDetector": CNNDetector,
    "SAFEDetector": SAFEDetector,
}
"""By the names in checkpoints: each makes a model of a Preprocessing and the arguments of its `architecture`."""


class CheckpointError(ValueError):
    """A file that is no checkpoint, is damaged, would execute code, or does not fit the model."""


def save_checkpoint(
    path: str | os.PathLike[str], model: Detector, *, dtype: torch.dtype | None = None, **metadata: Any
) -> None:
    """Writes the model whole or not at all.

    Args:
        path: a `.safetensors` file.
        model: its state dict, architecture, preprocessing, threshold and calibration are written, and this process's
            decoder.
        dtype: what the weights of convolutions and linear layers are rounded to, by default not; one that overflows
            keeps its own dtype, and so do vectors, which take no space: a variance may be small and must not vanish.
        metadata: further JSON-able values, such as `recipe`.

    Raises:
        ValueError: the model's threshold is not between 0 and 1.
        OSError: the file cannot be written.
    """
    values = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "npr_kernels": __version__,
        "architecture": {"name": type(model).__name__, **model.architecture},
        "preprocessing": model.preprocessing.to_dict(),
        "threshold": check_threshold(model.threshold),
        **({} if model.calibration is None else {"calibration": model.calibration}),
        **({} if model.ranges is None else {"ranges": model.ranges}),
        "decoder": find_decoder().to_dict(),
        **metadata,
    }
    _write(path, {name: _rounded(tensor.detach().cpu(), dtype) for name, tensor in model.state_dict().items()}, values)


def save_calibrated(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    threshold: float,
    calibration: dict[str, Any],
    ranges: list[list[float]] | None = None,
) -> None:
    """Writes a checkpoint's weights, bit for bit, and all that it says of itself, with another threshold.

    Args:
        source: any checkpoint that :func:`load_checkpoint` reads.
        target: a `.safetensors` file, which may be the same.
        threshold: in (0, 1).
        calibration: what it was certified by, JSON-able.
        ranges: of the maps, for int8; None to keep the source's.

    Raises:
        ValueError: the threshold is not between 0 and 1.
        OSError: a file cannot be read or written. CheckpointError: the source is no checkpoint.
    """
    tensors, metadata = _read(find(source))
    changes: dict[str, Any] = {"threshold": check_threshold(threshold), "calibration": calibration}
    if ranges is not None:
        changes["ranges"] = ranges
    if metadata:
        _write(target, tensors, metadata | changes)
    else:
        model = load_checkpoint(source)
        model.threshold, model.ranges = threshold, ranges
        save_checkpoint(target, model, calibration=calibration)


def _write(path: str | os.PathLike[str], tensors: dict[str, Tensor], values: Mapping[str, Any]) -> None:
    write_tensors(path, tensors, {name: json.dumps(value) for name, value in values.items()})


def _rounded(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.contiguous()
    if dtype is None or not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    rounded = tensor.to(dtype)
    return rounded if bool(rounded.isfinite().all()) else tensor


def load_checkpoint(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Detector:
    """The model of a checkpoint, in evaluation mode, with its preprocessing; "default" is the one in the package.

    Weights stored in a narrower dtype are widened to float32. Reads this project's safetensors files; the original
    implementations' .pth files, a state dict or one under "model", with or without the "module." of DataParallel; and
    safetensors files of such state dicts. What brings no preprocessing gets the original's: NPR resized to 256x256,
    CNNDetection the centre crop of 224x224, SAFE that of 256x256. SAFE's two outputs become one logit.

    Warns, with a DecoderWarning, of a decoder that is not the one which the file names.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: see there; the message names the file.
    """
    check_decoder()  # here, so that it is said before any work, and not by each process that decodes
    path = find(path)
    tensors, metadata = _read(path)
    model, tensors = (_build(path, metadata), tensors) if metadata else _original(tensors)
    _check_fit(path, tensors, model)
    model.load_state_dict(tensors)
    _warn_of_another_decoder(path, metadata.get("decoder"))
    return model.to(device).eval()


def load_imagenet_weights(model: CNNDetector, path: str | os.PathLike[str]) -> None:
    """Starts the model from a ResNet-50 that was trained on ImageNet, as the paper does.

    The last layer, of 1000 classes, is not taken; the model's own starts from normal weights of deviation 0.02, as in
    the original implementation.

    Args:
        model: changed in place.
        path: torchvision's resnet50 state dict, as .pth or safetensors.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: see there; the message names the file.
    """
    path = Path(path)
    tensors, _ = _read(path)
    last = model.classifier
    nn.init.normal_(last.weight, std=0.02)
    tensors |= {"fc.weight": last.weight, "fc.bias": last.bias}
    _check_fit(path, tensors, model)
    model.load_state_dict(tensors)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says about itself; empty for .pth files.

    Raises:
        OSError: the file cannot be read. CheckpointError: it is no safetensors file.
    """
    path = find(path)
    return {} if _is_torch_file(path) else _read_safetensors(path)[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors and what it says about itself, which is nothing in foreign files."""
    if _is_torch_file(path):
        return _state_dict(path, _read_torch_file(path)), {}
    return _read_safetensors(path)


def _is_torch_file(path: Path) -> bool:
    """Told by content: torch.save writes zip archives and, before 1.6, bare pickles. Safetensors files start with
    the length of a JSON object, and that object."""
    with open(path, "rb") as file:
        head = file.read(16)
    return head.startswith((b"PK", b"\x80")) and head[8:9] != b"{"


def _read_torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickle protocols; what matters is raised
            # SAFE's trainer stores its arguments beside the weights. A namespace is a container of attributes: what
            # is in it is held to the same rules.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it is more than tensors and loading it could execute code "
            f"({_first_sentence(error)})"
        ) from error
    except OSError:
        raise
    except Exception as error:  # torch answers to damaged archives with exceptions of many kinds
        raise CheckpointError(f"{path}: damaged, or no checkpoint ({_first_sentence(error)})") from error


def _first_sentence(error: Exception) -> str:
    """The essence of torch's long error messages."""
    text = " ".join(str(error).split())
    marker = "WeightsUnpickler error: "
    if marker in text:
        text = text[text.index(marker) + len(marker) :]
    return text.split(". ")[0].split(" Please")[0].rstrip(".") or type(error).__name__


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of what a .pth file holds: a state dict, or a dictionary with one under "model"."""
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise CheckpointError(f"{path}: holds no state dict, neither itself nor under 'model'")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name.removeprefix("module."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            strings = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: neither a safetensors nor a PyTorch checkpoint, or damaged ({error})"
        ) from error
    if "format_version" not in strings:
        return tensors, {}
    try:
        metadata = {name: json.loads(value) for name, value in strings.items()}
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata are damaged ({error})") from error
    if metadata["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {metadata['format_version']}, this release reads {FORMAT_VERSION}"
        )
    return tensors, metadata


def _original(tensors: dict[str, Tensor]) -> tuple[Detector, dict[str, Tensor]]:
    """A fresh model for an original implementation's state dict, and the dict as that model has it.

    CNNDetection has a fourth layer, SAFE two outputs; NPR, of SAFE's names, has neither.
    """
    if any(name.startswith("layer4.") for name in tensors):
        return CNNDetector(CNNDetector.original_preprocessing), tensors
    if has_two_outputs(tensors):
        return SAFEDetector(SAFEDetector.original_preprocessing), one_logit(tensors)
    return NPRDetector(NPRDetector.original_preprocessing), tensors


def _build(path: Path, metadata: dict[str, Any]) -> Detector:
    """A fresh model of the architecture, preprocessing, threshold, calibration and recipe that the metadata name."""
    try:
        arguments = dict(metadata["architecture"])
        name = arguments.pop("name")
        if name not in MODELS:
            raise ValueError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
        model = MODELS[name](Preprocessing.from_dict(metadata["preprocessing"]), **arguments)
        model.threshold = check_threshold(metadata.get("threshold", THRESHOLD))
        model.calibration = _checked_object("calibration", metadata.get("calibration"))
        model.recipe = _checked_object("recipe", metadata.get("recipe"))
        model.ranges = _checked_ranges(metadata.get("ranges"))
        return model
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path}: its metadata do not describe a model ({reason})") from error


def _warn_of_another_decoder(path: Path, recorded: Any) -> None:
    decoder = find_decoder()
    if decoder.fault is not None:  # which was said, and says more
        return
    difference = decoder.difference_from(recorded) if isinstance(recorded, Mapping) else None
    if difference is not None:
        message = (
            f"{path}: made where another decoder read images ({difference}); scores may differ from those measured"
        )
        warnings.warn(printable(message), DecoderWarning, stacklevel=3)


def _checked_object(name: str, value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, got {value!r}")
    return value


def _checked_ranges(value: Any) -> list[list[float]] | None:
    """Lists of numbers; whether they fit the model is seen where they are used."""
    lists = isinstance(value, list) and all(isinstance(each, list) for each in value)
    if value is not None and not (lists and all(type(x) in (int, float) for each in value for x in each)):
        raise ValueError("ranges must be lists of numbers")
    return value


def _check_fit(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    wanted = model.state_dict()
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(value.shape)}"
            for name, value in wanted.items()
            if name in tensors and tensors[name].shape != value.shape
        ],
    }
    # Checkpoints from before batch norm counted its batches lack the counters, which only averaging would use.
    faults["missing"] = [name for name in faults["missing"] if not name.endswith("num_batches_tracked")]
    found = [f"{kind}: {_listed(names)}" for kind, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{path}: not a checkpoint of {type(model).__name__}; {'; '.join(found)}")


def _listed(names: list[str], shown: int = 4) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
