"""OpenVINO's IR, made of the ONNX graph: an .xml file with the graph and what it says of itself, a .bin with weights.

In float32 whatever the processor offers: by default OpenVINO computes in bfloat16 where there are instructions for it,
and stores weights in float16. Rounded so, the first convolution's weights no longer sum to zero over a cell, and grey
comes through that the residual takes away.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from detector.export import onnx_format
from detector.export.errors import ExportError, damaged, import_engine
from detector.export.metadata import OUTPUTS
from detector.files import sha256_of, whole_file
from detector.models.folding import PlainDetector

_SECTION = "npr_kernels"  # of the file's rt_info
_WEIGHTS = "weights_sha256"  # the .bin that belongs to the .xml


def write(detector: PlainDetector, metadata: Mapping[str, str], target: Path) -> None:
    """Writes the detector as `target` and, beside it, its weights as .bin, and what it says of itself into the first.

    The .bin takes its place first; an .xml that finds another one beside it is refused.

    Raises:
        ExportError: openvino or onnx is not installed. OSError: a file cannot be written.
    """
    openvino = import_engine("openvino", "is written with")
    # Not by openvino.convert_model, which may send usage statistics.
    model = openvino.Core().read_model(onnx_format.as_bytes(detector, metadata))
    with TemporaryDirectory() as folder:
        graph, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.save_model(model, graph, compress_to_fp16=False)
        for name, value in {**metadata, _WEIGHTS: sha256_of(weights)}.items():
            model.set_rt_info(value, [_SECTION, name])
        openvino.save_model(model, graph, compress_to_fp16=False)
        with whole_file(target) as graph_part, whole_file(target.with_suffix(".bin")) as weights_part:
            shutil.copyfile(graph, graph_part)
            shutil.copyfile(weights, weights_part)


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself; empty for foreign files.

    Raises:
        ExportError: openvino is not installed, the file is damaged, or its .bin is another's.
    """
    model = _read(path)
    if not model.has_rt_info([_SECTION]):
        return {}
    strings = {name: str(value.value) for name, value in model.rt_info[_SECTION].items()}
    weights = path.with_suffix(".bin")
    if strings.pop(_WEIGHTS, None) != sha256_of(weights):
        raise ExportError(f"{path}: {weights.name} is not the one that it was written with")
    return strings


class Engine:
    """OpenVINO on the CPU.

    Args:
        threads: how many it uses; None for as many as it chooses.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        openvino = import_engine("openvino", "is run by")
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._model = openvino.Core().compile_model(_read(path), "CPU", options)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, 3, H, W], contiguous, N above 0 -> logits and scores, float32 [N, 1]."""
        results = self._model(images)
        logit, score = OUTPUTS
        return results[logit], results[score]


def _read(path: Path) -> Any:
    openvino = import_engine("openvino", "is run by")
    with open(path, "rb") as file:
        # Asked for anything else, OpenVINO tries its readers one after another, and some print.
        if not file.read(5) == b"<?xml":
            raise ExportError(f"{path}: OpenVINO cannot read it (no XML)")
    if not path.with_suffix(".bin").is_file():
        raise ExportError(f"{path}: its weights, {path.with_suffix('.bin').name}, are not beside it")
    with damaged(path, "OpenVINO"):
        return openvino.Core().read_model(path)
