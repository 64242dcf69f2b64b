"""`npr periodicity`."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detector.cli import main
from detector.data import Preprocessing
from detector.models import CNNDetector, NPRDetector, load_checkpoint, read_metadata, save_checkpoint


@pytest.fixture
def data(tmp_path, rng):
    """Noise, in the fakes of which odd columns are stronger."""
    for split in ("train", "val"):
        for label, gain in (("0_real", 1.0), ("1_fake", 1.6)):
            folder = tmp_path / "data" / split / "class" / label
            folder.mkdir(parents=True)
            strength = np.where(np.arange(150) % 2, gain, 1.0)
            for number in range(5):
                pixels = 128 + rng.normal(0, 20, (140, 150, 3)) * strength[None, :, None]
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def network(tmp_path, seed):
    torch.manual_seed(seed)
    model = NPRDetector(Preprocessing(policy="native", crop=32), residual="haar")
    model.threshold = 0.7
    with torch.no_grad():
        model.fc1.weight.mul_(1e-3)  # a network that says next to nothing
    save_checkpoint(tmp_path / "best.safetensors", model, recipe={"name": "x"}, epoch=3)
    return tmp_path / "best.safetensors"


def test_it_adds_and_says_what_it_did(data, network, tmp_path, capsys):
    out = tmp_path / "both.safetensors"
    arguments = ["periodicity", str(network), "--data", str(data), "--out", str(out), "--deliveries", "1"]
    assert main([*arguments, "--json", "--seed", "5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["share"] == 0.5
    assert result["seed"] == 5
    assert result["both"] == 1
    both, before = load_checkpoint(out), load_checkpoint(network)
    assert torch.equal(both.classifier.weight, before.classifier.weight * 0.5)
    assert torch.equal(both.layer2[0].conv1.weight, before.layer2[0].conv1.weight)
    assert both.threshold == 0.5
    metadata = read_metadata(out)
    assert metadata["recipe"] == {"name": "x"}
    assert metadata["epoch"] == 3
    assert metadata["periodicity"]["seed"] == 5
    assert main(arguments) == 0
    assert "now 100.0%" in capsys.readouterr().err


def test_what_cannot_be_done_is_one_line(data, network, tmp_path, capsys):
    out = tmp_path / "out.safetensors"

    def refused(weights, message, folder=data, target=out):
        assert main(["periodicity", str(weights), "--data", str(folder), "--out", str(target)]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
        assert not out.exists()

    save_checkpoint(tmp_path / "cnn.safetensors", CNNDetector())
    refused(tmp_path / "cnn.safetensors", "a CNNDetector, and only an NPRDetector")
    save_checkpoint(tmp_path / "with.safetensors", NPRDetector(periodicity=True))
    refused(tmp_path / "with.safetensors", "reads periodicity already")
    refused(network, "does not exist", folder=tmp_path / "nowhere")
    refused(network, "nowhere", target=tmp_path / "nowhere" / "x.safetensors")
