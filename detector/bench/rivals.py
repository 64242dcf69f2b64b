"""The whole NPR network as others would run it on a CPU, each a call on a batch of decoded images.

rival = RIVALS["openvino"](model, images, threads=2)
logits = rival(images)  # uint8 [N, 3, H, W] -> float32 [N, 1]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.bench.eager import Original
from detector.export import onnx_format
from detector.export.errors import import_engine
from detector.export.metadata import INPUT, OUTPUTS
from detector.models import NPRDetector
from detector.models.folding import fold

Rival = Callable[[Tensor], Tensor]

_CALIBRATION = 4  # images that the ranges of int8 are taken from: speed does not depend on them


def eager(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    """As the papers' code runs."""
    return _torch(Original(model).eval(), threads)


def eager_channels_last(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    network = Original(model).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _torch(lambda x: network(x.to(memory_format=torch.channels_last)), threads)


def compiled(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    """torch.compile with frozen weights, for the one batch and size. Compiled here, not in the first measured call."""
    from torch._inductor import config

    network = Original(model).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rival = _torch(torch.compile(network, dynamic=False), threads)
    with config.patch(freezing=True):
        rival(images)
    return rival


def onnx_runtime(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    return _onnx_runtime(_onnx(model), threads)


def onnx_runtime_int8(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    return _onnx_runtime(_quantised(_onnx(model), images), threads)


def openvino(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    return _openvino(_onnx(model), threads)


def openvino_int8(model: NPRDetector, images: Tensor, threads: int) -> Rival:
    return _openvino(_quantised(_onnx(model), images), threads)


RIVALS: dict[str, Callable[[NPRDetector, Tensor, int], Rival]] = {
    "eager": eager,
    "channels_last": eager_channels_last,
    "compile": compiled,
    "onnxruntime": onnx_runtime,
    "onnxruntime-int8": onnx_runtime_int8,
    "openvino": openvino,
    "openvino-int8": openvino_int8,
}
"""Builders, of a model in evaluation mode, images like those that will be given (their ranges are those of int8), and
threads. They raise :class:`detector.export.errors.ExportError` where an engine is not installed."""


def _torch(function: Callable[[Tensor], Tensor], threads: int) -> Rival:
    def call(images: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return function(images)

    return call


def _onnx(model: NPRDetector) -> bytes:
    return onnx_format.as_bytes(fold(model), {})


def _onnx_runtime(graph: bytes, threads: int) -> Rival:
    runtime = import_engine("onnxruntime", "is run by")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    run = partial(session.run, [OUTPUTS[0]])
    return lambda images: torch.from_numpy(run({INPUT: images.numpy()})[0])


def _openvino(graph: bytes, threads: int) -> Rival:
    core = import_engine("openvino", "is run by").Core()
    # float32 where the processor has bfloat16, which OpenVINO would take for float32 work.
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(graph), "CPU", options)
    return lambda images: torch.from_numpy(network(images.numpy())[OUTPUTS[0]])


def _quantised(graph: bytes, images: Tensor) -> bytes:
    """int8 by ONNX Runtime's static quantisation, weights by channel; OpenVINO reads the same file.

    The first convolution stays in float32: of weights rounded to int8, those of a cell do not sum to zero any more, and
    grey drowns the residual. Weights have 7 bits, as products of 8 saturate on processors without VNNI instructions.
    """
    import_engine("onnxruntime", "is run by")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Photographs(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = list(images[:_CALIBRATION].split(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {INPUT: self.left.pop().numpy()} if self.left else None

    onnx: Any = import_engine("onnx", "is written with")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "int8.onnx")
        quantize_static(
            onnx.load_from_string(graph),
            result,
            Photographs(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=["conv1"],
        )
        return result.read_bytes()
