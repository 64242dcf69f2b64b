"""The residual block in training against autograd in float64, and what its results must not depend on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import npr_kernels as nk
from detector.models.resnet import Bottleneck
from npr_kernels.trained_bottleneck import MOST_WIDTH, covers, trained_bottleneck
from tests import needs
from tests.npr_kernels import implementations
from tests.npr_kernels.implementations import CPU_INSTRUCTION_SETS

pytestmark = needs.extension

# inputs, width, stride: with the identity as shortcut where inputs are 4 width and the stride is 1.
BLOCKS = {
    "identity": (128, 32, 1),
    "project": (64, 64, 1),
    "halve": (96, 32, 2),
    "halve-wide": (32, 64, 2),
}


BOUND = 3e-4  # of the largest value; the largest difference seen is 2e-5


def random_block(inputs: int, width: int, stride: int) -> Bottleneck:
    """In training, with batch norms that do something, some of them turning signs."""
    block = Bottleneck(inputs, width, stride)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.weight.data[::3] *= -1
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return block


def random_input(*shape: int) -> Tensor:
    return (torch.randn(shape) + 0.5).contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=BLOCKS)
def block(request, rng) -> Bottleneck:
    return random_block(*BLOCKS[request.param])


def inputs_of(block: Bottleneck) -> int:
    return block.conv1.in_channels


@pytest.fixture(params=CPU_INSTRUCTION_SETS)
def instruction_set(request):
    """Runs the test on one of the CPU's paths."""
    with implementations.instruction_set(request.param):
        yield request.param


def arguments_of(block: Bottleneck, x: Tensor) -> list:
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
    pairs += [] if block.downsample is None else [tuple(block.downsample)]
    weights = [conv.weight.detach() for conv, _ in pairs]
    vectors = [torch.cat([getattr(norm, name).detach() for _, norm in pairs]) for name in ("weight", "bias")]
    return [x, *weights, *([None] if len(weights) == 3 else []), *vectors, block.conv2.stride[0], 1e-5]


def train(block: Bottleneck, x: Tensor, weights: Tensor, gates: list[Tensor] | None = None) -> dict[str, Tensor]:
    """What one step on sum(weights * block(x)) gives: result, gradients and running statistics. With gates, ReLUs are
    replaced by them."""
    block, x = copy.deepcopy(block).to(x.dtype), x.clone().requires_grad_()
    if gates is None:
        y = block(x)
    else:
        a = block.bn1(block.conv1(x)) * gates[0]
        a = block.bn2(block.conv2(a)) * gates[1]
        y = (block.bn3(block.conv3(a)) + (x if block.downsample is None else block.downsample(x))) * gates[2]
    (y * weights).sum().backward()
    results = {"result": y.detach(), "x": x.grad}
    results |= {name: parameter.grad for name, parameter in block.named_parameters()}
    return results | dict(block.named_buffers())


def gates_of(block: Bottleneck, x: Tensor) -> list[Tensor] | None:
    """Where the op's own ReLUs are open: where rounding decides, one truth is as good as the other. None where it
    depends on how the multiply-add before a ReLU is rounded, once or twice."""
    arguments = arguments_of(block, x)
    out, _, reduced, middle, *_, mean, var = torch.ops.npr.trained_bottleneck(*arguments)
    width = reduced.shape[1]
    gates = []
    for i, y in enumerate((reduced, middle)):
        channels = slice(i * width, (i + 1) * width)
        factor = arguments[5][channels] / (var[channels] + 1e-5).sqrt()
        scale = factor.float().view(-1, 1, 1)
        shift = (arguments[6][channels] - factor * mean[channels]).float().view(-1, 1, 1)
        gate = y.double() * scale.double() + shift.double() > 0
        if not torch.equal(gate, y * scale + shift > 0):
            return None
        gates.append(gate)
    return [gate.double() for gate in (*gates, out > 0)]


def differences(got: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The largest one of each tensor, in units of its largest value."""
    assert got.keys() == truth.keys()
    return {
        name: float((got[name].double() - truth[name].double()).abs().max() / (truth[name].abs().max() + 1e-30))
        for name in truth
    }


def draw(block: Bottleneck, height: int, width: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Input, weights of the result and gates. Batch norms see 24 values a channel at least: the variance of a few can
    be so small that it makes any rounding a large one."""
    stride = block.conv2.stride[0]
    positions = -(-height // stride) * -(-width // stride)
    while True:  # once, but for one draw in hundreds
        x = random_input(max(3, -(-24 // positions)), inputs_of(block), height, width)
        gates = gates_of(block, x)
        if gates is not None:
            return x, torch.randn(gates[-1].shape), gates


@pytest.mark.parametrize("size", [(1, 2), (4, 4), (5, 3), (9, 17), (2, 66), (39, 8)], ids=str)
def test_equals_autograd_in_float64(block, size, instruction_set):
    x, weights, gates = draw(block, *size)
    assert covers(block, x)
    got = train(block, x, weights)
    truth = train(block, x.double(), weights.double(), gates)
    assert got["result"].is_contiguous(memory_format=torch.channels_last)
    # Chains of 9 width products at most, 6e-8 of rounding each time, which Winograd's transforms multiply by some tens
    # and three batch norms pass on.
    assert max(differences(got, truth).values()) < BOUND, differences(got, truth)


def test_gates_of_the_truth_are_those_of_relu(block):
    """The truth that the others are compared with is what PyTorch's own modules give, where no value is near zero."""
    x, weights, gates = draw(block, 6, 5)
    block, x = block.double(), x.double()
    with nk.backend("reference"):
        plain, gated = train(block, x, weights.double()), train(block, x, weights.double(), gates)
    # A gate that float32's rounding turned changes some gradients a little, and the result hardly.
    assert differences(gated, plain)["result"] < 1e-5


@pytest.mark.parametrize("positions", [5, 260], ids=["through the caches", "past them"])
def test_the_end_of_the_block_and_its_gates(positions, instruction_set):
    """Of results that are written through the caches and, beyond 32 MiB, past them."""
    block, x = random_block(128, 32, 1), random_input(2, 128, positions, 131)
    out, gate, _, _, y, _, mean, var = torch.ops.npr.trained_bottleneck(*arguments_of(block, x))
    assert (out.numel() * out.element_size() > 2**25) == (positions == 260)
    factor = block.bn3.weight.detach().double() / (var[64:] + 1e-5).sqrt()
    shift = block.bn3.bias.detach().double() - factor * mean[64:]
    expected = (y.double() * factor.view(-1, 1, 1) + shift.view(-1, 1, 1) + x).relu()
    assert (out - expected).abs().max() < 1e-6 * expected.max()
    bits = gate.unsqueeze(-1) >> torch.arange(32) & 1
    assert torch.equal(bits.flatten(3).bool(), out.permute(0, 2, 3, 1) > 0)


def test_repeats_bit_for_bit_on_any_number_of_threads(block, instruction_set):
    x = random_input(5, inputs_of(block), 50, 21)
    weights = torch.randn(block(x).shape)
    threads = torch.get_num_threads()
    first = train(block, x, weights)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            again = train(block, x, weights)
            assert all(torch.equal(again[name], first[name]) for name in first)
    finally:
        torch.set_num_threads(threads)


def test_other_layouts_give_the_same(block):
    wide = random_input(2, inputs_of(block), 6, 20)
    weights = torch.randn(block(wide[..., ::2]).shape)
    expected = train(block, wide[..., ::2].contiguous(memory_format=torch.channels_last), weights)
    for x in (wide[..., ::2], wide[..., ::2].contiguous()):
        assert all(torch.equal(value, expected[name]) for name, value in train(block, x, weights).items())
    moved = copy.deepcopy(block).to(memory_format=torch.channels_last)
    expected |= {name: value for name, value in train(moved, x, weights).items() if "weight" not in name}
    for name, value in train(moved, x, weights).items():
        assert torch.equal(value, expected[name]), name
    # A gradient that is one number, spread.
    x = wide.clone().requires_grad_()
    block(x).sum().backward()
    ones = train(block, wide, torch.ones(block(wide).shape))
    assert torch.equal(x.grad, ones["x"])


def test_what_is_not_covered_runs_layer_by_layer(block):
    x = random_input(2, inputs_of(block), 6, 4)
    assert covers(block, x)
    assert not covers(block, x.double())
    assert not covers(block, x[:0])
    assert not covers(block, x[:1, :, :1, :1])
    with torch.autocast("cpu", torch.bfloat16):
        assert not covers(block, x)
    with nk.backend("reference"):
        assert not covers(block, x)
    with pytest.raises(ValueError, match="more than 1 value"):  # as PyTorch says it
        block(x[:1, :, :1, :1])

    def changed(change) -> Bottleneck:
        other = copy.deepcopy(block)
        change(other)
        return other

    for change in (
        lambda b: b.bn2.eval(),
        lambda b: b.conv1.register_forward_hook(lambda *_: None),
        lambda b: setattr(b.bn3, "eps", 1e-3),
        lambda b: setattr(b, "bn1", nn.SyncBatchNorm(b.bn1.num_features)),
        lambda b: setattr(b, "bn1", nn.BatchNorm2d(b.bn1.num_features, track_running_stats=False)),
        lambda b: setattr(b, "bn1", nn.BatchNorm2d(b.bn1.num_features, affine=False)),
    ):
        other = changed(change)
        assert not covers(other, x)
    assert not covers(Bottleneck(inputs_of(block), 8, 2), x)
    assert not covers(Bottleneck(24, 32, 2), x[:, :24])
    assert not covers(Bottleneck(inputs_of(block), 2 * MOST_WIDTH, 2), x)


def test_a_block_of_evaluation_does_not_come_here(block):
    x = random_input(2, inputs_of(block), 6, 4)
    block.eval()
    before = copy.deepcopy(block.state_dict())
    y = block(x)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    y.sum().backward()


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics(momentum, rng):
    block = random_block(64, 32, 2)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    other = copy.deepcopy(block)
    for _ in range(3):
        x = random_input(4, 64, 5, 6)
        trained_bottleneck(block, x)
        with nk.backend("reference"):
            other(x)
    for (name, got), expected in zip(block.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_without_gradients_too(block):
    x = random_input(2, inputs_of(block), 6, 4)
    expected = copy.deepcopy(block)(x)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y, expected)
    assert not y.requires_grad


def test_some_gradients_alone(block):
    x = random_input(2, inputs_of(block), 6, 4)
    weights = torch.randn(block(x).shape)
    full = train(block, x, weights)
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    block.conv2.weight.requires_grad_()
    block.bn3.bias.requires_grad_()
    (block(x) * weights).sum().backward()
    for name, parameter in block.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, full[name]), name
        else:
            assert parameter.grad is None


def test_nan_shows(block, instruction_set):
    x = random_input(2, inputs_of(block), 6, 4)
    x[1, 3, 2, 2] = torch.nan
    y = block(x)
    assert y.isnan().all()  # it is in every statistic
    y.sum().backward()
    assert block.conv1.weight.grad.isnan().all()


def test_twice_is_refused(block):
    x = random_input(2, inputs_of(block), 6, 4).requires_grad_()
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated twice"):
        grad.sum().backward()
    with nk.backend("reference"):
        (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
        grad.sum().backward()


@pytest.mark.slow
def test_opcheck(block):
    arguments = [
        a.requires_grad_() if isinstance(a, Tensor) else a
        for a in arguments_of(block, random_input(4, inputs_of(block), 6, 5))
    ]
    torch.library.opcheck(torch.ops.npr.trained_bottleneck, tuple(arguments))
    plain = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    x, *weights, gamma, beta, stride, eps = plain
    out, gate, *maps, mean, var = torch.ops.npr.trained_bottleneck(*plain)
    torch.library.opcheck(
        torch.ops.npr.trained_bottleneck_backward,
        (torch.randn_like(out), x, gate, *maps, *weights, gamma, beta, mean, var, stride, eps),
    )


def test_compiles(block):
    torch.compiler.reset()
    x = random_input(2, inputs_of(block), 6, 4)
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager")
    expected, got = block(x), compiled(x)
    assert torch.equal(got, expected)


def test_refuses_what_does_not_fit():
    x, reduce, spatial, expand, project, gamma, beta, stride, eps = arguments_of(
        random_block(64, 32, 1), random_input(2, 64, 5, 4)
    )
    op = torch.ops.npr.trained_bottleneck
    for arguments, message in [
        ((x.double(), reduce, spatial, expand, project, gamma, beta), "x must be float32"),
        ((x.contiguous(), reduce, spatial, expand, project, gamma, beta), "channels_last"),
        ((x[:, :48].contiguous(memory_format=torch.channels_last), reduce, spatial, expand, project, gamma, beta),
         "multiple of 32 channels, got 48"),
        ((x, reduce[:16], spatial, expand, project, gamma, beta), "reduce must be"),
        ((x, reduce, spatial[..., :2], expand, project, gamma, beta), "spatial must be"),
        ((x, reduce, spatial.double(), expand, project, gamma, beta), "spatial must be"),
        ((x, reduce, spatial, expand[:, :16], project, gamma, beta), "expand must be"),
        ((x, reduce, spatial, expand, project[:64], gamma, beta), "project must have as many outputs"),
        ((x, reduce, spatial, expand, None, gamma, beta), "must have project"),
        ((x, reduce, spatial, expand, project, gamma[1:], beta), "gamma must be"),
        ((x, reduce, spatial, expand, project, gamma, beta.double()), "beta must be"),
        ((x[:1, :, :1, :1], reduce, spatial, expand, project, gamma, beta), "more than one value"),
    ]:  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            op(*arguments, stride, eps)
    with pytest.raises(RuntimeError, match="stride must be 1 or 2"):
        op(x, reduce, spatial, expand, project, gamma, beta, 3, eps)
    out, gate, *maps, mean, var = op(x, reduce, spatial, expand, project, gamma, beta, stride, eps)
    back = torch.ops.npr.trained_bottleneck_backward
    rest = (reduce, spatial, expand, project, gamma, beta)
    for arguments, message in [
        ((out[:1], x, gate, *maps, *rest, mean, var), "grad must be"),
        ((out.contiguous(), x, gate, *maps, *rest, mean, var), "grad must be"),
        ((out, x, gate, maps[1], maps[1][:, :, 1:], *maps[2:], *rest, mean, var), "middle must be"),
        ((out, x, out, *maps, *rest, mean, var), "gate must be"),
        ((out, x, gate[..., 1:], *maps, *rest, mean, var), "gate must be"),
        ((out, x, gate, *maps, *rest, mean.float(), var), "mean must be"),
        ((out, x, gate, *maps, *rest, mean, var[:1]), "var must be"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            back(*arguments, stride, eps)
