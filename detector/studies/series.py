"""A series of runs that differ in one thing, measured on the same images: the shape of both papers' ablations.

Every run has a folder under the study's own. The result is written after every run, so that a study which is killed
shows what it had, and goes on from there with the same command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from detector.console import say
from detector.data import Collection, DataError, find_images, has_split
from detector.evaluation import Evaluation
from detector.evaluation.provenance import simulation_note
from detector.evaluation.results import write_results
from detector.evaluation.tables import percent
from detector.studies.runs import EVALUATION, evaluate_unless_done, train_unless_done
from detector.training.trainer import TrainConfig, find_data
from npr_kernels import __version__


@dataclass(frozen=True)
class Variant:
    """A run that is to be made.

    Attributes:
        name: in tables.
        folder: of the run, within the study's.
        config: of the run; its `out` is the study's folder.
        what: the values in which it differs from the other runs, JSON-able.
    """

    name: str
    folder: str
    config: TrainConfig
    what: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A run that was made; rates in 0..1, None where undefined.

    Attributes:
        name, what: see :class:`Variant`.
        training_images: that it was trained on.
        accuracy, average_precision: the means over the generators that were tested on.
        generators: for each of them its "accuracy" and "average_precision".
        digest: SHA-256 of the weights.
    """

    name: str
    what: dict[str, Any]
    training_images: int
    accuracy: float | None
    average_precision: float | None
    generators: dict[str, dict[str, float | None]]
    digest: str


@dataclass(frozen=True)
class Published:
    """Figures of a paper that stand beside the outcomes of the same name.

    Attributes:
        source: paper and place.
        average_precision: mean over the paper's test sets, in 0..1, by the names of outcomes.
    """

    source: str
    average_precision: dict[str, float]


@dataclass(frozen=True)
class Series:
    """The result of a study.

    Attributes:
        kind: "diversity" or "ablation".
        title: of tables and plots.
        varied: what differs between the runs.
        held: what does not, and what follows from that, in a sentence.
        data, test: folders of the images that were trained on and tested on.
        recipe: that the runs share, as `Recipe.to_dict` gives it.
        seed: that the runs share.
        simulated: what to say of simulated generators; "" where there are none.
        outcomes: as far as the runs are done.
        published: figures to stand beside them, or None.
        command: that made it, "" where a program did.
        versions: of this package.
    """

    kind: str
    title: str
    varied: str
    held: str
    data: str
    test: str
    recipe: dict[str, Any]
    seed: int
    simulated: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    published: Published | None = None
    command: str = ""
    versions: dict[str, str] = field(default_factory=lambda: {"npr-kernels": __version__})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Series:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no such result.
        """
        try:
            known = {name: values[name] for name in cls.__dataclass_fields__}
            known["outcomes"] = [Outcome(**outcome) for outcome in known["outcomes"]]
            known["published"] = None if known["published"] is None else Published(**known["published"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a damaged result of a study ({type(error).__name__}: {error})") from error


def run_series(
    series: Series, variants: Sequence[Variant], test: Collection, path: Path, *, verbose: bool = True
) -> Series:
    """Makes the runs that are not made yet, one after another, and measures each.

    Args:
        series: without outcomes.
        variants: the runs.
        test: the images to measure on.
        path: where the result is written, after every run, beside the runs' folders.
        verbose: show progress.
    """
    series = replace(series, simulated=simulation_note(test))
    for number, variant in enumerate(variants, 1):
        if verbose:
            say(f"run {number} of {len(variants)}: {variant.name}")
        folder = path.parent / variant.folder
        config = replace(variant.config, out=str(folder))
        best = train_unless_done(config, verbose=verbose)
        evaluation = evaluate_unless_done(
            best,
            test,
            folder / EVALUATION,
            name=variant.name,
            device=config.device,
            workers=config.workers,
            command=series.command,
            verbose=verbose,
        )
        training, _ = find_data(config, verbose=False)
        series = replace(series, outcomes=[*series.outcomes, _outcome(variant, len(training), evaluation)])
        write_results(path, [series.to_dict()])
    return series


def images_to_test_on(data: str, test: str | None) -> Collection:
    """The images that a study measures on: those of `test`, or the test split of the training data.

    Raises:
        DataError: there are none.
    """
    if test is None and not has_split(data, "test"):
        raise DataError(f"no test split in {data}; --test names other images to measure on")
    root = data if test is None else test
    return find_images(root, "test" if has_split(root, "test") else None)


def as_table(series: Series) -> Table:
    """A row for each run: images trained on, mean accuracy and average precision, in percent, and published figures."""
    table = Table(title=series.title, title_justify="left", caption_justify="left")
    table.add_column(series.varied)
    heads = ["images", "Acc", "AP"] + (["published AP"] if series.published else [])
    for head in heads:
        table.add_column(head, justify="right")
    for outcome in series.outcomes:
        cells = [str(outcome.training_images), percent(outcome.accuracy), percent(outcome.average_precision)]
        if series.published:
            cells.append(percent(series.published.average_precision.get(outcome.name)))
        table.add_row(Text(outcome.name), *cells)
    notes = [series.held, f"Published: {series.published.source}." if series.published else "", series.simulated]
    table.caption = Text("\n".join(note for note in notes if note))
    return table


def _outcome(variant: Variant, images: int, evaluation: Evaluation) -> Outcome:
    return Outcome(
        variant.name,
        variant.what,
        images,
        evaluation.mean["accuracy"],
        evaluation.mean["average_precision"],
        {
            name: {"accuracy": row.metrics.accuracy, "average_precision": row.metrics.average_precision}
            for name, row in evaluation.rows.items()
        },
        evaluation.provenance.digest,
    )
