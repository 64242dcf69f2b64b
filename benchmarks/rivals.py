"""The whole NPR network as others would run it on a CPU, each a call on a batch of decoded images.

    rivals = build(batch=16, size=256, threads=2)
    for name, rival in rivals.items():
        logits = rival(images)  # uint8 [16, 3, 256, 256] -> float32 [16, 1]

Nothing here measures. To be fair to all, time the calls in turns; engines' own threads spin for some milliseconds after
a call, so leave a pause between one engine and the next.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.export import onnx_format
from detector.export.errors import import_engine
from detector.export.metadata import INPUT, OUTPUTS
from detector.models import NPRDetector
from detector.models.folding import fold

Rival = Callable[[Tensor], Tensor]


class Original(nn.Module):
    """The network as the papers' code has it, with a detector's weights: float images, the residual by interpolation
    (NPR) or as the band of a transform (Haar, by strides), a plain ResNet.

    Shape: uint8 [N, 3, H, W], H and W even -> logits [N, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: NPRDetector) -> None:
        super().__init__()
        conv = model.conv1
        if (conv.patch, conv.anchor, conv.mode) != (2, 0, "pixel") or model.pooling != "mean":
            raise ValueError("only the papers' residuals and pooling have an original")
        self.residuals, self.scale = conv.residual.split("+"), conv.scale
        self.weights = nn.ParameterList(conv.weight.detach().chunk(len(self.residuals), dim=1))
        own = copy.deepcopy(model)  # its layout may change
        self.bn1, self.layer1, self.layer2, self.fc1 = own.bn1, own.layer1, own.layer2, own.fc1
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(model.preprocessing, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() / 255 - self.mean) / self.std
        maps = [_npr(x) if name == "npr" else _haar(x) for name in self.residuals]
        strides = [2 if name == "npr" else 1 for name in self.residuals]
        parts = [
            F.conv2d(residual * self.scale, weight, stride=stride, padding=1)
            for residual, weight, stride in zip(maps, self.weights, strides, strict=True)
        ]
        y = F.relu(self.bn1(sum(parts[1:], parts[0])))
        y = F.max_pool2d(y, kernel_size=3, stride=2, padding=1)
        return self.fc1(self.layer2(self.layer1(y)).mean(dim=(2, 3)))


def _npr(x: Tensor) -> Tensor:
    half = F.interpolate(x, scale_factor=0.5, mode="nearest")
    return x - F.interpolate(half, scale_factor=2.0, mode="nearest")


def _haar(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] - x[:, :, ::2, 1::2] - x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]) / 2


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
    "original eager": eager,
    "original channels_last": eager_channels_last,
    "torch.compile, frozen": compiled,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "ONNX Runtime int8": onnx_runtime_int8,
    "OpenVINO int8": openvino_int8,
}


def build(
    *,
    batch: int,
    size: int,
    threads: int,
    model: NPRDetector | None = None,
    calibration: Tensor | None = None,
    names: Iterable[str] = tuple(RIVALS),
) -> dict[str, Rival]:
    """Calls by name, ready to be timed: each has run once.

    Args:
        batch, size: of the images that they will be given, [batch, 3, size, size].
        threads: that each uses.
        model: whose weights all have; by default of a fresh NPRDetector, which costs the same.
        calibration: uint8 [batch, 3, size, size], photographs, for the ranges of int8 (default: noise).
        names: of RIVALS, those that are wanted.

    Raises:
        ExportError: an engine is not installed.
    """
    model = (NPRDetector() if model is None else model).eval()
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) if calibration is None else calibration
    rivals = {name: RIVALS[name](model, images, threads) for name in names}
    for rival in rivals.values():
        rival(images)
    return rivals


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
            self.left = list(images.split(1))

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
