"""Detectors, each with the preprocessing that it was trained for, and their checkpoints."""

from detector.models.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_imagenet_weights,
    read_metadata,
    save_calibrated,
    save_checkpoint,
)
from detector.models.cnn_detector import CNNDetector
from detector.models.detector import Detector
from detector.models.npr_detector import NPRDetector
from detector.models.safe_detector import SAFEDetector

__all__ = [
    "CNNDetector",
    "CheckpointError",
    "Detector",
    "NPRDetector",
    "SAFEDetector",
    "load_checkpoint",
    "load_imagenet_weights",
    "read_metadata",
    "save_calibrated",
    "save_checkpoint",
]
