"""The quality that a JPEG was saved at, read from its quantisation tables.

libjpeg, of the Independent JPEG Group (IJG), scales the two tables that the standard gives as examples
(ITU-T T.81, 1992, Annex K.1) by its quality from 1 to 100. Where a file's tables are such, its quality is certain;
other encoders have tables of their own, for which the nearest of the IJG's is no more than an estimate.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

Tables = dict[int, tuple[int, ...]]
"""64 divisors in zigzag order, by the number that components refer to."""

ZIGZAG = tuple(
    8 * row + column
    for row, column in sorted(
        ((row, column) for row in range(8) for column in range(8)),
        key=lambda place: (sum(place), place[sum(place) % 2 == 0]),
    )
)
"""Places in a table, row by row, in the order in which files store them."""

_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip


class Quality(NamedTuple):
    """A JPEG's quality as libjpeg counts it.

    Attributes:
        value: 1..100.
        exact: whether all tables are the IJG's of this quality; if not, `value` is the one whose luminance table is
            nearest.
    """

    value: int
    exact: bool


def estimate_quality(tables: Sequence[tuple[int, ...]]) -> Quality | None:
    """The quality of a JPEG.

    Args:
        tables: of its components in their order, luminance first; each 64 divisors in zigzag order.

    Returns:
        None without tables. Of two qualities that are as near, the higher.
    """
    return _estimate(tuple(tables)) if tables else None


@functools.lru_cache(maxsize=256)  # of a folder's files, many have the same, and comparing them takes a while
def _estimate(tables: tuple[tuple[int, ...], ...]) -> Quality:
    exact = [
        quality
        for quality in range(100, 0, -1)
        for largest in (255, 32767)  # of tables of 8 bits, which baseline JPEG allows, and of 16
        if tables[0] == _scaled(_LUMINANCE, quality, largest)
        and all(
            table in (_scaled(_LUMINANCE, quality, largest), _scaled(_CHROMINANCE, quality, largest))
            for table in tables
        )
    ]
    if exact:
        return Quality(exact[0], True)
    return Quality(min(range(100, 0, -1), key=lambda quality: _distance(tables[0], quality)), False)


def tables_digest(tables: Sequence[tuple[int, ...]]) -> str:
    """Twelve hexadecimal digits that tell tables apart: the start of the SHA-256 of their divisors."""
    divisors = b"".join(value.to_bytes(2, "big") for table in tables for value in table)
    return hashlib.sha256(divisors).hexdigest()[:12]


def ijg_table(quality: int, *, chrominance: bool = False, largest: int = 255) -> tuple[int, ...]:
    """libjpeg's table of a quality in 1..100, in zigzag order."""
    return _scaled(_CHROMINANCE if chrominance else _LUMINANCE, quality, largest)


@functools.cache
def _scaled(base: tuple[int, ...], quality: int, largest: int) -> tuple[int, ...]:
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(max((base[place] * percent + 50) // 100, 1), largest) for place in ZIGZAG)


def _distance(table: tuple[int, ...], quality: int) -> int:
    return sum(abs(a - b) for a, b in zip(table, _scaled(_LUMINANCE, quality, 255), strict=True))
