"""What only a GPU has: streams, graphs, several devices, waiting for the host, tensors beyond 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import npr_kernels as nk
from npr_kernels import reference
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.implementations import OPS
from tests.npr_kernels.inputs import draw_images, draw_weight
from tests.npr_kernels.places import Place

SCALE = [0.01, 0.02, 0.03]
OUTPUTS = 24
GIB = 1 << 30


def op_on_images(place: Place, name: str, images: Tensor, rng: np.random.Generator) -> Callable[[Tensor], list[Tensor]]:
    """The op as a function of the images alone; what else it takes is on their device."""
    device, (n, _, height, width) = images.device, images.shape
    op = place.op(name)
    weight = draw_weight(rng, OUTPUTS, 3).to(device)
    vectors = [torch.rand(OUTPUTS, device=device) + 0.5 for _ in range(4)]
    if name == "conv2d":
        return lambda x: [op(x, weight, vectors[0], SCALE, torch.float32, True, False)]
    if name == "conv2d_backward":
        grad = torch.randn(n, OUTPUTS, height // 2, width // 2, device=device)
        return lambda x: list(op(grad, x, SCALE, torch.float32, True))
    if name == "patch_moments":
        return lambda x: [op(x)]
    moments = place.op("patch_moments")
    stem = place.op("stem")
    statistics = None, None, 1e-5, SCALE
    if name == "stem":
        return lambda x: list(op(x, moments(x), weight, *vectors[:2], *statistics, torch.bfloat16, True, False))
    out, code, mean, var = stem(images, moments(images), weight, *vectors[:2], *statistics, torch.float32, True, False)
    grad = torch.randn_like(out)
    return lambda x: list(op(grad, x, code, moments(x), weight, vectors[0], mean, var, 1e-5, SCALE))


def equal(results: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(results, others, strict=True))


@pytest.fixture(params=OPS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# ---- Streams and graphs -------------------------------------------------------------------------------------------


def test_runs_on_the_current_stream(gpu, rng, name):
    """The images arrive late, on a stream of their own: kernels on another stream would read what was there before."""
    images = draw_images(rng, (2, 3, 38, 70)).cuda()
    run = op_on_images(gpu, name, images, rng)
    want = run(images)
    late = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)  # cycles, a tenth of a second
        late.copy_(images)
        results = run(late)
        torch.cuda.current_stream().synchronize()
    assert equal(results, want)


def test_graph_capture(gpu, rng, name):
    images = draw_images(rng, (2, 3, 38, 70)).cuda()
    run = op_on_images(gpu, name, images, rng)
    buffer = images.clone()
    with torch.cuda.stream(torch.cuda.Stream()):
        run(buffer)  # compiles and loads what capturing must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(buffer)
    for fresh in (images, draw_images(rng, (2, 3, 38, 70)).cuda()):
        buffer.copy_(fresh)
        graph.replay()
        torch.cuda.synchronize()
        assert equal(results, run(fresh))


def test_training_step_in_a_graph(gpu, rng):
    """Forward, backward and running statistics, as torch.cuda.make_graphed_callables or a trainer captures them."""
    stem, twin = nk.NPRStem(OUTPUTS).cuda(), nk.NPRStem(OUTPUTS).cuda()
    twin.load_state_dict(stem.state_dict())
    buffer = draw_images(rng, (2, 3, 38, 70)).cuda()

    def step(module: nk.NPRStem, images: Tensor) -> None:
        module.zero_grad(set_to_none=True)
        module(images).square().mean().backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(stem, buffer)
    torch.cuda.current_stream().wait_stream(stream)
    stem.load_state_dict(twin.state_dict())
    stem.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(stem, buffer)
    for _ in range(2):
        images = draw_images(rng, (2, 3, 38, 70)).cuda()
        buffer.copy_(images)
        graph.replay()
        step(twin, images)
        torch.cuda.synchronize()
        for (what, ours), theirs in zip(stem.state_dict().items(), twin.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, msg=what)
        for ours, theirs in zip(stem.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Waiting for the device is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


def test_the_host_does_not_wait(gpu, rng, request):
    images, weight = draw_images(rng, (2, 3, 38, 70)).cuda(), draw_weight(rng, OUTPUTS, 3).cuda().requires_grad_()
    stem = nk.NPRStem(OUTPUTS).cuda()

    def work() -> None:
        nk.npr_conv2d(images, weight).sum().backward()
        stem.train()(images).sum().backward()
        stem.eval()(images)

    work()
    request.getfixturevalue("no_waiting")
    work()


# ---- Devices ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one(gpu, rng, name):
    images = draw_images(rng, (2, 3, 38, 70))
    run = op_on_images(gpu, name, images.to("cuda:1"), rng)
    results = run(images.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert all(result.device == torch.device("cuda:1") for result in results)
    with torch.cuda.device(1):
        assert equal(run(images.to("cuda:1")), results)


@pytest.mark.gpu
def test_ops_check_the_devices_of_their_inputs(rng):
    if not nk.available_backends()["cuda"]:
        pytest.skip(str(nk.info()["backends"]["cuda"]["reason"]))
    images, weight = draw_images(rng, (1, 3, 8, 8)), draw_weight(rng, 4, 3)
    options = None, SCALE, torch.float32, True, False
    for mixed in ((images.cuda(), weight), (images, weight.cuda())):
        with pytest.raises(RuntimeError, match="weight must be on the images' device"):
            torch.ops.npr.conv2d(*mixed, *options)


# ---- Size -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[Callable[[float], None]]:
    """memory(n) skips the test where less than n GiB are free on the device; what was cached is given back."""

    def need(gib: float) -> None:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        if free < gib * GIB:
            pytest.skip(f"needs {gib} GiB of free GPU memory, {free / GIB:.1f} are")

    yield need
    torch.cuda.empty_cache()


@pytest.mark.xdist_group("GPU memory")
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_convolution_of_more_results_than_32_bits(gpu, rng, memory, channels_last):
    """2100 views of one image: 2.2e9 results, and as many gradients, of which the last ten images' are not zero."""
    memory(14)
    image, weight = draw_images(rng, (1, 3, 256, 256)).cuda(), draw_weight(rng, 64, 3).cuda()
    images, options = image.expand(2100, -1, -1, -1), (None, SCALE, torch.bfloat16, channels_last, False)
    out, one = gpu.op("conv2d")(images, weight, *options), gpu.op("conv2d")(image, weight, *options)
    assert out.numel() > 1 << 31
    assert all(torch.equal(out[i : i + 1], one) for i in (0, 1023, 2047, 2048, 2099))
    out[:-10] = 0
    gradients = gpu.op("conv2d_backward")(out, images, SCALE, torch.float32, True)
    of_one = gpu.op("conv2d_backward")(one, image, SCALE, torch.float64, True)
    for gradient, expected in zip(gradients, of_one, strict=True):
        assert_relative(gradient, 10 * expected, 1e-6)


@pytest.mark.xdist_group("GPU memory")
def test_stem_of_more_results_than_32_bits(gpu, rng, memory):
    """8200 views of one image; of the gradients the last ten images' are not zero."""
    memory(14)
    image, weight = draw_images(rng, (1, 3, 256, 256)).cuda(), draw_weight(rng, 64, 3).cuda()
    images, ones = image.expand(8200, -1, -1, -1), torch.ones(64, device="cuda")
    moments, of_image = gpu.op("patch_moments")(images), gpu.op("patch_moments")(image)
    assert torch.equal(moments, 8200 * of_image)
    options = weight, ones, ones, None, None, 1e-5, SCALE, torch.bfloat16, True, False
    out, code, mean, var = gpu.op("stem")(images, moments, *options)
    one, code_of_one, *_ = gpu.op("stem")(image, of_image, *options)
    assert out.numel() > 1 << 31
    for i in (0, 4095, 8191, 8192, 8199):
        assert_relative(out[i : i + 1], one, 1e-2)  # the statistics' rounding may round a result the other way
        assert (code[i : i + 1] == code_of_one).float().mean() > 0.999
    out[:-10] = 0
    parameters = None, weight, ones, mean, var, 1e-5, SCALE
    gradients = gpu.op("stem_backward")(out, images, code, *parameters)
    last = out[-1:].clone(), image, code[-1:].clone()
    of_one = gpu.op("stem_backward")(*last, *parameters)
    for gradient, expected in zip(gradients, of_one, strict=True):
        assert_relative(gradient, 10 * expected, 1e-5)


@pytest.mark.xdist_group("GPU memory")
def test_images_of_more_bytes_than_32_bits(gpu, rng, memory):
    """Each image lies more than 2^32 bytes behind the one before."""
    memory(12)
    images = draw_images(rng, (3, 3, 18, 30)).cuda()
    far = torch.empty((1 << 32) * 2 + 100_000, dtype=torch.uint8, device="cuda")
    far = far.as_strided(images.shape, ((1 << 32) + 12_345, *images.stride()[1:])).copy_(images)
    weight = draw_weight(rng, OUTPUTS, 3).cuda()
    options = None, SCALE, torch.float32, True, False
    assert torch.equal(gpu.op("conv2d")(far, weight, *options), gpu.op("conv2d")(images, weight, *options))
    assert torch.equal(gpu.op("patch_moments")(far), gpu.op("patch_moments")(images))


@pytest.mark.xdist_group("GPU memory")
def test_the_size_that_is_benchmarked(gpu, rng, memory):
    """A large batch, all multiprocessors busy for many tiles, against the reference in float64 image by image."""
    memory(8)
    images, weight = draw_images(rng, (256, 3, 256, 256)).cuda(), draw_weight(rng, 64, 3).cuda()
    stem = nk.NPRStem(64).cuda()
    convolved = nk.npr_conv2d(images, weight)
    for training in (False, True):
        stem.train(training)
        pooled = stem(images)
        mean, var = stem.bn1.running_mean, stem.bn1.running_var
        if training:
            whole = nk.npr_conv2d(images, stem.conv1.weight.detach())
            mean, var = whole.double().mean((0, 2, 3)), whole.double().var((0, 2, 3), correction=0)
        for i in (0, 100, 255):
            one = images[i : i + 1]
            want = reference.npr_conv2d(one, weight.double())
            assert_relative(convolved[i : i + 1], want, 1e-6)
            parameters = [t.detach().double() for t in (stem.conv1.weight, stem.bn1.weight, stem.bn1.bias)]
            truth = reference.npr_stem(one, *parameters, mean.double(), var.double())
            assert_relative(pooled[i : i + 1].detach(), truth, 1e-5)
