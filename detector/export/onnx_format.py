"""ONNX: the graph written node by node, and ONNX Runtime to run it.

Written here rather than by torch.onnx: the same graph under every version of torch, of a dozen kinds of operators, with
the state dict's names, and no exporter to install.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.export.errors import damaged, import_engine
from detector.export.metadata import INPUT, OUTPUTS
from detector.files import whole_file
from detector.models.folding import Convolution, PlainDetector
from detector.models.periodicity import FLOOR, REFERENCE_BLOCKS
from detector.models.plain_periodicity import PlainPeriodicity
from npr_kernels import periodicity as coherence

# Of 2021: what runtimes have read since, and all that the graph needs.
_OPSET = 17
_IR_VERSION = 8


def write(detector: PlainDetector, metadata: Mapping[str, str], target: Path) -> None:
    """Writes the detector and what it says of itself as one .onnx file.

    Raises:
        ExportError: onnx is not installed. OSError: the file cannot be written.
    """
    content = as_bytes(detector, metadata)
    with whole_file(target) as part:
        part.write_bytes(content)


def as_bytes(detector: PlainDetector, metadata: Mapping[str, str]) -> bytes:
    """The content of the .onnx file.

    Raises:
        ExportError: onnx is not installed.
    """
    onnx = import_engine("onnx", "is written with")
    model = onnx.helper.make_model(
        _Graph(onnx).build(detector),
        producer_name="npr-kernels",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself; of foreign files, whatever that is.

    Raises:
        ExportError: onnxruntime is not installed, or the file is damaged.
    """
    return dict(_session(path, threads=1, optimise=False).get_modelmeta().custom_metadata_map)


class Engine:
    """ONNX Runtime on the CPU.

    Args:
        threads: how many it uses; None for as many as it chooses.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        self._session = _session(path, threads, optimise=True)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, 3, H, W], contiguous -> logits and scores, float32 [N, 1]."""
        logits, scores = self._session.run(list(OUTPUTS), {INPUT: images})
        return logits, scores


def _session(path: Path, threads: int | None, optimise: bool) -> Any:
    runtime = import_engine("onnxruntime", "is run by")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with damaged(path, "ONNX Runtime"):
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Graph:
    """Nodes and weights, as they are added; values are named after the node that makes them."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def build(self, detector: PlainDetector) -> Any:
        """The graph: uint8 [batch, 3, height, width] -> logit and score, float32 [batch, 1]."""
        x = pixels = self._add("Cast", INPUT, name="pixels", to=self._onnx.TensorProto.FLOAT)
        if detector.stem.after:
            x = self._cropped_to(x, 2, "even")
        x = self._rectified(self._convolution(x, detector.stem, "conv1"))
        x = self._add("MaxPool", x, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for name, block in detector.blocks.items():
            y = self._rectified(self._convolution(x, block.reduce, f"{name}.conv1"))
            y = self._rectified(self._convolution(y, block.spatial, f"{name}.conv2"))
            y = self._convolution(y, block.expand, f"{name}.conv3")
            if block.shortcut is not None:
                x = self._convolution(x, block.shortcut, f"{name}.downsample")
            x = self._rectified(self._add("Add", y, x, name=f"{name}.sum"))
        logit, score = OUTPUTS
        if detector.whole is None:
            self._classified(x, detector, logit)
        else:
            self._classified(x, detector, "network")
            self._add("Add", "network", self._periodicity(pixels, detector.whole), name=logit)
        self._add("Sigmoid", logit, name=score)

        onnx, tensor = self._onnx.TensorProto, self._onnx.helper.make_tensor_value_info
        images = tensor(INPUT, onnx.UINT8, ["batch", 3, "height", "width"])
        results = [tensor(name, onnx.FLOAT, ["batch", 1]) for name in OUTPUTS]
        return self._onnx.helper.make_graph(self._nodes, "npr", [images], results, self._weights)

    def _cropped_to(self, x: str, multiple: int, name: str) -> str:
        """Rows and columns to the largest multiple, from the first."""
        number = self._constant(f"{name}.multiple", np.array([multiple], np.int64))
        size = self._add("Shape", x, name=f"{name}.size", start=2, end=4)
        whole = self._add("Div", size, number, name=f"{name}.parts")
        kept = self._add("Mul", whole, number, name=f"{name}.kept")
        start, axes = (
            self._constant(f"{name}.start", np.zeros(2, np.int64)),
            self._constant(f"{name}.axes", np.array([2, 3])),
        )
        return self._add("Slice", x, start, kept, axes, name=f"{name}.cropped")

    def _periodicity(self, pixels: str, whole: PlainPeriodicity) -> str:
        """Of pixels [batch, 3, height, width], of at least LEAST_SIDE, the logit [batch, 1]: what
        :class:`detector.export.network.PlainNetwork` computes, step by step."""
        tile, block, frequencies = coherence.TILE, coherence.BLOCK, len(whole.averages)

        def scalar(name: str, value: float) -> str:
            return self._constant(f"whole.{name}", np.array(value, np.float32))

        def shape(name: str, *sizes: int) -> str:
            return self._constant(f"whole.{name}", np.array(sizes, np.int64))

        def add(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
            return self._add(kind, *inputs, name=f"whole.{name}", **attributes)

        weight = self._constant("whole.differences", whole.differences)
        x = add("Conv", pixels, weight, name="difference", kernel_shape=[3, 3], group=3)
        strength = self._cropped_to(add("Abs", x, name="strength"), tile, "whole.tiles")
        mean = add("AveragePool", strength, name="mean", kernel_shape=[tile, tile], strides=[tile, tile])
        ones = self._constant("whole.ones", torch.ones(len(whole.differences), 1, tile, tile))
        mean = add(
            "ConvTranspose",
            mean,
            ones,
            name="means",
            kernel_shape=[tile, tile],
            strides=[tile, tile],
            group=len(whole.differences),
        )
        floor = add("Add", mean, scalar("offset", coherence.OFFSET), name="raised")
        floor = add("Mul", floor, scalar("floor", coherence.FLOOR), name="scaled")
        fine = add("Log", add("Add", strength, floor, name="above"), name="fine")
        coarse = add(
            "Log",
            add("Add", strength, scalar("coarse_floor", coherence.COARSE), name="above_coarse_floor"),
            name="coarse",
        )
        edges = add("Greater", strength, scalar("edge", coherence.EDGE), name="strong")
        edges = add("Cast", edges, name="edges", to=self._onnx.TensorProto.FLOAT)
        x = add("Concat", fine, coarse, edges, name="scales", axis=1)
        size = add("Shape", x, name="size", start=2, end=4)
        x = add("Reshape", x, add("Concat", shape("alone", -1, 1), size, name="maps_size", axis=0), name="maps")
        waves = self._constant("whole.waves", whole.waves)
        spectra = add("Conv", x, waves, name="spectra", kernel_shape=[block, block], strides=[block, block])

        parts, real_and_imaginary = shape("parts", -1, 2, frequencies), shape("axis", 1)
        total = add("Reshape", add("ReduceMean", spectra, name="average", axes=[2, 3], keepdims=0), parts, name="sums")
        squares = add("ReduceMean", add("Mul", spectra, spectra, name="squares"), name="power", axes=[2, 3], keepdims=0)
        energy = add("ReduceSum", add("Reshape", squares, parts, name="powers"), real_and_imaginary, name="energy")
        total = add("Mul", total, total, name="sums_squared")
        together = add("ReduceSum", total, real_and_imaginary, name="together")
        grid = add("Shape", spectra, name="grid", start=2, end=4)
        number = add("ReduceProd", grid, name="number", keepdims=0)
        blocks = add("Cast", number, name="blocks", to=self._onnx.TensorProto.FLOAT)
        # Means in place of sums: their quotient lacks the number of blocks once.
        flat = add("LessOrEqual", energy, scalar("rounding", coherence.ROUNDING), name="flat")
        safe = add("Max", energy, scalar("tiny", 1e-30), name="safe")
        found = add("Mul", add("Div", together, safe, name="quotient"), blocks, name="coherence")
        one = scalar("one", 1.0)
        found = add("Where", flat, one, found, name="known")
        others = add("Max", add("Sub", blocks, one, name="others"), one, name="some")
        share = add("Div", scalar("reference", REFERENCE_BLOCKS - 1), others, name="ratio")
        excess = add("Mul", add("Sub", found, one, name="excess"), add("Min", share, one, name="share"), name="kept")
        groups = add(
            "MatMul",
            add("Add", excess, one, name="shared"),
            self._constant("whole.averages", whole.averages),
            name="groups",
        )
        logs = add("Log", add("Add", groups, scalar("log_floor", FLOOR), name="above_floor"), name="logs")
        logs = add("Reshape", logs, shape("features", -1, len(whole.weight)), name="logarithms")
        weight = self._constant("whole.weight", whole.weight[None])
        return add("Gemm", logs, weight, self._constant("whole.bias", whole.bias[None]), name="logit", transB=1)

    def _classified(self, x: str, detector: PlainDetector, name: str) -> None:
        if detector.share == 1:
            x = self._add("GlobalAveragePool", x, name="mean")
            x = self._add("Flatten", x, name="features")
            weight, bias = (
                self._constant("fc1.weight", detector.weight[None]),
                self._constant("fc1.bias", detector.bias[None]),
            )
            self._add("Gemm", x, weight, bias, name=name, transB=1)
            return
        # Local logits first, of which the largest ceil(share * number) are averaged.
        local = Convolution(detector.weight.view(1, -1, 1, 1), detector.bias[None])
        x = self._add("Flatten", self._convolution(x, local, "fc1"), name="local_logits")
        number = self._add("Shape", x, name="number", start=1, end=2)
        numerator, denominator = detector.share.as_integer_ratio()
        product = self._add("Mul", number, self._constant("numerator", np.array([numerator])), name="product")
        raised = self._add("Add", product, self._constant("rest", np.array([denominator - 1])), name="raised")
        count = self._add("Div", raised, self._constant("denominator", np.array([denominator])), name="count")
        largest = self._onnx.helper.make_node("TopK", [x, count], ["largest", "places"], name="largest", axis=1)
        self._nodes.append(largest)
        self._add("ReduceMean", "largest", name=name, axes=[1], keepdims=1)

    def _convolution(self, x: str, conv: Convolution, name: str) -> str:
        weight, bias = self._constant(f"{name}.weight", conv.weight), self._constant(f"{name}.bias", conv.bias)
        side = conv.weight.shape[2]
        pads = [conv.before, conv.before, conv.after, conv.after]
        strides = [conv.stride, conv.stride]
        return self._add("Conv", x, weight, bias, name=name, kernel_shape=[side, side], strides=strides, pads=pads)

    def _rectified(self, x: str) -> str:
        return self._add("Relu", x, name=f"{x}.relu")

    def _add(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: Tensor | np.ndarray) -> str:
        """Weights in float32, integers as int64."""
        array = value if isinstance(value, np.ndarray) else value.float().numpy()
        if array.ndim > 0:
            array = np.ascontiguousarray(array)  # which makes vectors of scalars
        self._weights.append(self._onnx.numpy_helper.from_array(array, name))
        return name
