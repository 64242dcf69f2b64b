"""Images that a data set holds more than once, and whether they cross its splits or labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.audit.hashing import near_pairs
from detector.audit.reading import Record
from detector.data import Collection

EXACT, NEAR = "exact", "near"


@dataclass(frozen=True)
class Group:
    """Images that are the same.

    Attributes:
        kind: EXACT: the files are equal, byte for byte. NEAR: their hashes are, or are linked by images whose are, see
            :mod:`detector.audit.hashing`; files that are equal count there once.
        members: their paths in the data set's folder, in its order.
        labels: that occur among them, 0 real, 1 fake.
        splits: likewise; empty where the data set has none.
    """

    kind: str
    members: tuple[str, ...]
    labels: tuple[int, ...]
    splits: tuple[str, ...]

    @property
    def crosses_labels(self) -> bool:
        return len(self.labels) > 1

    @property
    def crosses_splits(self) -> bool:
        return len(self.splits) > 1


@dataclass(frozen=True)
class Duplicates:
    """All groups, the exact ones first.

    Attributes:
        groups: none has fewer than two images.
        unhashed: images without the structure that a hash needs, compared byte for byte alone.
    """

    groups: tuple[Group, ...]
    unhashed: int = 0

    def of_kind(self, kind: str) -> list[Group]:
        return [group for group in self.groups if group.kind == kind]

    @property
    def leaks(self) -> list[Group]:
        """The groups that make a measurement wrong: any across splits, and equal files of both labels.

        Near images of both labels in one split are none: a fake made from the very photograph is what aligned data
        sets want.
        """
        return [
            group for group in self.groups if group.crosses_splits or (group.kind == EXACT and group.crosses_labels)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict."""
        return {
            "groups": [
                {
                    "kind": group.kind,
                    "members": list(group.members),
                    "labels": list(group.labels),
                    "splits": list(group.splits),
                }
                for group in self.groups
            ],
            "unhashed": self.unhashed,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Duplicates:
        groups = (
            Group(group["kind"], tuple(group["members"]), tuple(group["labels"]), tuple(group["splits"]))
            for group in values["groups"]
        )
        return cls(tuple(groups), values["unhashed"])


def find_duplicates(records: Sequence[Record], collection: Collection, splits: Sequence[str | None]) -> Duplicates:
    """Groups of equal and of near images.

    Args:
        records: of the collection's readable images.
        collection: tells labels.
        splits: of every image of the collection.
    """
    by_digest: dict[str, list[int]] = {}
    for record in records:
        by_digest.setdefault(record.digest, []).append(record.index)
    firsts = {members[0] for members in by_digest.values()}
    by_hash: dict[int, list[int]] = {}
    for record in records:
        if record.hash is not None and record.index in firsts:
            by_hash.setdefault(record.hash, []).append(record.index)
    hashes = list(by_hash)
    pairs = near_pairs(np.array(hashes, dtype=np.uint64))
    together = _components(len(hashes), pairs.tolist())
    near = [sorted(index for at in positions for index in by_hash[hashes[at]]) for positions in together]

    def group(kind: str, members: list[int]) -> Group:
        return Group(
            kind,
            tuple(os.path.relpath(collection.samples[index].path, collection.root) for index in members),
            tuple(sorted({collection.samples[index].label for index in members})),
            tuple(sorted({split for index in members if (split := splits[index]) is not None})),
        )

    return Duplicates(
        tuple(
            group(kind, members)
            for kind, found in ((EXACT, by_digest.values()), (NEAR, near))
            for members in sorted(found)
            if len(members) > 1
        ),
        sum(record.hash is None for record in records),
    )


def _components(count: int, pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """Connected components of the numbers 0..count-1, those alone too."""
    parent = list(range(count))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = at = parent[parent[at]]
        return at

    for a, b in pairs:
        parent[root(a)] = root(b)
    members: dict[int, list[int]] = {}
    for at in range(count):
        members.setdefault(root(at), []).append(at)
    return list(members.values())
