"""Folders that appear whole or not at all."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """An empty folder to fill in the target's place; it becomes the target when the block ends without an exception.

    Until then it lies beside the target, in a hidden folder `.NAME.RANDOM.tmp`. Such a folder that a killed process
    left is removed by the next one that makes the target. One of a living process is not touched: it is locked, and the
    lock ends with the process (where the system has no such locks, nothing is removed).

    Args:
        target: does not exist or is an empty folder; its parents are made where they are missing.
        replace: it may be there; it is removed once its successor is complete.

    Raises:
        OSError: the target cannot be written.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    folder, lock = _make_locked(target)
    try:
        new = folder / "new"
        new.mkdir()
        yield new
        if replace and target.exists():
            target.rename(folder / "old")
        new.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked(target: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):  # another process took it for an abandoned one
            continue
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _remove_abandoned(target: Path) -> None:
    """Removes the folders of processes that are no more."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.tmp")
    for folder in target.parent.iterdir():
        if not name.fullmatch(folder.name) or not folder.is_dir():
            continue
        try:
            lock = _lock(folder)
        except OSError:  # somebody's, or gone
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed; None where the system has no such locks.

    Raises:
        BlockingIOError: another process holds it. FileNotFoundError: it is gone.
    """
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # of file systems without locks
        os.close(descriptor)
        return None
    return descriptor
