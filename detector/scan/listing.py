"""From a command's arguments to blocks of rows: a path each, what is wrong with it, and columns of its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from detector.finding import IMAGE_SUFFIXES, find_paths
from detector.printable import printable
from detector.scan.locations import UnreachableError, files_below, is_uri, suffix_of
from detector.scan.manifests import is_manifest, read_manifest, schema_of
from detector.scan.seen import Seen

_PIECE = 1024
_NO_PATH = "is no path, the manifest has none there"


@dataclass(frozen=True)
class Sources:
    """What is to be scanned.

    Attributes:
        arguments: files, folders and patterns, as :func:`detector.finding.find_paths` takes them; manifests; URIs.
        column: of the manifests, with the paths.
        carried: other columns of theirs, that results have too; null for files of no manifest.
    """

    arguments: tuple[str, ...]
    column: str = "path"
    carried: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def schema(self) -> pa.Schema:
        """Of the rows: path, error (null where a file may be opened), and the carried columns."""
        return pa.schema([("path", pa.string()), ("error", pa.string()), *self.carried])


def find_sources(arguments: Iterable[str], column: str, carried: Iterable[str]) -> Sources:
    """The sources, with the types of the carried columns, from the first manifest.

    Raises:
        ValueError: a manifest has not the columns, or not of the first one's types; or there is none to carry from.
        OSError: a manifest cannot be read.
    """
    arguments, carried = tuple(arguments), tuple(carried)
    schema, first = None, ""
    for path in _named(arguments):
        if not is_manifest(path):
            continue
        found = schema_of(path, [column, *carried])
        kind = found.field(0).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
            raise ValueError(f"{path}: its column {column!r} holds no text, but {kind}")
        found = pa.schema(zip(found.names[1:], found.types[1:], strict=True))
        if schema is None:
            schema, first = found, path
        elif found.types != schema.types:
            raise ValueError(f"{path}: its columns {', '.join(carried)} are of other types than those of {first}")
    if carried and schema is None:
        raise ValueError(f"no manifest is given that could have the columns {', '.join(carried)}")
    return Sources(arguments, column, schema or pa.schema([]))


def count_rows(sources: Sources) -> int:
    return sum(piece.num_rows for piece in _pieces(sources))


def blocks_of(sources: Sources, size: int, seen: Seen) -> Iterator[pa.Table]:
    """The rows of paths that were not seen, each path once, in blocks of that size; the last one may be smaller."""
    waiting: list[pa.Table] = []
    rows = 0
    for piece in _pieces(sources):
        new = piece.filter(pa.array(seen.add(piece["path"].to_pylist())))
        waiting.append(new)
        rows += new.num_rows
        if rows >= size:
            table = pa.concat_tables(waiting).combine_chunks()
            whole = rows // size * size
            yield from (table.slice(start, size) for start in range(0, whole, size))
            waiting, rows = [table.slice(whole)], rows - whole
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _named(arguments: Iterable[str]) -> Iterator[str]:
    """What the arguments name, but for folders, which are not looked into."""
    for argument in arguments:
        if is_uri(argument) or os.path.isdir(argument):
            yield argument
        else:
            yield from (path for path, error in find_paths([argument]) if error is None)


def _pieces(sources: Sources) -> Iterator[pa.Table]:
    waiting: list[tuple[str, str | None]] = []
    for found in _found(sources.arguments):
        manifest = found[1] is None and is_manifest(found[0])
        if waiting and (manifest or len(waiting) >= _PIECE):
            yield _piece(waiting, sources.schema)
            waiting = []
        if manifest:
            for table in read_manifest(found[0], [sources.column, *sources.carried.names]):
                yield _of_manifest(table, sources.schema)
        else:
            waiting.append(found)
    if waiting:
        yield _piece(waiting, sources.schema)


def _found(arguments: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Paths, each with what is wrong with it."""
    for argument in arguments:
        if is_uri(argument):
            yield from _of_store(argument)
            continue
        for path, error in find_paths([argument]):
            try:
                path.encode()
            except UnicodeEncodeError:
                path, error = printable(path), "has a name that is no UTF-8, the only text that Parquet holds"
            yield path, error


def _of_store(uri: str) -> Iterator[tuple[str, str | None]]:
    try:
        empty = True
        for found in files_below(uri):
            if found == uri or suffix_of(found) in IMAGE_SUFFIXES:
                empty = False
                yield found, None
        if empty:
            yield uri, "is a folder without images"
    except UnreachableError as error:
        yield uri, str(error)


def _piece(rows: list[tuple[str, str | None]], schema: pa.Schema) -> pa.Table:
    paths, errors = zip(*rows, strict=True)
    carried = [pa.nulls(len(rows), kind) for kind in schema.types[2:]]
    return pa.table([pa.array(paths, pa.string()), pa.array(errors, pa.string()), *carried], schema=schema)


def _of_manifest(table: pa.Table, schema: pa.Schema) -> pa.Table:
    paths = table.column(0).cast(pa.string()).fill_null("")
    errors = pa.array([None if path else _NO_PATH for path in paths.to_pylist()], pa.string())
    carried = [column.cast(kind) for column, kind in zip(table.columns[1:], schema.types[2:], strict=True)]
    return pa.table([paths, errors, *carried], schema=schema)
