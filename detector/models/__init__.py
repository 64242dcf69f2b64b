"""Detectors, each with the preprocessing that it was trained for, and their checkpoints."""

from detector.models.checkpoint import CheckpointError, load_checkpoint, read_metadata, save_checkpoint
from detector.models.npr_detector import NPRDetector

__all__ = ["CheckpointError", "NPRDetector", "load_checkpoint", "read_metadata", "save_checkpoint"]
