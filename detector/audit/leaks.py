"""How well each fact by itself tells the labels apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.audit.reading import Record
from detector.audit.significance import Categories, Ordered, holm, permutation_p, separation
from detector.audit.table import FACTS, PIXELS, Fact
from detector.data import FAKE
from detector.evaluation.bootstrap import Interval

LEVEL = 0.05
"""The chance that a set whose labels are dealt out at random is accused of any leak."""

FEWEST = 5
"""Images of each label that must have a fact for it to be tested."""

LEAK, DIFFERS, NOT_FOUND, CONSTANT, TOO_FEW = "leak", "differs", "none found", "same everywhere", "too few"

# Categories of a fact that are listed, those that differ most between the labels.
_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        name, kind, unit: see :class:`detector.audit.table.Fact`.
        verdict: LEAK: it tells the labels apart, and no generator's trace could be why. DIFFERS: a fact of pixels
            does, as a generator's trace or other subjects may. NOT_FOUND, CONSTANT or TOO_FEW otherwise.
        reals, fakes: images that have the fact.
        auc: of the fact as a score, in the direction that suits it; of categories, that of their frequencies among
            other images. None where it was not tested.
        interval: of 95 %.
        p: the chance to separate randomly dealt labels as well, corrected for the number of facts.
        higher: "fakes" or "reals", which have the higher numbers; None for categories.
        real, fake: what is typical of each label: of numbers the median; of categories, how many images have each,
            the most telling first.
    """

    name: str
    kind: str
    unit: str
    verdict: str
    reals: int
    fakes: int
    auc: float | None = None
    interval: Interval | None = None
    p: float | None = None
    higher: str | None = None
    real: float | dict[str, int] | None = None
    fake: float | dict[str, int] | None = None

    @property
    def found(self) -> bool:
        """Whether it tells the labels apart."""
        return self.verdict in (LEAK, DIFFERS)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "interval": None if self.interval is None else list(self.interval)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Finding:
        """The inverse of to_dict."""
        known = {name: values[name] for name in cls.__dataclass_fields__}
        interval = known.pop("interval")
        return cls(**known, interval=None if interval is None else tuple(interval))


class Column(NamedTuple):
    """A fact of those images that have it.

    Attributes:
        fact: which.
        rows: positions among the records.
        values: float64 [N], or names.
    """

    fact: Fact
    rows: NDArray[np.intp]
    values: NDArray[np.float64] | list[str]

    @property
    def is_constant(self) -> bool:
        return len(set(self.values)) < 2

    def take(self, places: NDArray[np.intp]) -> Column:
        """Of some of these images."""
        values = self.values
        taken = values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]
        return Column(self.fact, self.rows[places], taken)


def columns(records: Sequence[Record], facts: Sequence[Fact] = FACTS) -> list[Column]:
    """Every fact's values."""
    found = []
    for fact in facts:
        values = [fact.value(record) for record in records]
        rows = np.array([row for row, value in enumerate(values) if value is not None], dtype=np.intp)
        there = [value for value in values if value is not None]
        names = any(isinstance(value, str) for value in there)
        found.append(Column(fact, rows, [str(value) for value in there] if names else np.array(there, np.float64)))
    return found


def find_leaks(columns: Sequence[Column], labels: Sequence[int], seed: int = 0) -> list[Finding]:
    """A finding for each fact.

    Args:
        columns: of all records.
        labels: of all records, 0 real, 1 fake.
        seed: of the permutations and folds; a fact's do not depend on the other facts.
    """
    fake = np.asarray(labels) == FAKE
    findings = [_measure(column, fake[column.rows], seed) for column in columns]
    corrected = iter(holm([finding.p for finding in findings if finding.p is not None]))
    return [finding if finding.p is None else _judged(finding, next(corrected)) for finding in findings]


def _measure(column: Column, fake: NDArray[np.bool_], seed: int) -> Finding:
    """With the p-value of this fact alone, and no verdict but that there cannot be any."""
    fact = column.fact
    fakes = int(fake.sum())
    reals = len(fake) - fakes
    finding = Finding(fact.name, fact.kind, fact.unit, TOO_FEW, reals, fakes)
    if min(reals, fakes) < FEWEST:
        return finding
    real_values, fake_values = typical(column, fake)
    finding = replace(finding, verdict=CONSTANT, real=real_values, fake=fake_values)
    if column.is_constant:
        return finding
    rng = np.random.default_rng([seed, *fact.name.encode()])
    measure = Ordered(column.values) if isinstance(column.values, np.ndarray) else Categories(column.values, rng)
    separated = separation(measure, fake)
    if separated is None:
        return replace(finding, verdict=TOO_FEW)
    auc, interval = separated
    return replace(
        finding,
        verdict=NOT_FOUND,
        auc=auc,
        interval=interval,
        p=permutation_p(measure.statistic, fake, rng),
        higher=("reals", "fakes")[measure.fakes_higher(fake)] if isinstance(measure, Ordered) else None,
    )


def _judged(finding: Finding, p: float) -> Finding:
    verdict = NOT_FOUND if p > LEVEL else DIFFERS if finding.kind == PIXELS else LEAK
    return replace(finding, verdict=verdict, p=p)


def typical(column: Column, fake: NDArray[np.bool_]) -> tuple[float | dict[str, int], float | dict[str, int]]:
    """What is typical of the reals and of the fakes, see :class:`Finding`."""
    if isinstance(column.values, np.ndarray):
        return float(np.median(column.values[~fake])), float(np.median(column.values[fake]))
    counts = [
        Counter(name for name, is_fake in zip(column.values, fake, strict=True) if is_fake == of) for of in (0, 1)
    ]
    totals = [sum(count.values()) for count in counts]

    def gap(name: str) -> tuple[float, str]:
        return -abs(counts[0][name] / totals[0] - counts[1][name] / totals[1]), name

    listed = sorted(counts[0].keys() | counts[1].keys(), key=gap)[:_LISTED]
    real, faked = ({name: count[name] for name in listed} for count in counts)
    return real, faked
