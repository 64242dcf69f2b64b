"""The fused residual block against float64 convolutions, and what its results must not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detector.models.resnet import Bottleneck
from npr_kernels.bottleneck import PANEL, FoldedBottleneck, panels, winograd_points
from tests import needs
from tests.npr_kernels import implementations
from tests.npr_kernels.implementations import CPU_INSTRUCTION_SETS

# inputs, width, stride: with the identity as shortcut where inputs are 4 width and the stride is 1.
BLOCKS = {
    "identity": (128, 32, 1),
    "identity-wide": (512, 128, 1),
    "project": (64, 64, 1),
    "project-odd-inputs": (5, 32, 1),
    "halve": (96, 64, 2),
}
SIZES = [(1, 1), (1, 9), (4, 4), (5, 3), (7, 33), (37, 29), (2, 130), (130, 2)]


def random_block(inputs: int, width: int, stride: int) -> Bottleneck:
    """A block in evaluation mode with random weights and statistics."""
    block = Bottleneck(inputs, width, stride).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return block.eval()


def random_input(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=BLOCKS)
def block(request) -> Bottleneck:
    return random_block(*BLOCKS[request.param])


def inputs_of(block: Bottleneck) -> int:
    return block.conv1.in_channels


@pytest.fixture(params=CPU_INSTRUCTION_SETS)
def instruction_set(request):
    """Runs the test on one of the CPU's paths."""
    with implementations.instruction_set(request.param):
        yield request.param


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_equals_float64(block, size, instruction_set):
    x = random_input(2, inputs_of(block), *size)
    with torch.no_grad():
        folded = FoldedBottleneck.of(block)
        assert folded.packed is not None
        y, truth = folded(x), block(x.double())
    assert y.shape == truth.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    # Rounding errors of a chain of 9 width products, and what Winograd's transforms multiply them by.
    torch.testing.assert_close(y.double(), truth, rtol=0, atol=3e-5 * float(truth.abs().max()))
    torch.testing.assert_close(folded.reference(x.double()), truth, rtol=0, atol=1e-11 * float(truth.abs().max()))


def test_an_image_alone_in_a_batch_and_on_more_threads(block, instruction_set):
    folded = FoldedBottleneck.of(block)
    x = random_input(5, inputs_of(block), 50, 21)
    threads = torch.get_num_threads()
    together = folded(x)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(folded(x), together)
            alone = torch.cat([folded(x[i : i + 1]) for i in (4, 2, 0)])
            assert torch.equal(alone, together[[4, 2, 0]])
    finally:
        torch.set_num_threads(threads)


@needs.extension
def test_strips_do_not_show(block):
    """A map of several strips, whose rows overlap, equals its parts where those do not reach their borders."""
    folded = FoldedBottleneck.of(block)
    x = random_input(1, inputs_of(block), 200, 8)
    whole = folded(x)
    stride = folded.stride
    for top in (40, 96, 160):  # multiples of Winograd's tile and of the stride
        part = folded(x[:, :, top - 16 : top + 24])
        kept = slice(16 // stride, 32 // stride)
        assert torch.equal(part[:, :, kept], whole[:, :, top // stride : top // stride + 16 // stride])


@needs.extension
def test_into_memory_that_is_there(block):
    folded = FoldedBottleneck.of(block)
    x = random_input(2, inputs_of(block), 9, 14)
    expected = folded(x)
    out = torch.full(folded.shape(x), torch.nan).contiguous(memory_format=torch.channels_last)
    assert folded(x, out) is out
    assert torch.equal(out, expected)
    for wrong in (out.contiguous(), out[:1], out.double()):
        with pytest.raises(RuntimeError, match="out must be float32 of the result's shape"):
            folded(x, wrong)
    if out.shape == x.shape:
        with pytest.raises(RuntimeError, match="out must not overlap x"):
            folded(x, x)


@needs.extension
def test_empty_batch_and_other_layouts(block):
    folded = FoldedBottleneck.of(block)
    assert folded(random_input(0, inputs_of(block), 6, 6)).shape[0] == 0
    x = random_input(2, inputs_of(block), 12, 10)
    assert torch.equal(folded(x.contiguous()), folded(x))
    wide = random_input(2, inputs_of(block), 12, 20)
    assert torch.equal(folded(wide[..., ::2]), folded(wide[..., ::2].contiguous()))


def test_blocks_that_the_op_does_not_cover_run_on_pytorch():
    block = random_block(24, 8, 2)  # 8 channels are no panel
    folded = FoldedBottleneck.of(block)
    assert folded.packed is None
    x = random_input(2, 24, 9, 7)
    torch.testing.assert_close(folded(x).double(), block(x.double()), rtol=1e-4, atol=1e-4)


def test_winograd_points_are_the_convolution():
    """A^T [(G g G^T) * (B^T d B)] A, with the matrices of Lavin and Gray, is the convolution of every 6x6 tile."""
    at = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).double()
    bt = torch.tensor(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ).double()
    d, g = torch.randn(3, 1, 6, 6).double(), torch.randn(2, 1, 3, 3).double()
    points = winograd_points(g).view(1, 2, 6, 6)
    y = at @ (points * (bt @ d @ bt.T)) @ at.T
    torch.testing.assert_close(y, torch.nn.functional.conv2d(d, g), rtol=0, atol=1e-12)


def test_panels():
    weight = torch.randn(2 * PANEL, 5, 9)
    packed = panels(weight)
    assert packed.shape == (2, 9, 5, PANEL)
    assert packed[1, 4, 3, 7] == weight[PANEL + 7, 3, 4]


@needs.extension
def test_refuses_what_does_not_fit():
    reduce, rb, spatial, sb, expand, eb, project = FoldedBottleneck.of(random_block(64, 32, 1)).packed
    x = random_input(1, 64, 8, 8)
    op = torch.ops.npr.bottleneck
    for arguments, message in [
        ((x.double(), reduce, rb, spatial, sb, expand, eb, project, 1), "x must be float32"),
        ((x.contiguous(), reduce, rb, spatial, sb, expand, eb, project, 1), "channels_last"),
        ((x[:, :32].contiguous(memory_format=torch.channels_last), reduce, rb, spatial, sb, expand, eb, project, 1),
         "reduce"),
        ((x, reduce, rb[:16], spatial, sb, expand, eb, project, 1), "bias of reduce"),
        ((x, reduce, rb, spatial[:, :20], sb, expand, eb, project, 1), "spatial"),
        ((x, reduce, rb, spatial, sb, expand, eb, project, 2), "9 taps for stride 2"),
        ((x, reduce, rb, spatial, sb, expand, eb, None, 1), "must have project"),
        ((x, reduce, rb, spatial, sb, expand.double(), eb, project, 1), "expand"),
        ((x, reduce, rb, spatial, sb, expand, eb, project[..., :16], 1), "project"),
        ((x, reduce, rb, spatial, sb, expand, eb, project, 3), "stride must be 1 or 2"),
    ]:  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            op(*arguments)


@needs.extension
def test_opcheck():
    for name in ("identity", "halve"):
        folded = FoldedBottleneck.of(random_block(*BLOCKS[name]))
        x = random_input(2, folded.weights[0].shape[1], 9, 6)
        torch.library.opcheck(torch.ops.npr.bottleneck, (x, *folded.packed, folded.stride))
        torch.library.opcheck(
            torch.ops.npr.bottleneck_out, (x, *folded.packed, folded.stride, torch.empty_like(folded(x)))
        )
