"""The packages that the service needs, and those that ask it."""

import pytest


def needed():
    """Skips a module where one of them is missing."""
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(module, reason=f"needs {module}: pip install 'npr-kernels[serve]'")
    pytest.importorskip("httpx", reason="asks the service with httpx")
