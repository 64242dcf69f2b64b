"""The residual block on 8-bit maps against sums of integers, bit for bit on every path of the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from npr_kernels.backends import native
from npr_kernels.bottleneck import PANEL, FoldedBottleneck
from npr_kernels.quantised import (
    LARGEST_SUM,
    LARGEST_WEIGHT,
    QUAD,
    QuantisedBottleneck,
    Steps,
    largest_sums,
    quads,
    quantise,
    quantise_weight,
)
from tests.npr_kernels import implementations
from tests.npr_kernels.implementations import CPU_INSTRUCTION_SETS
from tests.npr_kernels.test_bottleneck import random_block, random_input

needs_extension = pytest.mark.skipif(
    native.unavailable_reason("cpu") is not None, reason=str(native.unavailable_reason("cpu"))
)

# inputs, width, stride: with the identity as shortcut where inputs are 4 width and the stride is 1.
BLOCKS = {
    "identity": (128, 32, 1),
    "identity-wide": (512, 128, 1),
    "project": (64, 64, 1),
    "project-few-inputs": (4, 32, 1),
    "halve": (96, 64, 2),
}
SIZES = [(1, 1), (1, 9), (5, 3), (7, 33), (37, 29), (2, 130), (130, 2)]


@pytest.fixture(params=CPU_INSTRUCTION_SETS)
def instruction_set(request):
    """Runs the test on one of the CPU's paths."""
    with implementations.instruction_set(request.param):
        yield request.param


def steps(folded: FoldedBottleneck, out: float | None) -> Steps:
    """Random ones of each channel, with which few of the block's values are beyond 255 and most are not 0."""
    reduce, spatial, expand = folded.weights[:3]
    x, reduced, middle = (torch.rand(n) * 0.02 + 0.02 for n in (*reduce.shape[1::-1], spatial.shape[0]))
    return Steps(x, reduced, middle, None if out is None else (torch.rand(expand.shape[0]) + 0.5) * out)


@pytest.fixture(params=BLOCKS)
def folded(request) -> FoldedBottleneck:
    return FoldedBottleneck.of(random_block(*BLOCKS[request.param]))


@pytest.fixture(params=[0.1, None], ids=["bytes", "float"])
def block(request, folded) -> QuantisedBottleneck:
    return QuantisedBottleneck.of(folded, steps(folded, request.param))


def random_bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)


def inputs_of(block: QuantisedBottleneck) -> int:
    return block.reduce.weight.shape[1]


def sums(x: np.ndarray, weight: Tensor, stride: int = 1) -> np.ndarray:
    """The convolution of [N, H, W, C] in integers, its padding half of the kernel: int64 [N, h, w, O].

    In float64, which holds them exactly and is multiplied faster than int64.
    """
    w = weight.numpy().astype(np.float64)
    side = w.shape[2]
    padded = np.pad(x.astype(np.float64), ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    total = np.float64(0)
    for i in range(side):
        for j in range(side):
            tap = padded[:, i : i + x.shape[1], j : j + x.shape[2]][:, ::stride, ::stride]
            total = total + tap @ w[:, :, i, j].T
    assert np.abs(total).max(initial=0) < 2**31
    return total.astype(np.int64)


def scaled(total: np.ndarray, gain: Tensor, bias: Tensor) -> np.ndarray:
    return total.astype(np.float32) * gain.numpy() + bias.numpy()


def to_bytes(value: np.ndarray) -> np.ndarray:
    assert value.dtype == np.float32
    return np.rint(np.clip(value, 0, 255)).astype(np.uint8)


def truth(block: QuantisedBottleneck, x: Tensor) -> Tensor:
    """In NumPy's integers, and its float32, which rounds operation by operation."""
    image = x.permute(0, 2, 3, 1).numpy()
    y = to_bytes(scaled(sums(image, block.reduce.weight), *block.reduce[1:]))
    y = to_bytes(scaled(sums(y, block.spatial.weight, block.stride), *block.spatial[1:]))
    shortcut = image if block.project is None else sums(image, block.project, block.stride)
    value = scaled(sums(y, block.expand.weight), *block.expand[1:])
    value = value + shortcut.astype(np.float32) * block.shortcut_gain.numpy()
    return torch.from_numpy(np.maximum(value, 0) if block.as_float else to_bytes(value)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_equals_sums_of_int64(block, size, instruction_set):
    assert block.packed is not None
    x = random_bytes(2, inputs_of(block), *size)
    y, expected = block(x), truth(block, x)
    assert y.dtype == block.dtype
    assert y.shape == block.shape(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, expected)
    assert torch.equal(block.reference(x), expected)
    assert len(y.unique()) > 20  # or steps that say nothing would have passed


# Weights for eight channels, of which each four that 16 bits add are as large as they may be.
EIGHTS = {
    "all": [32, 32, 32, 32, 32, 32, 32, 32],
    "one quad": [64, 64, 64, 64, 0, 0, 0, 0],
    "both quads": [64, 0, 0, 64, 0, 64, 64, 0],
    "both signs": [64, -64, 64, 64, 64, -64, -64, -64],
}


def extreme(inputs: int, width: int, eights: list[list[int]], sums: list[int]) -> QuantisedBottleneck:
    """A block whose convolutions repeat weights, for eight channels each, and whose gains show its sums at full width:
    255 in reduce's result and spatial's.

    Args:
        sums: of the weights of an output of the three convolutions.
    """
    block = QuantisedBottleneck.of(FoldedBottleneck.of(random_block(inputs, width, 1)), Steps(*torch.ones(3), None))
    packed = list(block.packed or ())
    for place, eight, total in zip((0, 3, 6), eights, sums, strict=True):
        pairs = packed[place].unflatten(1, (-1, 2))  # [panels, taps * eights, 2, PANEL, QUAD]
        pairs[:] = torch.tensor(eight, dtype=torch.int8).view(2, 1, QUAD)
        packed[place + 1].fill_(1 / total)
        packed[place + 2].zero_()
    packed[7].fill_(1)
    packed[10].zero_()  # the shortcut's gain
    return QuantisedBottleneck(*(getattr(block, name) for name in (
        "reduce", "spatial", "expand", "project", "shortcut_gain", "stride", "as_float")), tuple(packed))  # fmt: skip


@needs_extension
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("eight", EIGHTS.values(), ids=EIGHTS)
def test_the_largest_products_do_not_saturate(eight, sign, instruction_set):
    """255 times such weights everywhere: the sums of the 1x1 and of the 3x3 give 255 again where the map has no border,
    and those of expand are seen as they are, up to ReLU."""
    inputs, width = 512, 128
    eight = [sign * number for number in eight]
    if sum(eight) == 0:  # of channels whose products meet in 16 bits, the positive ones alone
        x = torch.tensor([255 * (number > 0) for number in eight], dtype=torch.uint8).repeat(inputs // 8)
        x = x[None, :, None, None].expand(1, inputs, 5, 5).contiguous(memory_format=torch.channels_last)
        y = extreme(inputs, width, [eight, EIGHTS["all"], EIGHTS["all"]], [256 // 8 * inputs, 9 * 32 * width, 1])(x)
    else:
        x = torch.full((1, inputs, 5, 5), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        y = extreme(inputs, width, [eight, eight, EIGHTS["all"]], [sign * 32 * inputs, sign * 9 * 32 * width, 1])(x)
        # Corners see four of nine taps.
        assert (y[:, :, 0, 0] == round(255 * 4 / 9) * 32 * width).all()
        # The negative sum, made visible by its bias.
        below = [-abs(number) for number in EIGHTS["all"]]
        block = extreme(inputs, width, [eight, eight, below], [sign * 32 * inputs, sign * 9 * 32 * width, 1])
        block.packed[8].fill_(255 * 32 * width + 1)
        assert (block(x)[:, :, 1:4, 1:4] == 1).all()
    assert (y[:, :, 1:4, 1:4] == 255 * 32 * width).all()


def test_an_image_alone_in_a_batch_and_on_more_threads(block, instruction_set):
    x = random_bytes(5, inputs_of(block), 50, 21)
    threads = torch.get_num_threads()
    together = block(x)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(block(x), together)
            alone = torch.cat([block(x[i : i + 1]) for i in (4, 2, 0)])
            assert torch.equal(alone, together[[4, 2, 0]])
    finally:
        torch.set_num_threads(threads)


def test_is_near_the_block_that_it_stands_for(folded):
    """The roundings are independent and of half a step at most, an error of some hundredths by the root of squares over
    thousands of values; a wrong gain, bias or order of channels gives one of about 1."""
    x = random_input(2, folded.weights[0].shape[1], 16, 15).abs()
    y = folded.reference(x.double())
    largest = [x.amax(dim=(0, 2, 3)), *(value.amax(dim=(0, 2, 3)) for value in folded.maps(x.double()))]
    size = Steps(*(value.clamp_min(1e-3) / 255 for value in largest))
    found = QuantisedBottleneck.of(folded, size)(quantise(x, size.x)).double() * size.out[:, None, None]
    assert (found - y).norm() <= 0.1 * y.norm()


@needs_extension
def test_strips_do_not_show(block):
    """A map of several strips, whose rows overlap, equals its parts where those do not reach their borders."""
    x = random_bytes(1, inputs_of(block), 400, 8)
    whole = block(x)
    for top in (40, 96, 230):
        part = block(x[:, :, top - 16 : top + 24])
        kept = slice(16 // block.stride, 32 // block.stride)
        assert torch.equal(
            part[:, :, kept], whole[:, :, top // block.stride : top // block.stride + 16 // block.stride]
        )


@needs_extension
def test_into_memory_that_is_there(block):
    x = random_bytes(2, inputs_of(block), 9, 14)
    expected = block(x)
    out = torch.full_like(expected, 99)
    assert block(x, out) is out
    assert torch.equal(out, expected)
    for wrong in (out.contiguous(), out[:1], out.double()):
        with pytest.raises(RuntimeError, match="out must be uint8 or float32 of the result's shape"):
            block(x, wrong)
    if out.shape == x.shape and out.dtype == x.dtype:
        with pytest.raises(RuntimeError, match="out must not overlap x"):
            block(x, x)


def test_empty_batch_and_other_layouts(block):
    assert block(random_bytes(0, inputs_of(block), 6, 6)).shape[0] == 0
    x = random_bytes(2, inputs_of(block), 12, 10)
    assert torch.equal(block(x.contiguous()), block(x))
    wide = random_bytes(2, inputs_of(block), 12, 20)
    assert torch.equal(block(wide[..., ::2]), block(wide[..., ::2].contiguous()))


def test_blocks_that_the_op_does_not_cover_run_on_pytorch():
    folded = FoldedBottleneck.of(random_block(24, 8, 2))  # 8 channels are no panel
    block = QuantisedBottleneck.of(folded, steps(folded, 0.1))
    assert block.packed is None
    x = random_bytes(2, 24, 9, 7)
    assert torch.equal(block(x), truth(block, x))
    out = torch.empty(block.shape(x), dtype=torch.uint8)
    assert block(x, out) is out
    assert torch.equal(out, block(x))


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (1, 3, 5, 7), (2, 64, 40, 50), (0, 4, 2, 2)])
def test_quantise(size, instruction_set):
    step = torch.rand(size[1], dtype=torch.float64) * 0.1 + 0.01
    for given in (step, step[0]):
        x = (torch.randn(size) * 0.05 * 255).contiguous(memory_format=torch.channels_last)
        gain = (1 / given.numpy()).astype(np.float32).reshape(-1, 1, 1)
        assert torch.equal(quantise(x, given), torch.from_numpy(to_bytes(x.numpy() * gain)))


def test_quantise_rounds_ties_to_even_and_bounds(instruction_set):
    values = torch.tensor(
        [0.5, 1.5, 2.5, 253.5, 254.5, 255.5, -0.5, -3.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan]
    )
    expected = torch.tensor([0, 2, 2, 254, 254, 255, 0, 0, 255, 0, 255, 0, 0], dtype=torch.uint8)
    for repeat in (1, 5):  # whole vectors, too
        x = values.repeat(repeat)[None, :, None, None]
        assert torch.equal(quantise(x, torch.ones(())).flatten(), expected.repeat(repeat))


def of_one_sign(weight: Tensor) -> Tensor:
    """[O]: by loops, what LARGEST_SUM bounds."""
    outputs, inputs, *taps = weight.shape
    found = torch.zeros(outputs, dtype=weight.dtype)
    for output in range(outputs):
        for first in range(0, inputs, 8):
            for half in (0, 2):
                fours = [first + half + k for k in (0, 1, 4, 5) if first + half + k < inputs]
                for place in np.ndindex(*taps):
                    numbers = [weight[(output, channel, *place)].item() for channel in fours]
                    for sign in (1, -1):
                        found[output] = max(
                            found[output], sum(sign * number for number in numbers if sign * number > 0)
                        )
    return found


@pytest.mark.parametrize("heavy", [False, True])
def test_weights_are_rounded_to_steps_of_their_output(heavy):
    weight = torch.randn(6, 14, 3, 3, dtype=torch.float64)
    if heavy:  # few that are large, so that a single one is what a step is made of
        weight = weight**5
    weight[2] = 0
    whole, step = quantise_weight(weight)
    assert whole.dtype == torch.int8
    error = whole - weight / step.view(-1, 1, 1, 1)
    assert (error.abs() < 1).all()
    largest, most = whole.abs().flatten(1).amax(dim=1), of_one_sign(whole.int())
    assert (largest <= LARGEST_WEIGHT).all()
    assert (most <= LARGEST_SUM).all()
    # No coarser than it takes: one of the two bounds is met, but for what rounding may add.
    met = (largest == LARGEST_WEIGHT) | (most > LARGEST_SUM - 8)
    assert met.tolist() == [True, True, False, True, True, True]
    # The errors of an output add up to half a step at most, and no more weights than that takes are not the nearest.
    assert (error.flatten(1).sum(dim=1).abs() <= 0.5 + 1e-6).all()
    moved = (whole - (weight / step.view(-1, 1, 1, 1)).round()).flatten(1)
    assert torch.equal(moved.abs().sum(dim=1), moved.sum(dim=1).abs())
    assert torch.equal(moved.abs().amax(dim=1), (moved != 0).any(dim=1).double())


def test_sums_of_the_largest_weights():
    weight = torch.randint(-64, 65, (3, 20, 2, 1), dtype=torch.int32)
    assert torch.equal(largest_sums(weight), of_one_sign(weight))


def test_quads():
    weight = torch.randint(-128, 128, (2 * PANEL, 3 * QUAD, 9), dtype=torch.int8)
    packed = quads(weight)
    assert packed.shape == (2, 27, PANEL, QUAD)
    assert packed[1, 4 * 3 + 2, 7, 1] == weight[PANEL + 7, 2 * QUAD + 1, 4]


@pytest.mark.parametrize("step", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_steps_that_are_none(step):
    folded = FoldedBottleneck.of(random_block(64, 32, 1))
    with pytest.raises(ValueError, match="the steps of middle must be positive and finite"):
        QuantisedBottleneck.of(folded, Steps(*torch.tensor([1.0, 1.0, step]), None))


@needs_extension
def test_refuses_what_does_not_fit():
    folded = FoldedBottleneck.of(random_block(64, 32, 1))
    block = QuantisedBottleneck.of(folded, steps(folded, 0.1))
    x = random_bytes(1, 64, 8, 8)
    weights = [f"{conv}{what}" for conv in ("reduce", "spatial", "expand") for what in ("", "_gain", "_bias")]
    packed = dict(zip((*weights, "project", "shortcut_gain"), block.packed, strict=True))
    right = {"x": x, **packed, "stride": 1, "out": block(x)}
    for name, wrong, message in [
        ("x", x.float(), "x must be uint8"),
        ("x", x.contiguous(), "channels_last"),
        ("x", x[:, :32].contiguous(memory_format=torch.channels_last), "reduce must be"),
        ("reduce", right["reduce"].float(), "reduce must be contiguous int8 panels"),
        ("spatial", right["spatial"].clone().fill_(65), "weights of spatial must be -64 to 64"),
        ("spatial", right["spatial"].clone().fill_(33), "weights of spatial for channels .* more than 128"),
        ("expand", right["expand"].clone().fill_(-33), "weights of expand for channels .* more than 128"),
        ("project", right["project"].clone().fill_(-65), "weights of project must be -64 to 64"),
        ("reduce_gain", right["reduce_gain"][:16], "the gain of reduce"),
        ("reduce_bias", right["reduce_bias"][:0], "must have outputs"),
        ("spatial", right["spatial"][:, 1:], "spatial must be"),
        ("spatial_bias", right["spatial_bias"].double(), "the bias of spatial"),
        ("expand", right["expand"][..., :2], "expand must be"),
        ("project", None, "must have project"),
        ("project", right["project"][1:], "project must be"),
        ("shortcut_gain", right["shortcut_gain"][1:], "the gain of the shortcut"),
        ("stride", 3, "stride must be 1 or 2"),
        ("stride", 2, "out must be"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.npr.quantised_bottleneck(*(right | {name: wrong}).values())
    torch.ops.npr.quantised_bottleneck(*right.values())
    f = random_input(1, 4, 3, 3)
    with pytest.raises(RuntimeError, match="x must be float32"):
        torch.ops.npr.quantise(f.double(), torch.ones(4), torch.empty_like(f, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="out must be uint8 of x's shape"):
        torch.ops.npr.quantise(f, torch.ones(4), torch.empty_like(f))
    with pytest.raises(RuntimeError, match="gain must be"):
        torch.ops.npr.quantise(f, torch.ones(3), torch.empty_like(f, dtype=torch.uint8))


@needs_extension
def test_opcheck(block):
    x = random_bytes(2, inputs_of(block), 9, 6)
    out = torch.empty_like(block(x))
    torch.library.opcheck(torch.ops.npr.quantised_bottleneck, (x, *block.packed, block.stride, out))
    f = random_input(2, 4, 3, 5)
    torch.library.opcheck(torch.ops.npr.quantise, (f, torch.rand(4), torch.empty_like(f, dtype=torch.uint8)))
