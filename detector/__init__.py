"""Detectors of generated images: models, data, training, evaluation and the command `npr`."""
