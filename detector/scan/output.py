"""The folder of a scan: what its results rest on, and Parquet files of them, each whole as soon as it has its name.

These files are the only record of what is done. A scan that starts in the folder reads their paths and counts; there is
no second record that could disagree with them.

A scan that was killed may leave processes behind for a moment, which would still write files that the next scan does
not know of. So every scan has a number of its own in `_scan.run`, and whoever has it writes a file under a lock that
writers share: the next scan takes the lock for itself, writes its number, and nothing of its predecessor comes after.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from detector.files import whole_file, write_text
from detector.scan.locations import is_uri

SETTINGS, RUN, LOCK = "_scan.json", "_scan.run", "_scan.lock"
"""Names that readers of Parquet folders pass over, for their underscore."""

_PART = re.compile(r"part-([0-9a-f]{16})-[0-9a-f]{32}\.parquet")
_KIND = "scan"
_ERROR = "error"


class OvertakenError(OSError):
    """Another scan has begun in the folder."""


class Output:
    """A scan's folder, held by the process that leads the scan.

    Args:
        folder: made where there is none.
        settings: what the results rest on, by the words that an error names it with.

    Attributes:
        run: the scan's number.
        counts: files by verdict, "error" for those without one, of this scan and those before it.

    Raises:
        ValueError: it is a URI, or holds something else, or results of other settings; nothing of it is changed then.
        OSError: it cannot be written, or another scan does.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, str]) -> None:
        if is_uri(os.fspath(folder)):
            raise ValueError(f"{folder}: results go to a folder that all machines share, not to a store")
        self.folder = Path(folder)
        self.run = secrets.token_hex(8)
        self.counts: Counter[str] = Counter()
        _check(self.folder, settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / LOCK, wait=False)
        try:
            _check(self.folder, settings)  # of a scan that began meanwhile
            if not (self.folder / SETTINGS).exists():
                write_text(self.folder / SETTINGS, json.dumps({"kind": _KIND, **settings}, indent=1) + "\n")
            with _fence(self.folder, alone=True):
                self._say_run(self.run)
                self._sweep()
            for path in parts_of(self.folder):
                self.counts.update(counts_of(_read(path, "verdict")))
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is written in the scan's name from here on."""
        try:
            with _fence(self.folder, alone=True):
                self._say_run("")
                self._sweep()
        finally:
            os.close(self._lock)

    def _say_run(self, run: str) -> None:
        """In place, for a file that is renamed there would not be the locked one."""
        (self.folder / RUN).write_text(run, encoding="utf-8")

    def _sweep(self) -> None:
        """Removes what killed writers left. Under the fence there are no others."""
        for path in self.folder.glob(".part-*.part"):
            path.unlink(missing_ok=True)


def check_shared(folder: Path, run: str) -> None:
    """For a process of the scan with that number, maybe of another machine.

    Raises:
        OSError: the folder is not the scan's there.
    """
    try:
        if (folder / RUN).read_text(encoding="utf-8") == run:
            return
    except FileNotFoundError:
        pass
    raise OSError(f"{folder} is another folder there, or none: --out must be shared by all machines")


def write_part(folder: Path, run: str, table: pa.Table) -> None:
    """Writes a block's results, from any process of the scan with that number; again is the same as once.

    Raises:
        OvertakenError: another scan has begun. OSError: it cannot be written.
    """
    digest = hashlib.sha256("\n".join(table["path"].to_pylist()).encode()).hexdigest()[:32]
    with _fence(folder, alone=False):
        if (folder / RUN).read_text(encoding="utf-8") != run:
            raise OvertakenError(f"{folder}: another scan has begun there")
        with whole_file(folder / f"part-{run}-{digest}.parquet") as part:
            pq.write_table(table, part, compression="zstd")


def paths_done(folder: Path, run: str) -> Iterator[list[str]]:
    """The paths that scans before the one with that number have results of, file by file.

    Those of this one do not count, so that who asks twice is told the same.
    """
    for path in parts_of(folder):
        if (name := _PART.fullmatch(path.name)) and name[1] != run:
            yield _read(path, "path")["path"].to_pylist()


def parts_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name))


def counts_of(table: pa.Table) -> Counter[str]:
    """Files by verdict, "error" for those without one."""
    return Counter(verdict or _ERROR for verdict in table["verdict"].to_pylist())


def _read(path: Path, column: str) -> pa.Table:
    with pq.ParquetFile(path) as file:  # read_table would make columns of folders named KEY=VALUE
        return file.read(columns=[column])


def _check(folder: Path, settings: Mapping[str, str]) -> None:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return
    if SETTINGS not in names:
        if set(names) - {RUN, LOCK, f".{SETTINGS}.part"}:  # which a scan leaves that was killed when it began
            raise ValueError(f"{folder} holds something else than a scan; name another folder")
        return
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if found.pop("kind") != _KIND:
            raise ValueError
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{folder / SETTINGS} is no scan's") from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"{folder}: its results are of another {name}, {found.get(name)}, not {value}; name another folder"
            )


@contextlib.contextmanager
def _fence(folder: Path, *, alone: bool) -> Iterator[None]:
    """In the block are any number of processes that are not alone, or one that is."""
    descriptor = _locked(folder / RUN, shared=not alone, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, *, wait: bool, shared: bool = False) -> int:
    """A descriptor that holds the file, made where there is none, until it is closed.

    Raises:
        OSError: another process holds it, and it is not to be waited for.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"{path.parent}: another scan writes there") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
