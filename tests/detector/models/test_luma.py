"""A first convolution that is held to luma: its proportions, its start, its training and its checkpoints."""

import pytest
import torch

from detector.models import NPRDetector, load_checkpoint, save_checkpoint
from detector.models.luma import LUMA
from tests.detector.models.original import randomise

RESIDUALS = ["npr", "haar", "npr+haar"]


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def assert_proportional(weight):
    """Every map's red, green and blue kernels, each divided by its share, are one kernel."""
    planes = weight.detach().double().unflatten(1, (-1, 3)) / torch.tensor(LUMA).double().view(3, 1, 1)
    assert planes.abs().max() > 0
    for channel in (1, 2):
        torch.testing.assert_close(planes[:, :, channel], planes[:, :, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_training_keeps_the_proportions(residual):
    model = NPRDetector(residual=residual, luma=True).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.conv1.weight.detach().clone()
    assert_proportional(before)
    for _ in range(2):
        optimiser.zero_grad()
        model(random_images(4, 3, 24, 24)).square().sum().backward()
        optimiser.step()
    assert (model.conv1.weight - before).abs().max() > 1e-3
    assert_proportional(model.conv1.weight)


@pytest.mark.parametrize("residual", RESIDUALS)
@torch.no_grad()
def test_it_is_the_free_network_with_those_weights(residual):
    model = randomise(NPRDetector(residual=residual, luma=True)).eval()
    free = NPRDetector(residual=residual).eval()
    state = model.state_dict()
    del state["conv1.parametrizations.weight.original"]
    free.load_state_dict(state | {"conv1.weight": model.conv1.weight})
    images = random_images(3, 3, 31, 44)
    torch.testing.assert_close(model(images), free(images), rtol=0, atol=1e-6)


def test_it_starts_from_the_nearest_weights(seed):
    """The distance to the free start is orthogonal to every weight of those proportions."""
    torch.manual_seed(seed)
    free = NPRDetector(residual="npr+haar").conv1.weight.detach().double()
    torch.manual_seed(seed)
    held = NPRDetector(residual="npr+haar", luma=True).conv1.weight.detach().double()
    left = (free - held).unflatten(1, (2, 3)) * torch.tensor(LUMA).double().view(3, 1, 1)
    assert left.sum(dim=2).abs().max() < 1e-6
    assert (free - held).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_checkpoints(tmp_path, dtype):
    model = randomise(NPRDetector(residual="haar", luma=True)).eval()
    assert sum(parameter.numel() for parameter in model.conv1.parameters()) == 64 * 9
    save_checkpoint(tmp_path / "a.safetensors", model, dtype=dtype)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.architecture == model.architecture
    assert loaded.architecture["luma"] is True
    assert "luma" not in NPRDetector().architecture, "checkpoints of others do not change"
    assert_proportional(loaded.conv1.weight)
    rounding = 0 if dtype is None else 2**-11
    wanted = model.conv1.weight.detach()
    assert torch.all((loaded.conv1.weight - wanted).abs() <= 1.01 * rounding * wanted.abs() + rounding * 2**-13)
