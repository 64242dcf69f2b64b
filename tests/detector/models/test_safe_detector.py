import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from detector.cli import main
from detector.data import Preprocessing
from detector.explain import explain
from detector.models import CheckpointError, NPRDetector, SAFEDetector, load_checkpoint, read_metadata, save_checkpoint
from detector.models.inference import logits, windows
from detector.models.safe_detector import diagonal_band, one_logit
from tests.detector.models.original import Block, convolution, randomise
from tests.detector.models.test_checkpoint import Exploit, rewrite

# The high-pass decomposition filter of bior1.3; it has two taps and is padded to the low-pass filter's six.
HIGH = np.array([0, 0, -1, 1, 0, 0]) / np.sqrt(2)

SIZES = [(256, 256), (97, 131), (64, 33), (7, 5), (4, 4), (3, 2), (1, 6)]


def highest_band(x):
    """One level of the discrete wavelet transform: mirror, convolve in both directions, keep every second value."""
    margins, kept = [], []
    for side in x.shape[2:]:
        outputs = (side + len(HIGH) - 1) // 2
        margin = 2 * (outputs - 1) - side + len(HIGH)
        margins.append((margin // 2, (margin + 1) // 2))
        kept.append(outputs)
    mirrored = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *margins], mode="symmetric"))
    kernel = torch.from_numpy(np.outer(HIGH[::-1], HIGH[::-1])).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    band = F.conv2d(mirrored, kernel, stride=2, groups=x.shape[1])
    assert list(band.shape[2:]) == kept
    return band


def interpolation(size, wanted):
    """[wanted, size]: a triangle around each wanted pixel's centre, as wide as the coarser of both grids."""
    ratio = size / wanted
    centres = (np.arange(wanted)[:, None] + 0.5) * ratio
    weights = np.maximum(1 - np.abs(np.arange(size) + 0.5 - centres) / max(ratio, 1), 0)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True))


def resized(x, height, width):
    rows, columns = interpolation(x.shape[2], height).to(x.dtype), interpolation(x.shape[3], width).to(x.dtype)
    return torch.einsum("hi,ncij,wj->nchw", rows, x, columns)


class Original(nn.Module):
    """SAFE's network in plain PyTorch, fed with images in 0..1; two outputs, real and generated."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 64, 3, 2), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*[Block(64 if i == 0 else 256, 64, 1) for i in range(3)])
        self.layer2 = nn.Sequential(*[Block(256 if i == 0 else 512, 128, 2 if i == 0 else 1) for i in range(4)])
        self.fc1 = nn.Linear(512, 2)

    def forward(self, x):
        x = resized(highest_band(x), *x.shape[2:])
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        return self.fc1(self.layer2(self.layer1(x)).flatten(2).mean(2))

    def logits(self, x):
        """Of being generated: the logarithm of softmax's odds."""
        probability = self(x).log_softmax(1)
        return probability[:, 1:] - probability[:, :1]


def random_images(*shape):
    """Noise of another contrast in every image, so that logits differ."""
    contrast = torch.linspace(0.1, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return (torch.randint(0, 256, shape) * contrast).to(torch.uint8)


@pytest.fixture
def original():
    return randomise(Original()).eval()


@pytest.fixture
def pair(original):
    model = SAFEDetector()
    model.load_state_dict(one_logit(original.state_dict()))
    return original, model.eval()


def trainers_file(state):
    """What the original's trainer writes beside the weights."""
    arguments = argparse.Namespace(model="SAFE", input_size=256, lr=None, betas=[0.9, 0.999], resume="a.pth", eval=True)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.rand(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {"model": state, "optimizer": optimizer, "epoch": "best", "scaler": {"scale": 65536.0}, "args": arguments}


def test_size_and_names():
    model, original = SAFEDetector(), Original()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_437_761
    assert [(name, value.shape) for name, value in model.state_dict().items()] == [
        (name, value.shape) for name, value in one_logit(original.state_dict()).items()
    ]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_band_is_the_wavelets(size):
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    band = diagonal_band(images)
    assert band.shape == (2, 3, (size[0] + 5) // 2, (size[1] + 5) // 2)
    torch.testing.assert_close(band, highest_band(images), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_band_is_pywavelets(size):
    pywt = pytest.importorskip("pywt", reason="PyWavelets is not installed")
    image = np.random.default_rng().random(size)
    _, (_, _, diagonal) = pywt.dwt2(image, "bior1.3", mode="symmetric")
    np.testing.assert_allclose(diagonal_band(torch.from_numpy(image)[None, None])[0, 0], diagonal, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@torch.no_grad()
def test_equal_logits(pair, size):
    original, model = pair
    images = random_images(2, 3, *size)
    expected = original.double().logits(images.double() / 255)
    torch.testing.assert_close(model(images).double(), expected, rtol=0, atol=1e-4)
    exact = SAFEDetector().double().eval()
    exact.load_state_dict(one_logit(original.state_dict()))
    torch.testing.assert_close(exact(images), expected, rtol=0, atol=1e-10)
    if max(size) > 200:
        return
    for variant in (images.to(memory_format=torch.channels_last), images / 255, images.mT.contiguous().mT):
        torch.testing.assert_close(model(variant).double(), expected, rtol=0, atol=1e-4)


def test_equal_gradients(pair):
    original, _ = pair
    original.double().train()
    model = SAFEDetector().double().train()
    model.load_state_dict(one_logit(original.state_dict()))
    images = random_images(4, 3, 41, 36)
    original.logits(images.double() / 255).square().sum().backward()
    model(images).square().sum().backward()
    for (name, got), wanted in zip(model.named_parameters(), original.parameters(), strict=True):
        wanted = wanted.grad[1:] if name.startswith("fc1") else wanted.grad
        scale = wanted.abs().max().item()
        torch.testing.assert_close(got.grad, wanted, rtol=1e-6, atol=1e-6 * scale, msg=name)


@torch.no_grad()
def test_it_is_another_network_than_npr_on_the_haar_residual(pair):
    _, model = pair
    haar = NPRDetector(SAFEDetector.original_preprocessing, residual="haar")
    haar.load_state_dict(model.state_dict())
    # Logits of one image are often within 1e-2 of each other by chance, and the same network's within 1e-5.
    images = random_images(10, 3, 64, 64)
    assert (haar.eval()(images) - model(images)).abs().max() > 1e-3


def test_empty_batch(pair):
    assert pair[1](random_images(0, 3, 32, 32)).shape == (0, 1)


@torch.no_grad()
def test_preprocessing_constants_reach_the_band(pair):
    _, model = pair
    other = SAFEDetector(Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0), scale=0.5))
    other.load_state_dict(model.state_dict())
    other.conv1.weight.mul_(torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1) / 0.5)
    images = random_images(2, 3, 40, 33)
    torch.testing.assert_close(other.eval()(images), model(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "kind", "match"),
    [
        ([[1]], TypeError, "images must be a Tensor, got list"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, "uint8 or floating, got torch.int64"),
        (torch.zeros(3, 8, 8), ValueError, r"\[N, 3, H, W\].* got \[3, 8, 8\]"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"got \[1, 1, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), ValueError, r"got \[1, 3, 0, 8\]"),
    ],
)
def test_wrong_input(pair, images, kind, match):
    with pytest.raises(kind, match=match):
        pair[1](images)


@pytest.mark.parametrize("size", [(161, 130), (41, 257)], ids=str)
def test_large_images_go_through_whole(pair, size):
    """What a part of the image gives are not the whole image's features, so nothing is cut however small the limit."""
    _, model = pair
    (window,) = windows(model, *size, max_pixels=64**2)
    assert (window.rows, window.columns) == (slice(0, size[0]), slice(0, size[1]))
    images = random_images(2, 3, *size)
    torch.testing.assert_close(
        logits(model, images, max_pixels=64**2), logits(model, images, max_pixels=2**30), rtol=0, atol=1e-5
    )
    explanation = explain(model, images[0], max_pixels=64**2)
    assert explanation.logit == pytest.approx(logits(model, images[:1]).item(), abs=1e-4)
    assert explanation.activation.shape == (-(-size[0] // 8), -(-size[1] // 8))
    assert (explanation.saliency > 0).any()


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(lambda s: s, "module."), (lambda s: {"model": s}, ""), (trainers_file, "")],
    ids=["bare, parallel", "model", "trainer"],
)
@torch.no_grad()
def test_original_checkpoint(tmp_path, original, wrap, prefix):
    path = tmp_path / "checkpoint-best.pth"
    torch.save(wrap({prefix + name: value for name, value in original.state_dict().items()}), path)
    model = load_checkpoint(path)
    assert isinstance(model, SAFEDetector)
    assert not model.training
    assert model.preprocessing.policy == "centre"
    assert model.preprocessing.crop == 256
    view = model.preprocessing.test_view(random_images(1, 3, 300, 281)[0])[None]
    assert view.shape == (1, 3, 256, 256)
    assert model(view).sigmoid().item() == pytest.approx(original(view / 255).softmax(1)[0, 1].item(), abs=1e-4)


def test_bare_safetensors(tmp_path, original):
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    assert isinstance(load_checkpoint(tmp_path / "w.safetensors"), SAFEDetector)


def test_arguments_beside_the_weights_execute_nothing(tmp_path, original):
    path, witness = tmp_path / "evil.pth", tmp_path / "executed"
    content = trainers_file(original.state_dict())
    content["args"].device = Exploit(witness)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused, because .*could execute code"):
        load_checkpoint(path)
    assert not witness.exists()


@torch.no_grad()
def test_round_trip(tmp_path, pair, capsys):
    _, model = pair
    model.threshold = 0.25
    path = tmp_path / "safe.safetensors"
    save_checkpoint(path, model)
    loaded = load_checkpoint(path)
    assert isinstance(loaded, SAFEDetector)
    assert loaded.preprocessing == model.preprocessing
    assert loaded.threshold == 0.25
    images = random_images(2, 3, 50, 41)
    assert torch.equal(loaded(images), model(images))
    assert read_metadata(path)["architecture"] == {"name": "SAFEDetector"}
    assert main(["info", "--model", str(path)]) == 0
    page = capsys.readouterr().out
    assert "- Architecture: SAFEDetector\n" in page
    assert "policy centre, crop 256" in page


def test_a_residual_is_not_safes_to_choose(tmp_path, pair):
    path = tmp_path / "safe.safetensors"
    save_checkpoint(path, pair[1])
    rewrite(path, lambda architecture: architecture.update(residual="haar"))
    with pytest.raises(CheckpointError, match=r"safe\.safetensors: its metadata .*SAFEDetector.*'residual'"):
        load_checkpoint(path)


def test_safes_weights_are_no_npr_detectors(tmp_path, original):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, NPRDetector(residual="haar"))
    with safe_open(path, framework="pt") as file:
        strings = file.metadata()
    save_file(original.state_dict(), path, strings)
    wanted = r"not a checkpoint of NPRDetector; .*fc1\.weight \[2, 512\] instead of \[1, 512\]"
    with pytest.raises(CheckpointError, match=wanted):
        load_checkpoint(path)


def test_mismatches_are_named(tmp_path, original):
    state = original.state_dict()
    del state["fc1.bias"]
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "w.pth")
    message = str(error.value)
    assert "not a checkpoint of SAFEDetector; missing: fc1.bias" in message
    assert "conv1.weight [64, 3, 7, 7] instead of [64, 3, 3, 3]" in message
