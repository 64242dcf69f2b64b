"""Folded weights, against the layers that they were folded from."""

import pytest
import torch
import torch.nn.functional as F

from detector.data import Preprocessing
from detector.models import NPRDetector
from detector.models.folding import balanced, fold, fold_batch_norm, stem_on_pixels, stem_on_residual
from npr_kernels import reference
from tests.detector.models.original import randomise

PLAIN = [
    *({"anchor": anchor} for anchor in range(4)),
    {"mode": "mean"},
    {"luma": True},
    {"residual": "haar"},
    {"residual": "npr+haar"},
    {"residual": "npr+haar", "luma": True},
]
SIZES = [(32, 48), (31, 45), (30, 45), (33, 46), (2, 2), (3, 5), (2, 7), (4, 3)]


def double_model(**arguments):
    """With constants of its own, as a checkpoint may have."""
    std, scale = tuple(torch.rand(3).add(0.1).tolist()), float(torch.rand(()) + 0.1)
    model = NPRDetector(Preprocessing(std=std, scale=scale), **arguments)
    return randomise(model).double().eval()


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def run_convolution(x, conv):
    x = F.pad(x, (conv.before, conv.after, conv.before, conv.after))
    return F.conv2d(x, conv.weight, conv.bias, conv.stride)


def stem_before_pooling(model, images):
    """Layer by layer, by the specification: residual of floating images, convolution, batch norm."""
    conv = model.conv1
    y = reference.npr_conv2d(
        images.double() / 255, conv.weight, residual=conv.residual, std=conv.std, scale=conv.scale,
        patch=conv.patch, anchor=conv.anchor, mode=conv.mode,
    )  # fmt: skip
    return model.bn1(y)


@pytest.mark.parametrize("arguments", PLAIN, ids=str)
@torch.no_grad()
def test_one_convolution_on_pixels_is_the_stem(rng, arguments):
    model = double_model(**arguments)
    conv = stem_on_pixels(model)
    for height, width in SIZES:
        print(f"{height}x{width}")
        images = random_images(2, 3, height, width)
        expected = stem_before_pooling(model, images)
        pixels = images.double()
        if conv.after:
            pixels = pixels[:, :, : height // 2 * 2, : width // 2 * 2]
        got = run_convolution(pixels, conv)
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-11)

    # A cell of one colour has no residual: its weights sum to zero.
    cells = conv.weight.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum(dim=(3, 5))
    torch.testing.assert_close(cells, torch.zeros_like(cells), rtol=0, atol=1e-14)


@torch.no_grad()
def test_only_the_weights_of_npr_need_no_crop(rng):
    """What `after` says: an odd last row and column do not matter to NPR's window, and do to the Haar band's."""
    images = random_images(1, 3, 17, 23).double()
    for residual in ("npr", "haar"):
        conv = stem_on_pixels(double_model(residual=residual))
        even, odd = run_convolution(images[:, :, :16, :22], conv), run_convolution(images, conv)
        assert even.shape == odd.shape
        assert torch.equal(even, odd) == (conv.after == 0)


@pytest.mark.parametrize("residual", ["npr", "haar", "npr+haar"])
@torch.no_grad()
def test_one_convolution_on_the_integers(rng, residual):
    model = double_model(residual=residual)
    images = random_images(2, 3, 27, 34)
    conv = stem_on_residual(model)
    got = conv.bias.view(-1, 1, 1)
    maps = residual.split("+")
    for name, weight in zip(maps, conv.weight.chunk(len(maps), dim=1), strict=True):
        if name == "npr":
            got = got + F.conv2d(reference.npr_residual(images).double(), weight, stride=2, padding=1)
        else:
            got = got + F.conv2d(reference.haar_residual(images).double(), weight, padding=1)
    torch.testing.assert_close(got, stem_before_pooling(model, images), rtol=0, atol=2e-11)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mode": "max"}, "mode 'max' is no plain convolution"),
        ({"patch": 3}, "patch 3 is no plain convolution"),
        ({"patch": 4, "mode": "mean"}, "patch 4 is no plain convolution"),
    ],
    ids=str,
)
def test_what_is_no_convolution_is_refused(arguments, reason):
    for function in (stem_on_pixels, fold):
        with pytest.raises(ValueError, match=reason):
            function(NPRDetector(**arguments))


@pytest.mark.parametrize("arguments", PLAIN, ids=str)
def test_balanced_weights_pass_no_grey_in_float32(rng, arguments):
    exact = stem_on_pixels(double_model(**arguments)).weight
    exact[0] *= 1e-9
    exact[1] = 0
    exact[2, 0, :2, :2] = torch.tensor([[0.75, 0.0], [0.0, -0.75]])
    weight = balanced(exact)
    assert torch.equal(weight.float().double(), weight)
    assert (weight.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum(dim=(3, 5)) == 0).all()
    largest = exact.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).abs().amax(dim=(3, 5), keepdim=True)
    step = (largest * 3 * 2.0**-22).expand(-1, -1, -1, 2, -1, 2).flatten(4, 5).flatten(2, 3)
    assert ((weight - exact).abs() <= step).all()
    assert (weight[1] == 0).all()
    assert torch.equal(weight[2, 0, :2, :2], exact[2, 0, :2, :2])


def test_the_plain_detector_is_balanced(rng):
    model = randomise(NPRDetector(residual="npr+haar"))
    assert torch.equal(fold(model).stem.weight, balanced(stem_on_pixels(model).weight))


@torch.no_grad()
def test_batch_norm_in_a_convolution(rng):
    conv, norm = torch.nn.Conv2d(5, 7, 3, bias=False), torch.nn.BatchNorm2d(7, eps=0.3)
    layers = randomise(torch.nn.Sequential(conv, norm)).double().eval()
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, *fold_batch_norm(conv.weight, norm)), layers(x), rtol=0, atol=1e-12)


def test_folding_leaves_the_model_alone(rng):
    model = randomise(NPRDetector())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = fold(model)
    assert list(plain.blocks) == [*(f"layer1.{i}" for i in range(3)), *(f"layer2.{i}" for i in range(4))]
    for block in plain.blocks.values():
        block.reduce.weight.zero_()
    plain.weight.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
