"""Several detectors on one test set, beside what was published on it: the papers' table, generators as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detector.evaluation.bootstrap import Interval
from detector.evaluation.evaluate import Evaluation
from detector.evaluation.presets import PRESETS, Preset
from detector.evaluation.published import Published


@dataclass(frozen=True)
class Cell:
    """Accuracy and average precision, as fractions, None where undefined or not published, and their intervals."""

    accuracy: float | None = None
    average_precision: float | None = None
    accuracy_interval: Interval | None = None
    average_precision_interval: Interval | None = None


@dataclass(frozen=True)
class Column:
    """One detector.

    Attributes:
        detector: its name.
        source: where its figures are published, "" for measured ones.
        note: to the figures, "" for none.
        cells: by generator; generators that it has no figures of are missing.
        mean: over the generators; for published figures over the comparison's generators too, and empty where it was
            published for all of the set and only some are compared.
    """

    detector: str
    source: str
    note: str
    cells: Mapping[str, Cell]
    mean: Cell

    @property
    def origin(self) -> str:
        """Source and note, in sentences."""
        return f"{self.source}. {self.note}".strip()


@dataclass(frozen=True)
class Comparison:
    """A table: a row for each generator, in the order of the paper where the set is one of its, and a column pair for
    each detector, measured ones first."""

    title: str
    generators: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def sources(self) -> list[str]:
        """Where published figures come from, with what is to be known of them; each once, in order."""
        return list(dict.fromkeys(column.origin for column in self.columns if column.source))

    def mark(self, column: Column) -> str:
        """` [n]`, the place of a published column's source in `sources`, counted from 1; "" for a measured one."""
        return f" [{self.sources.index(column.origin) + 1}]" if column.source else ""


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Evaluations on the same data, with the published rows where they were made by one preset.

    Raises:
        ValueError: there is no evaluation.
    """
    if not evaluations:
        raise ValueError("nothing to compare: no evaluation")
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.rows))
    presets = {evaluation.provenance.preset for evaluation in evaluations}
    preset = PRESETS.get(presets.pop()) if len(presets) == 1 else None
    published: list[Column] = []
    if preset is not None:
        names = preset.ordered(name for name in names if name in preset.generators)
        published = [_published(row, preset, names) for row in preset.published]
    title = preset.title if preset is not None else evaluations[0].provenance.data
    return Comparison(title, tuple(names), (*map(_measured, evaluations), *published))


def _measured(evaluation: Evaluation) -> Column:
    mean = evaluation.mean
    cells = {
        name: _cell(row.metrics.accuracy, row.metrics.average_precision, row.intervals)
        for name, row in evaluation.rows.items()
    }
    return Column(
        evaluation.provenance.detector,
        "",
        "",
        cells,
        _cell(mean["accuracy"], mean["average_precision"], evaluation.mean_intervals),
    )


def _cell(accuracy: float | None, precision: float | None, intervals: Mapping[str, Interval]) -> Cell:
    return Cell(accuracy, precision, intervals.get("accuracy"), intervals.get("average_precision"))


def _published(row: Published, preset: Preset, names: Sequence[str]) -> Column:
    complete = set(names) == set(preset.generators)
    cells = {
        name: Cell(_fraction(row.accuracy.get(name)), _fraction(row.average_precision.get(name)))
        for name in names
        if name in row.accuracy or name in row.average_precision
    }
    mean = Cell(
        _mean(row.accuracy, row.mean_accuracy, names, complete),
        _mean(row.average_precision, row.mean_average_precision, names, complete),
    )
    return Column(row.detector, row.source, row.note, cells, mean)


def _mean(values: Mapping[str, float], printed: float | None, names: Sequence[str], complete: bool) -> float | None:
    """The printed mean where the whole set is compared, else that of the generators that are."""
    if complete and printed is not None:
        return _fraction(printed)
    shown = [values[name] for name in names if name in values]
    return _fraction(sum(shown) / len(shown)) if shown else None


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
