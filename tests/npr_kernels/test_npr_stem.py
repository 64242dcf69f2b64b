"""The public function npr_stem and the module NPRStem: BatchNorm2d's semantics, gradients, memory, ranks."""

from __future__ import annotations

import copy
import datetime

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import npr_kernels as nk
from npr_kernels import backends, reference
from tests import needs
from tests.npr_kernels.accuracy import assert_relative, unit_roundoff
from tests.npr_kernels.inputs import LAYOUTS, draw_images, draw_weight
from tests.npr_kernels.test_size import allocations, far_apart

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(params=[False, True], ids=["inference", "training"])
def training(request) -> bool:
    return request.param


def draw_parameters(rng, outputs=8, channels=3, dtype=torch.float32, residual="npr") -> dict[str, Tensor]:
    draw = lambda values: torch.from_numpy(values).to(dtype)  # noqa: E731
    return {
        "weight": draw_weight(rng, outputs, channels, dtype, residual).requires_grad_(),
        "bn_weight": draw(rng.standard_normal(outputs)).requires_grad_(),  # half of them negative
        "bn_bias": draw(rng.standard_normal(outputs)).requires_grad_(),
        "running_mean": draw(rng.standard_normal(outputs)),
        "running_var": draw(rng.uniform(0.1, 2, outputs)),
    }


def in_double(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().double().requires_grad_(p.requires_grad) for name, p in parameters.items()}


def unambiguous(images: Tensor, parameters: dict[str, Tensor], training: bool, residual: str) -> Tensor:
    """Where the largest value of a window, and the sign of it, are beyond what float32 rounding can change.

    Elsewhere the gradient jumps, and float32 and float64 may rightly differ.
    """
    p = {name: tensor.detach() for name, tensor in in_double(parameters).items()}
    y = reference.npr_conv2d(images, p["weight"], residual=residual)
    statistics = (None, None) if training else (p["running_mean"], p["running_var"])
    z = F.batch_norm(y, *statistics, p["bn_weight"], p["bn_bias"], training)
    windows = F.unfold(F.pad(z.flatten(0, 1)[:, None], (1, 1, 1, 1), value=-1e9), 3, stride=2)
    largest = windows.topk(2, dim=1).values
    clear = ((largest[:, 0] - largest[:, 1]) > 1e-4) & (largest[:, 0].abs() > 1e-4)
    return clear.view(*z.shape[:2], (z.shape[2] + 1) // 2, (z.shape[3] + 1) // 2)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_reference_in_float64(rng, dtype, layout, training, residual):
    height, width = (int(size) for size in rng.integers(4, 40, 2))
    images = draw_images(rng, (int(rng.integers(1, 8)), 3, height, width), layout)
    parameters = draw_parameters(rng, dtype=dtype, residual=residual)
    truths = in_double(parameters)
    exact = dtype == torch.float64
    clear = 1 if exact else unambiguous(images, parameters, training, residual)

    out = nk.npr_stem(images, **parameters, training=training, residual=residual)
    grad = (torch.randn(out.shape) * clear).to(dtype)
    out.backward(grad)
    truth = reference.npr_stem(images, **truths, training=training, residual=residual)
    truth.backward(grad.double())

    tolerance = (1e-11 if exact else 1e-6) + 2 * unit_roundoff(dtype)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_relative(out.detach(), truth.detach(), tolerance)
    for name in ("weight", "bn_weight", "bn_bias"):
        assert parameters[name].grad.dtype == dtype
        assert_relative(parameters[name].grad, truths[name].grad, tolerance)
    for name in ("running_mean", "running_var"):
        assert_relative(parameters[name], truths[name].detach(), tolerance)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_out_dtype(rng, dtype, training):
    images, parameters = draw_images(rng, (3, 3, 14, 18)), draw_parameters(rng)
    truth = reference.npr_stem(images, **in_double(parameters), training=training).detach()
    explicit = nk.npr_stem(images, **copy_of(parameters), training=training, out_dtype=dtype)
    with torch.autocast("cpu", dtype):
        automatic = nk.npr_stem(images, **parameters, training=training)
    for out in (explicit, automatic):
        assert out.dtype == dtype
        assert_relative(out.detach(), truth, 2 * unit_roundoff(dtype))
    automatic.float().sum().backward()
    assert parameters["weight"].grad.dtype == torch.float32


def copy_of(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in parameters.items()}


def test_float_images_run_on_the_reference(rng, training, monkeypatch, residual):
    monkeypatch.setattr(backends, "_said", set())
    images = draw_images(rng, (2, 3, 9, 14))
    parameters = draw_parameters(rng, dtype=torch.float64, residual=residual)
    floating = (images.double() / 255).requires_grad_()
    with pytest.warns(nk.NPRFallbackWarning, match=r"npr_stem .*torch\.float64"):
        out = nk.npr_stem(floating, **copy_of(parameters), training=training, residual=residual)
    fused = nk.npr_stem(images, **parameters, training=training, residual=residual)
    assert_relative(out.detach(), fused.detach(), 1e-10)
    out.sum().backward()
    assert floating.grad.shape == images.shape


@pytest.mark.usefixtures("instruction_set")
def test_empty_batch(rng, training, residual):
    images, parameters = draw_images(rng, (0, 3, 8, 12)), draw_parameters(rng, residual=residual)
    before = parameters["running_mean"].clone()
    out = nk.npr_stem(images, **parameters, training=training, residual=residual)
    assert out.shape == (0, 8, 2, 3)
    out.sum().backward()
    assert not parameters["weight"].grad.any()
    assert torch.equal(parameters["running_mean"], before)


def test_one_value_per_channel_has_no_variance(rng):
    images, parameters = draw_images(rng, (1, 3, 3, 2)), draw_parameters(rng)
    with pytest.raises(ValueError, match=r"npr_stem: images must give more than 1 value per channel .*\[1, 3, 3, 2\]"):
        nk.npr_stem(images, **parameters, training=True)
    assert nk.npr_stem(images, **parameters).shape == (1, 8, 1, 1)


@pytest.mark.usefixtures("instruction_set")
def test_constant_images(rng, residual):
    """Zero variance: batch norm divides by sqrt(eps) alone, and what it divides is zero."""
    parameters, images = draw_parameters(rng, residual=residual), torch.full((2, 3, 8, 8), 9, dtype=torch.uint8)
    out = nk.npr_stem(images, **parameters, training=True, residual=residual)
    assert torch.equal(out, F.relu(parameters["bn_bias"]).view(-1, 1, 1).expand(out.shape))
    out.sum().backward()
    assert all(parameters[name].grad.isfinite().all() for name in ("weight", "bn_weight", "bn_bias"))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("size", [34, 257])
def test_same_bits_for_any_number_of_threads(rng, size, training, residual):
    images, parameters = draw_images(rng, (5, 3, size, size)), draw_parameters(rng, 64, residual=residual)

    def run(threads):
        torch.set_num_threads(threads)
        mine = copy_of(parameters)
        out = nk.npr_stem(images, **mine, training=training, residual=residual)
        out.backward(torch.ones_like(out))
        return out.detach(), *(p.grad if p.requires_grad else p for p in mine.values())

    before = torch.get_num_threads()
    try:
        results = [run(threads) for threads in (1, 2, 1, 3)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@needs.extension
def test_what_backward_keeps(rng, residual):
    """The image, a byte for each output, and 16 KiB of parameters and moments, 36 KiB for twice the taps."""
    images, parameters = draw_images(rng, (4, 3, 64, 64)), draw_parameters(rng, 64, residual=residual)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        out = nk.npr_stem(images, **parameters, training=True, residual=residual)
    size = sum(t.numel() * t.element_size() for t in {t.data_ptr(): t for t in kept}.values())
    assert size <= images.numel() + out.numel() + (36 << 10 if residual == "npr+haar" else 16 << 10)


@pytest.mark.usefixtures("instruction_set")
def test_nothing_of_the_size_of_the_convolution_is_allocated(rng, training, residual):
    images, parameters = draw_images(rng, (8, 3, 256, 256)), draw_parameters(rng, 64, residual=residual)
    options = {"training": training, "residual": residual}
    out = nk.npr_stem(images, **parameters, **options)
    grad = torch.randn_like(out)
    forward = allocations(lambda: nk.npr_stem(images, **copy_of(parameters), **options))
    assert forward[0] == out.numel() * 4
    assert sum(forward) <= out.numel() * 5 + images.numel()
    backward = allocations(lambda: torch.autograd.grad(out, [parameters["weight"]], grad))
    assert sum(backward) <= images.numel()


@pytest.mark.usefixtures("instruction_set")
def test_strides_beyond_32_bits(rng, training):
    images, parameters = draw_images(rng, (2, 3, 16, 16)), draw_parameters(rng)
    far = copy_of(parameters)
    out, far_out = (nk.npr_stem(x, **p, training=training) for x, p in ((images, parameters), (far_apart(images), far)))
    assert torch.equal(out, far_out)
    grad = torch.randn_like(out)
    out.backward(grad)
    far_out.backward(far_apart(grad))
    assert torch.equal(parameters["weight"].grad, far["weight"].grad)


@needs.extension
def test_second_derivatives_are_refused(rng):
    """Silence would leave a gradient penalty without effect."""
    images, parameters = draw_images(rng, (2, 3, 8, 8)), draw_parameters(rng, dtype=torch.float64)
    out = nk.npr_stem(images, **parameters, training=True)
    (grad,) = torch.autograd.grad(out.square().sum(), parameters["weight"], create_graph=True)
    with pytest.raises(NotImplementedError, match="npr_stem cannot be differentiated twice"):
        grad.square().sum().backward()


# ---- The module ---------------------------------------------------------------------------------------


class Original(nn.Module):
    """The stem as the original network has it, behind normalisation and NPR; or behind the Haar band, or both."""

    def __init__(self, residual: str = "npr", **bn) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = nn.Conv2d(6 if residual == "npr+haar" else 3, 6, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(6, **bn)

    def forward(self, images: Tensor) -> Tensor:
        std = torch.tensor(nk.IMAGENET_STD, dtype=torch.float64).view(3, 1, 1)
        npr = nk.npr_residual(images).double() / 255 / std * 2 / 3
        haar = nk.haar_residual(images).double() / 2 / 255 / std * 2 / 3
        first, last = self.conv1.weight[:, :3], self.conv1.weight[:, -3:]
        y = {
            "npr": lambda: F.conv2d(npr, first, stride=2, padding=1),
            "haar": lambda: F.conv2d(haar, first, padding=1),
            "npr+haar": lambda: F.conv2d(npr, first, stride=2, padding=1) + F.conv2d(haar, last, padding=1),
        }[self.residual]()
        return F.max_pool2d(F.relu(self.bn1(y)), 3, 2, 1)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(
    "bn",
    [
        {},
        {"momentum": None},
        {"momentum": 0.3, "eps": 0.1},
        {"affine": False},
        {"track_running_stats": False},
    ],
    ids=str,
)
def test_follows_batch_norm_through_training_and_evaluation(rng, bn, residual):
    original = Original(residual, **bn).double()
    stem = nk.NPRStem(6, **bn, residual=residual, dtype=torch.float64)
    if original.bn1.affine:
        nn.init.normal_(original.bn1.weight)
        nn.init.normal_(original.bn1.bias)
    stem.load_state_dict(original.state_dict())
    assert stem.state_dict().keys() == original.state_dict().keys()
    for step in range(4):
        for module in (original, stem):
            module.train(step != 2)
            module.zero_grad()
        images = draw_images(rng, (3, 3, 12, 15))
        out, want = stem(images), original(images)
        assert_relative(out.detach(), want.detach(), 1e-11)
        grad = torch.randn_like(want)
        out.backward(grad)
        want.backward(grad)
        for ours, theirs in zip(stem.parameters(), original.parameters(), strict=True):
            assert_relative(ours.grad, theirs.grad, 1e-9)
        for (name, ours), theirs in zip(stem.named_buffers(), original.buffers(), strict=True):
            assert ours.dtype == theirs.dtype, name
            assert_relative(ours, theirs, 1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"stride": 1},
        {"patch": 4},
        {"mode": "mean"},
        {"bias": True, "residual": "haar"},
        {"stride": 2, "residual": "npr+haar"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_other_geometry_runs_layer_by_layer(rng, options):
    images, conv, bn = draw_images(rng, (2, 3, 12, 16)), nk.NPRConv(3, 4, **options), nn.BatchNorm2d(4)
    want = F.max_pool2d(F.relu(copy.deepcopy(bn)(conv(images))), 3, 2, 1)
    assert_relative(nk.fused_stem(images, conv, bn).detach(), want.detach(), 1e-6)


@pytest.mark.parametrize("stride", [None, 1, (1, 1)])
def test_a_haar_convolution_is_fused_at_its_own_stride(rng, stride):
    images, conv, bn = draw_images(rng, (2, 3, 12, 16)), nk.NPRConv(3, 4, stride=stride, residual="haar"), Spy(4)
    out = nk.fused_stem(images, conv, bn)
    assert bn.calls == 0
    assert_relative(out.detach(), F.max_pool2d(F.relu(bn(conv(images))), 3, 2, 1).detach(), 1e-6)
    assert bn.calls == 1


class Spy(nn.BatchNorm2d):
    """Counts how often batch norm runs as a layer of its own."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


# ---- Ranks --------------------------------------------------------------------------------------------


def rank_main(rank: int, address: str, images: Tensor, residual: str, state: dict, grad: Tensor, results) -> None:
    """One of two ranks, with its part of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    stem = nk.NPRStem(6, residual=residual)
    stem.load_state_dict(state)
    stem = nn.SyncBatchNorm.convert_sync_batchnorm(stem)
    part = slice(0, 2) if rank == 0 else slice(2, None)
    out = stem(images[part])
    out.backward(grad[part])
    results.put((rank, out.detach().numpy(), [p.grad.numpy() for p in stem.parameters()],
                 [b.numpy() for b in stem.buffers()]))  # fmt: skip
    results.close()
    results.join_thread()
    dist.destroy_process_group()


@needs.extension
@pytest.mark.slow
@pytest.mark.parametrize("residual", ["npr", "npr+haar"])
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_ranks_equal_one_process(rng, tmp_path, residual):
    """Uneven parts of a batch, statistics shared: outputs and running statistics are equal, gradients add up."""
    images, whole = draw_images(rng, (5, 3, 18, 23)), nk.NPRStem(6, residual=residual)
    nn.init.normal_(whole.bn1.weight)
    state = copy.deepcopy(whole.state_dict())
    out = whole(images)
    grad = torch.randn_like(out)
    out.backward(grad)

    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (f"file://{tmp_path / 'rendezvous'}", images, residual, state, grad, results)
    ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    answers = sorted((results.get(timeout=120) for _ in ranks), key=lambda answer: answer[0])
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0

    outputs = torch.cat([torch.from_numpy(answer[1]) for answer in answers])
    assert torch.equal(outputs, out.detach())
    for index, parameter in enumerate(whole.parameters()):
        total = sum(torch.from_numpy(answer[2][index]).double() for answer in answers)
        assert_relative(total, parameter.grad, 1e-6)
    for answer in answers:
        for buffer, shared in zip(whole.buffers(), answer[3], strict=True):
            assert torch.equal(torch.from_numpy(shared), buffer)
