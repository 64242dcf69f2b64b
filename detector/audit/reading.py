"""Each image of a collection read once: facts of its file, facts of its pixels, digest and hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from detector.audit.hashing import image_hash
from detector.audit.pixels import PixelFacts, measure_pixels
from detector.console import Meter
from detector.data import BadImage, Collection, ImageError, decode
from detector.facts import Facts, read_facts
from detector.files import sha256_of


@dataclass(frozen=True)
class Record:
    """What one image shows.

    Attributes:
        index: position in the collection.
        facts: of the file.
        pixels: of the decoded image.
        digest: SHA-256 of the file.
        hash: see :func:`detector.audit.hashing.image_hash`.
    """

    index: int
    facts: Facts
    pixels: PixelFacts
    digest: str
    hash: int | None


def read_records(
    collection: Collection, *, workers: int = 0, verbose: bool = False
) -> tuple[list[Record], list[BadImage]]:
    """Records of the images that can be decoded, in the collection's order, and those that cannot.

    Args:
        workers: processes that read; results do not depend on their number.
        verbose: show progress.
    """
    records, bad = [], []
    with Meter("read", len(collection), verbose=verbose) as meter:
        for item in _read(collection, workers):
            if isinstance(item, BadImage):
                bad.append(item)
            else:
                records.append(item)
            meter.advance(1)
    return records, bad


def _read(collection: Collection, workers: int) -> Iterator[Record | BadImage]:
    loader = DataLoader(_Files(collection), batch_size=None, num_workers=workers, collate_fn=_unchanged)
    return iter(loader)


class _Files(Dataset[Any]):
    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __len__(self) -> int:
        return len(self._collection)

    def __getitem__(self, index: int) -> Record | BadImage:
        path = self._collection.samples[index].path
        try:
            pixels = np.ascontiguousarray(decode(path).permute(1, 2, 0).numpy())
            digest = sha256_of(path)
        except ImageError as error:
            return BadImage(index, path, error.reason)
        except OSError as error:  # it was there a moment ago
            return BadImage(index, path, f"cannot be read ({error.strerror or error})")
        return Record(index, read_facts(path), measure_pixels(pixels), digest, image_hash(pixels))


def _unchanged(item: Any) -> Any:
    return item
