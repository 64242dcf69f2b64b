"""A wheel built once for all tests of the build, from the source distribution, as an installer would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The finished command, its output joined in stdout; a failure shows all of it."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} failed with {done.returncode}:\n{done.stdout}")
    return done


def build_wheel(source: Path, out: Path, **environment: str) -> tuple[Path, str]:
    """The wheel of a source tree, without isolation, and what was printed."""
    done = run(
        sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps", "--wheel-dir", out, source,
        cwd=source, **environment,
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    return wheel, done.stdout


def unpack(wheel: Path, to: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(to)
    return to


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, so that building leaves no trace in it."""
    for module in ("setuptools", "pybind11", "ninja"):
        pytest.importorskip(module)
    copy = tmp_path_factory.mktemp("repository") / "npr-kernels"
    made = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "*.so")
    made_at_the_top = {"build", "dist", "demo", "runs"}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return set(made(folder, names)) | (made_at_the_top if Path(folder) == ROOT else set())

    return Path(shutil.copytree(ROOT, copy, ignore=ignored))


@pytest.fixture(scope="session")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "setup.py", "-q", "sdist", "--formats=zip", "--dist-dir", out, cwd=source)
    (archive,) = out.glob("*.zip")
    return archive


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution; where nvcc is, for one GPU target."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    unpacked = unpack(sdist, tmp_path_factory.mktemp("unpacked"))
    (tree,) = unpacked.iterdir()
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"), TORCH_CUDA_ARCH_LIST="9.0", NPR_CUDA="")[0]
