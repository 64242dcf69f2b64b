"""Compiling for tests: once for each state of the sources, in as many test processes as there are."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cached(name: str, sources: Iterable[Path], options: object, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` filled when the sources and options were last as they are now.

    It lies in build/, which git ignores. One process makes it while others that want it wait.
    """
    digest = hashlib.sha256(repr(options).encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = ROOT / "build" / name / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(folder)
            done.touch()
    return folder


def run(command: list[str]) -> str:
    """What the command printed; RuntimeError with it if the command failed."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}")
    return result.stdout


def run_all(commands: list[list[str]]) -> list[str]:
    """Likewise for several commands, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, commands))
