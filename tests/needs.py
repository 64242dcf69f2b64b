"""What some tests need and not every tree has, in one place: the built extension."""

from __future__ import annotations

import pytest

from npr_kernels.backends import native

REASON = f"needs the built extension: pip install -e . ({native.unavailable_reason('cpu')})"

extension = pytest.mark.skipif(native.extension is None, reason=REASON)
"""Marks tests of what the extension's kernels do and the PyTorch reference does not; what both do is tested on both."""

facts = pytest.mark.skipif(
    native.facts is None, reason="needs the facts of the extension for this Python: pip install -e ."
)
"""Marks tests of what is measured with the extension's facts."""


def require_extension() -> None:
    """The same, for fixtures."""
    if native.extension is None:
        pytest.skip(REASON)


def besides_fallback(stderr: str) -> str:
    """What a command wrote on standard error, without the warning that everything runs on the reference where there is
    no extension."""
    if native.extension is not None:
        return stderr
    return "".join(line for line in stderr.splitlines(True) if "runs on the PyTorch reference" not in line)
