import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from detector.data import Preprocessing
from detector.models import CheckpointError, CNNDetector, load_checkpoint, load_imagenet_weights, save_checkpoint
from detector.models.inference import logits
from tests.detector.models.original import Block, convolution, normalise, randomise


class ResNet50(nn.Module):
    """He et al. 2016 with the stride on the 3x3 convolutions, in plain PyTorch; fed with normalised images."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 64, 7, 2), nn.BatchNorm2d(64)
        inputs = 64
        for number, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            layer = []
            for stride in strides:
                layer.append(Block(inputs, width, stride))
                inputs = 4 * width
            setattr(self, f"layer{number}", nn.Sequential(*layer))
        self.fc = nn.Linear(2048, 1)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def random_images(*shape):
    """Noise of another contrast in every image, so that logits differ."""
    contrast = torch.linspace(0.1, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return (torch.randint(0, 256, shape) * contrast).to(torch.uint8)


@pytest.fixture(scope="module")
def pair():
    """Both networks with the same random weights, under which no feature's logit is far above 1."""
    original, model = randomise(ResNet50()).eval(), CNNDetector()
    model.load_state_dict(original.state_dict())
    with torch.no_grad():
        features = model.eval().features(random_images(1, 3, 64, 64))
        original.fc.weight /= torch.einsum("nchw,oc->nohw", features, original.fc.weight).abs().max()
    model.load_state_dict(original.state_dict())
    return original, model.eval()


def normalise_whole(images):
    """As the original normalises: no size is cropped to an even one."""
    height, width = images.shape[2:]
    return normalise(F.pad(images, (0, width % 2, 0, height % 2)))[:, :, :height, :width]


def test_size_and_names():
    model, original = CNNDetector(), ResNet50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_510_081
    assert [(name, value.shape) for name, value in model.state_dict().items()] == [
        (name, value.shape) for name, value in original.state_dict().items()
    ]


@pytest.mark.parametrize("size", [(224, 224), (225, 223), (97, 131), (31, 64), (2, 3)], ids=lambda s: f"{s[0]}x{s[1]}")
@torch.no_grad()
def test_equal_logits(pair, size):
    original, model = pair
    images = random_images(2, 3, *size)
    expected = original(normalise_whole(images))
    assert expected.abs().max() > 1e-4  # ten times what is allowed below
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    if max(size) > 200:
        return
    channels_last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(channels_last), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(images / 255), expected, rtol=0, atol=1e-5)


def test_preprocessing_constants_reach_the_input(pair):
    _, model = pair
    other = CNNDetector(Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)))
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 40, 40)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    with torch.no_grad():
        same = (images - mean) / std * model.std + model.mean
        torch.testing.assert_close(other.eval()(images), model(same), rtol=0, atol=1e-5)


def test_empty_batch(pair):
    assert pair[1](random_images(0, 3, 32, 32)).shape == (0, 1)


@pytest.mark.parametrize("side", [-1, 1])
@torch.no_grad()
def test_features_see_as_far_as_their_reach(pair, side):
    """What a feature sees, a pixel that is no number makes no number."""
    model, feature = pair[1], 7
    for beyond in (0, 1):
        images = torch.rand(1, 3, 480, 33)
        images[:, :, 32 * feature + side * (model.feature_reach + beyond)] = torch.nan
        seen = model.features(images)[0, :, feature].isnan().any().item()
        assert seen is (beyond == 0)


def test_tiles_give_the_uncut_logit(pair):
    model = pair[1]
    images = random_images(1, 3, 545, 33)
    torch.testing.assert_close(
        logits(model, images, max_pixels=2**15), logits(model, images, max_pixels=2**30), rtol=0, atol=1e-5
    )


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


def assert_same_weights(model, other):
    got, wanted = model.state_dict(), other.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_checkpoint_round_trip(tmp_path, pair):
    model = CNNDetector(Preprocessing(crop=64, mean=(0.1, 0.2, 0.3)))
    model.load_state_dict(pair[0].state_dict())
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert isinstance(loaded, CNNDetector)
    assert not loaded.training
    assert loaded.preprocessing == model.preprocessing
    assert_same_weights(loaded, model)
    assert torch.equal(loaded.mean, model.mean)


def test_original_checkpoint(tmp_path, pair):
    original = pair[0]
    torch.save({"model": original.state_dict(), "optimizer": {}, "total_steps": 3}, tmp_path / "blur_jpg_prob0.5.pth")
    loaded = load_checkpoint(tmp_path / "blur_jpg_prob0.5.pth")
    assert isinstance(loaded, CNNDetector)
    assert loaded.preprocessing == Preprocessing(policy="centre", crop=224)
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), original(normalise(images)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_imagenet_weights(tmp_path, pair, suffix):
    state = pair[0].state_dict() | {"fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}
    path = tmp_path / f"resnet50.{suffix}"
    (torch.save if suffix == "pth" else save_file)(state, path)
    model = CNNDetector()
    load_imagenet_weights(model, path)
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, state[name]), name
    assert model.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.fc.bias.abs().max() < 0.03


def test_imagenet_weights_of_another_network(tmp_path, pair):
    state = {name: value for name, value in pair[0].state_dict().items() if not name.startswith("layer4")}
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet\.pth: not a checkpoint of CNNDetector; missing: layer4"):
        load_imagenet_weights(CNNDetector(), tmp_path / "resnet.pth")
