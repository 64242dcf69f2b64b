"""The packages that scans need."""

import pytest


def needed():
    """Skips a module where one of them is missing."""
    for module in ("pyarrow", "ray.data"):
        pytest.importorskip(module, reason=f"needs {module}: pip install 'npr-kernels[scan]'")
