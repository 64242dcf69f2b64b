"""What the tests of commands share."""

import pytest
import torch

from detector.data import Preprocessing
from detector.models import NPRDetector, save_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of an untrained NPRDetector."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_checkpoint(path, NPRDetector(Preprocessing(crop=16)))
    return path
