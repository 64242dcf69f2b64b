"""The versions that scores rest on, beside the model and the decoder."""

from __future__ import annotations

import torch

from npr_kernels import __version__


def find_versions() -> dict[str, str]:
    """Of this package and of torch, by their names."""
    return {"npr-kernels": __version__, "torch": torch.__version__}
