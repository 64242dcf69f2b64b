"""Manifests: Parquet and CSV files with a column of paths, and others that results carry on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from detector.scan.locations import UnreachableError, opened, suffix_of

SUFFIXES = (".parquet", ".csv")

_ROWS = 2**14


def is_manifest(path: str) -> bool:
    return suffix_of(path) in SUFFIXES


def read_manifest(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Its columns in their order, piece by piece. Those of CSV are text, whatever they look like.

    Raises:
        ValueError: it has no such column, or is damaged. OSError: it cannot be read.
    """
    try:
        with opened(path) as source:
            if suffix_of(path) == ".csv":
                with _open_csv(path, source, columns) as reader:
                    yield from (pa.table(batch) for batch in reader)
                return
            file = pq.ParquetFile(source)
            _check(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
                yield pa.table(batch).select(list(columns))
    except UnreachableError as error:
        raise OSError(f"{path} {error}") from error
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error


def schema_of(path: str, columns: Sequence[str]) -> pa.Schema:
    """Of its columns, from its beginning.

    Raises:
        ValueError, OSError: as :func:`read_manifest`.
    """
    if suffix_of(path) == ".csv":
        for _ in read_manifest(path, columns):
            break
        return pa.schema([(name, pa.string()) for name in columns])
    try:
        with opened(path) as source:
            schema = pq.read_schema(source)
    except UnreachableError as error:
        raise OSError(f"{path} {error}") from error
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error
    _check(path, schema.names, columns)
    return pa.schema([schema.field(name).remove_metadata() for name in columns])


def _open_csv(path: str, source: Any, columns: Sequence[str]) -> Any:
    convert = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns))
    try:
        return pa.csv.open_csv(
            source, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=convert
        )
    except pa.ArrowKeyError as error:
        raise ValueError(f"{path}: {str(error).strip(chr(39))}") from error


def _check(path: str, names: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            raise ValueError(f"{path} has no column {column!r}; it has {', '.join(names)}")
