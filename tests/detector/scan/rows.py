"""The rows of a scan's folder, and what they say in the words of `npr detect --json`."""

import json
from pathlib import Path


def rows_of(folder):
    """Of all its Parquet files, which must be whole."""
    import pyarrow.parquet as pq

    files = [pq.ParquetFile(path) for path in sorted(Path(folder).glob("*.parquet"))]
    return [row for file in files for row in file.read().to_pylist()]


def as_line(row):
    """What `npr detect --json --facts` says of the row's file, but for what rows leave to the folder's settings."""
    line = {"path": row["path"]}
    if row["error"] is not None:
        line["error"] = row["error"]
    else:
        line |= {
            name: row[name] for name in ("score", "verdict", "width", "height", "sha256", "read", "reasons", "model")
        }
        line["interval"] = [row["low"], row["high"]]
        line |= {} if row["llr"] is None else {"llr": row["llr"]}
    return line | ({} if row["facts"] is None else {"facts": json.loads(row["facts"])})


def told(line):
    """A line of `npr detect --json --facts` without the settings."""
    return {
        name: value
        for name, value in line.items()
        if name not in ("threshold", "exact", "decoder", "versions", "confidence")
    }
