"""What `make gpu` needs of the Python that runs it: said before the build fails in other words.

python -m benchmarks.gpu.needs
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata

NEEDS = {
    "torch": (2, 11), "setuptools": (77,), "pybind11": (3,), "ninja": (1, 11), "numpy": (1, 26), "pillow": (10, 3),
    "safetensors": (0, 4), "rich": (13, 7),
}  # fmt: skip
"""Without which nothing is built or measured, and from which version on."""

FURTHER = {
    "triton": "its kernels, and torch.compile, are not measured",
    "pytest": "the tests do not run",
    "pytest-xdist": "a test that leaves the device unusable ends the tests",
}


def missing(version: Callable[[str], str] = metadata.version) -> tuple[list[str], list[str]]:
    """What cannot be done without, and what can, each with what comes of it."""

    def found(package: str) -> str | None:
        try:
            return version(package)
        except metadata.PackageNotFoundError:
            return None

    needed = []
    for package, least in NEEDS.items():
        have = found(package)
        wanted = ".".join(map(str, least))
        if have is None:
            needed.append(f"{package}>={wanted} is needed, and not installed")
        elif tuple(int(part) for part in re.findall(r"\d+", have)[: len(least)]) < least:
            needed.append(f"{package}>={wanted} is needed, this is {have}")
    return needed, [
        f"{package} is not installed: {without}" for package, without in FURTHER.items() if not found(package)
    ]


def main() -> int:
    needed, further = missing()
    for line in [*needed, *further]:
        print(f"needs: {line}", file=sys.stderr)
    return int(bool(needed))


if __name__ == "__main__":
    sys.exit(main())
