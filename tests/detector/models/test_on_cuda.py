"""What runs on CUDA devices, with devices, streams and graphs that are played on the CPU: arithmetic, order, reuse.

On a GPU itself test_on_a_gpu.py tests it.
"""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from detector.models import CNNDetector, NPRDetector
from detector.models import inference as inference_module
from detector.models.graphs import Graphs
from detector.models.inference import gather, start_logit
from detector.models.on_cuda import CudaDetector
from detector.models.transfers import Transfers
from npr_kernels.bottleneck import FoldedBottleneck
from npr_kernels.cudnn import CudnnBottleneck
from tests.detector.models.original import Block, randomise
from tests.detector.models.played import PlayedDevice

MODELS = {
    "npr": NPRDetector,
    "npr+haar": lambda: NPRDetector(residual="npr+haar"),
    "top-10%": lambda: NPRDetector(pooling="top-10%"),
    "periodicity": lambda: NPRDetector(periodicity=True),
    "cnn": CNNDetector,
}


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def plain(function):
    """In place of graphs."""
    return function


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's fused convolutions as PyTorch declares them, in float64 rounded once; and what they were given."""
    calls = []

    def relu(x, weight, bias, stride, padding, dilation, groups):
        calls.append(("relu", x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        convolved = nn.functional.conv2d(x.double(), weight.double(), bias.double(), stride, padding, dilation, groups)
        return convolved.relu().to(x.dtype)

    def add_relu(x, weight, z, alpha, bias, stride, padding, dilation, groups):
        calls.append(("add", x.dtype, z.is_contiguous(memory_format=torch.channels_last)))
        convolved = nn.functional.conv2d(x.double(), weight.double(), bias.double(), stride, padding, dilation, groups)
        return (convolved + alpha * z.double()).relu().to(x.dtype)

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True], ids=["layers", "fused"])
@pytest.mark.parametrize(("inputs", "stride"), [(128, 1), (128, 2), (32, 1)])
def test_a_block(inputs, stride, fused, cudnn, seed):
    torch.manual_seed(seed)
    block = randomise(Block(inputs, 32, stride)).double().eval()
    x = torch.rand(2, inputs, 9, 12).double().contiguous(memory_format=torch.channels_last)
    want = block(x)
    block.downsample = getattr(block, "downsample", None)
    y = CudnnBottleneck.of(FoldedBottleneck.of(block), "cpu", torch.float64, fused=fused)(x)
    torch.testing.assert_close(y, want, rtol=1e-9, atol=1e-9)
    assert [kind for kind, *_ in cudnn] == (["relu", "relu", "add"] if fused else [])
    assert all(channels_last for *_, channels_last in cudnn)


@pytest.fixture(params=MODELS)
def model(request, seed):
    torch.manual_seed(seed)
    return randomise(MODELS[request.param]()).eval()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_logits(model, cudnn):
    images = random_images(3, 3, 70, 90)
    exact = CudaDetector(model, graphs=plain)
    want = model(images)
    torch.testing.assert_close(exact(images), want, rtol=1e-4, atol=1e-4)
    assert {dtype for _, dtype, _ in cudnn} == {torch.float32}
    cudnn.clear()
    near = CudaDetector(model, "bfloat16", graphs=plain)
    assert (exact.precision, near.precision) == ("float32", "bfloat16")
    found = near(images)
    assert {dtype for _, dtype, _ in cudnn} == {torch.bfloat16}
    assert found.dtype == torch.float32
    # Each of the maps is rounded by at most 2^-9 of its values, at random; logits are sums of thousands of products.
    features, rounded = model.features(images), near.features(images)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - features).norm() < 0.03 * features.norm()
    assert (found - want).abs().max() <= 0.1 * (1 + want.abs().max())


@torch.no_grad()
def test_without_fused_convolutions(seed):
    """Of cuDNN's functions the CPU's PyTorch says that they are not there, and that is said once."""
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).eval()
    images = random_images(2, 3, 40, 50)
    detector = CudaDetector(model, graphs=plain)
    with pytest.warns(RuntimeWarning, match="cuDNN's fused convolutions are not used"):
        found = detector(images)
    torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(detector(images), found)


def test_out_of_memory_is_not_taken_for_it(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "cudnn_convolution_relu", full)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        CudaDetector(NPRDetector().eval(), graphs=plain)(random_images(1, 3, 20, 20))


class PlayedGraph:
    """Has an input and an output of its own, which each replay overwrites."""

    made = 0

    def __init__(self, function, x):
        PlayedGraph.made += 1
        self.function, self.input = function, x.clone()
        self.output = function(self.input)

    def replay(self, x):
        self.input.copy_(x)
        self.output.copy_(self.function(self.input))
        return self.output.clone()


@pytest.fixture
def calls():
    PlayedGraph.made = 0
    return []


def test_graphs_are_made_when_a_shape_comes_again(calls):
    def function(x):
        calls.append(x.shape)
        return x.double().sum(dim=1)

    graphs = Graphs(function, most=2, capture=PlayedGraph)

    def check(*shape, layout=None):
        x = torch.rand(shape) if layout is None else torch.rand(shape).to(memory_format=layout)
        assert torch.equal(graphs(x), x.double().sum(dim=1))

    check(3, 4)
    assert PlayedGraph.made == 0
    check(3, 4)
    check(3, 4)
    assert PlayedGraph.made == 1
    check(3, 5)
    check(3, 5)
    check(2, 4)
    assert PlayedGraph.made == 2
    check(3, 4)  # used last
    check(2, 4)
    assert PlayedGraph.made == 3
    check(3, 4)
    assert PlayedGraph.made == 3
    check(3, 5)  # its graph made room for that of (2, 4)
    assert PlayedGraph.made == 4
    check(0, 4)
    check(0, 4)
    assert PlayedGraph.made == 4
    check(2, 3, 4, 4)
    check(2, 3, 4, 4, layout=torch.channels_last)
    assert PlayedGraph.made == 4


def test_results_of_graphs_are_not_overwritten(calls):
    graphs = Graphs(lambda x: x + 1, capture=PlayedGraph)
    inputs = [torch.full((5,), float(n)) for n in range(6)]
    results = [graphs(x) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        assert torch.equal(result, x + 1)


def test_what_cannot_be_captured_is_computed(calls):
    def capture(function, x):
        calls.append("captured")
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(lambda x: 2 * x, capture=capture)
    x = torch.rand(4)
    graphs(x)
    with pytest.warns(RuntimeWarning, match="no CUDA graph, .*: operation not permitted"):
        assert torch.equal(graphs(x), 2 * x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert torch.equal(graphs(x), 2 * x)
            assert torch.equal(graphs(x[:2]), 2 * x[:2])
    assert calls == ["captured"]


def test_threads_share_a_graph(calls):
    graphs = Graphs(lambda x: x * 3, capture=PlayedGraph)
    graphs(torch.zeros(1000))
    wrong = []

    def run(value):
        x = torch.full((1000,), float(value))
        wrong.extend(n for n in range(200) if not torch.equal(graphs(x), 3 * x))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert PlayedGraph.made == 1


def test_batches_overlap_and_none_is_mixed_up(rng, monkeypatch):
    """Of sizes and numbers as they come; some are too large for batches, some wait until the end."""
    monkeypatch.setattr(inference_module, "MAX_PIXELS", 900)
    monkeypatch.setattr(inference_module, "MAX_WAITING_PIXELS", 4000)
    sizes = [(8, 8), (20, 9), (11, 30), (31, 30)]
    views = [(n, random_images(3, *sizes[rng.integers(len(sizes))])) for n in range(60)]
    model = NPRDetector().eval()

    def total(images):
        assert images.is_contiguous(memory_format=torch.channels_last)
        return images.double().sum(dim=(1, 2, 3))[:, None]

    def large(passes, _, image):
        return passes.start(lambda: image.double().sum(), 0)

    device = PlayedDevice()
    found = dict(gather(model, views, 4, large, Transfers(device, total)))
    assert found.keys() == dict(views).keys()
    for key, image in views:
        assert found[key].item() == image.double().sum().item()
    assert device.uploads == device.downloads > 5


def test_one_batch_is_computed_while_the_next_is_gathered():
    model = NPRDetector().eval()
    device = PlayedDevice()
    stream = gather(
        model,
        ((n, random_images(3, 8, 8)) for n in range(6)),
        2,
        start_logit,
        Transfers(device, lambda x: x.double().sum((1, 2, 3))[:, None]),
    )
    next(stream)
    assert device.uploads == 2
    assert [key for key, _ in stream] == [1, 2, 3, 4, 5]


def test_precisions_of_other_devices_are_refused():
    with pytest.raises(ValueError, match="on a CUDA device, got NPRDetector in float32 on cpu"):
        NPRDetector().eval().for_inference("bfloat16")


@torch.no_grad()
def test_prepared_again(seed):
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).eval()
    detector = CudaDetector(model, graphs=plain, fused=False)
    assert detector.for_inference() is detector
    assert np.isfinite(detector(random_images(1, 3, 20, 20)).item())
    for name in ("feature_stride", "feature_reach", "tile_alignment", "architecture", "pooling", "preprocessing"):
        assert getattr(detector, name) == getattr(model, name)
