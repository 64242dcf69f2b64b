"""The packages that scans need."""

import pytest


def needed(*modules):
    """The modules; skips the module that asks where one of them, or what it imports, is missing."""
    return [
        pytest.importorskip(module, reason=f"needs {module}: pip install 'npr-kernels[scan]'") for module in modules
    ]
