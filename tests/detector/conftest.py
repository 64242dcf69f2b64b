"""What tests of several commands begin with."""

import pytest
import torch

from detector.data import Preprocessing
from detector.models import NPRDetector, save_checkpoint


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A checkpoint of an untrained NPRDetector."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    model = NPRDetector(Preprocessing(crop=16))
    with torch.no_grad():
        model.classifier.bias += 3  # far from the threshold, so that large images are read in part
    save_checkpoint(path, model)
    return path
