"""Blocks of paths to tables of results: what an actor of a scan holds and does. Knows nothing of Ray."""

from __future__ import annotations

import json
import os
import platform
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from detector.data import Admit, Preprocessing, find_decoder, read_ahead
from detector.detection import Content, Detection, detect
from detector.facts import Facts, read_facts
from detector.files import sha256_of
from detector.models import load_checkpoint
from detector.scan.locations import UnreachableError, is_uri, read_uri
from detector.versions import find_versions

RESULTS = pa.schema(
    [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("score", pa.float64()),
        ("verdict", pa.string()),
        ("llr", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("read", pa.float64()),
        ("reasons", pa.list_(pa.struct([("code", pa.string()), ("text", pa.string())]))),
        ("facts", pa.string()),
        ("error", pa.string()),
        ("model", pa.string()),
    ]
)
"""The columns of results, before those that are carried. Null where `npr detect --json` says nothing."""


@dataclass(frozen=True)
class Judging:
    """A detector with its settings, as far as another process or machine needs them.

    Attributes:
        weights: the checkpoint, at the same path on each machine.
        model, decoder, versions: its SHA-256, the decoder's identity, and what :func:`detector.versions.find_versions`
            gives, which each machine must have.
        folder: that relative paths start from.
        device, precision: of the model.
        preprocessing, threshold, unsure, exact, confidence, batch_size: as of :func:`detector.detection.detect`.
        cores: threads that read and decode, and that torch uses.
    """

    weights: Path
    model: str
    decoder: str
    versions: dict[str, str]
    folder: str
    device: str
    precision: str
    preprocessing: Preprocessing
    threshold: float
    unsure: bool
    exact: bool
    confidence: float
    batch_size: int
    cores: int


class Scorer:
    """Scores blocks, one after the other.

    Raises:
        ValueError: versions, checkpoint or decoder are others here. OSError: the checkpoint cannot be read.
    """

    def __init__(self, judging: Judging) -> None:
        self._judging = judging
        here = {**find_versions(), "the decoder": str(find_decoder()), "the model": sha256_of(judging.weights)}
        for what, wanted in {**judging.versions, "the decoder": judging.decoder, "the model": judging.model}.items():
            if here[what] != wanted:
                raise ValueError(f"{platform.node()}: {what} is {here[what]} there, and not {wanted}")
        os.chdir(judging.folder)
        torch.set_num_threads(judging.cores)
        model = load_checkpoint(judging.weights, torch.device(judging.device)).eval()
        self._model = model.for_inference(judging.precision)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The results of the rows that :func:`detector.scan.listing.blocks_of` gives, in their order."""
        judging = self._judging
        fetched: deque[Facts | None] = deque()  # of files that were drawn and have no detection yet
        detections = detect(
            self._model,
            self._files(rows, fetched),
            preprocessing=judging.preprocessing,
            threshold=judging.threshold,
            batch_size=judging.batch_size,
            workers=judging.cores,
            unsure=judging.unsure,
            exact=judging.exact,
            confidence=judging.confidence,
        )
        with closing(detections):
            results = [_result(detection, fetched.popleft(), judging.model) for detection in detections]
        table = pa.Table.from_pylist(results, RESULTS)
        for name in rows.column_names[2:]:
            table = table.append_column(name, rows[name])
        return table

    def _files(self, rows: pa.Table, fetched: deque[Facts | None]) -> Iterator[str | Content | Detection]:
        """What is to be scored, objects of stores in memory; their facts go to `fetched`, None for other files."""
        named = zip(rows["path"].to_pylist(), rows["error"].to_pylist(), strict=True)
        files = [path if error is None else Detection(path, error=error) for path, error in named]
        remote = any(isinstance(file, str) and is_uri(file) for file in files)
        with closing(read_ahead(files, _fetch, workers=self._judging.cores if remote else 0)) as reading:
            for _, (file, facts) in reading:
                fetched.append(facts)
                yield file


def _fetch(file: str | Detection, admit: Admit) -> tuple[str | Content | Detection, Facts | None]:
    if isinstance(file, Detection) or not is_uri(file):
        return file, None
    try:
        data = read_uri(file, admit)
    except UnreachableError as error:
        return Detection(file, error=str(error)), None
    return Content(file, data), read_facts(data)


def _result(detection: Detection, facts: Facts | None, model: str) -> dict[str, Any]:
    if facts is None and os.path.isfile(detection.path):
        facts = read_facts(detection.path)
    result: dict[str, Any] = {
        "path": detection.path,
        "bytes": None if facts is None else facts.bytes,
        "facts": None if facts is None else json.dumps(facts.to_dict()),
        "error": detection.error,
        "model": model,
    }
    if detection.error is None:
        found = detection.to_dict()
        low, high = found["interval"]
        result |= {name: found.get(name) for name in RESULTS.names if name not in result}
        result |= {"low": low, "high": high}
    return result
