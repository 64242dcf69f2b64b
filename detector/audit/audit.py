"""What gives the labels of a data set away other than content, and which detectors go by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detector.audit.bias import Bias
from detector.audit.duplicates import Duplicates, find_duplicates
from detector.audit.leaks import LEAK, Column, Finding, columns, find_leaks
from detector.audit.reading import read_records
from detector.data import BadImage, Collection
from detector.data.layouts import SPLITS, find_images, has_split
from detector.evaluation.provenance import simulation_note
from detector.versions import find_versions

KIND = "audit"


@dataclass(frozen=True)
class Audit:
    """One data set.

    Attributes:
        data: the folder of images.
        split: of it, None for all that is there.
        reals, fakes: images that could be read.
        seed: of permutations, folds and deliveries.
        findings: a fact each, in the order of the table.
        duplicates: images that are there more than once.
        detectors: that were asked about.
        bad: images that could not be decoded and do not count.
        simulated: what to say about the images' generators where these are simulated; "" where they are not.
        command: the command that measured it, "" where a program did.
        versions: of this package and of torch.
    """

    data: str
    split: str | None
    reals: int
    fakes: int
    seed: int
    findings: tuple[Finding, ...]
    duplicates: Duplicates
    detectors: tuple[Bias, ...] = ()
    bad: list[BadImage] = field(default_factory=list)
    simulated: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return self.reals + self.fakes

    @property
    def leaks(self) -> list[Finding]:
        """Facts that give the labels away, the strongest first."""
        return sorted(
            (finding for finding in self.findings if finding.verdict == LEAK), key=lambda finding: -(finding.auc or 0)
        )

    @property
    def is_clean(self) -> bool:
        """Whether no fact and no duplicate makes measurements on the data set wrong, as far as was looked."""
        return not self.leaks and not self.duplicates.leaks

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict.

        `kind` "audit"; the attributes, `images`, `clean`; `findings`, a list of objects with the attributes of
        :class:`detector.audit.leaks.Finding`; `duplicates` as :class:`detector.audit.duplicates.Duplicates` gives them;
        `detectors`, a list of :class:`detector.audit.bias.Bias`; `bad`, a list of paths and reasons.
        """
        return {
            "kind": KIND,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "reals": self.reals,
            "fakes": self.fakes,
            "clean": self.is_clean,
            "seed": self.seed,
            "findings": [finding.to_dict() for finding in self.findings],
            "duplicates": self.duplicates.to_dict(),
            "detectors": [detector.to_dict() for detector in self.detectors],
            "bad": [{"index": bad.index, "path": str(bad.path), "reason": bad.reason} for bad in self.bad],
            "simulated": self.simulated,
            "command": self.command,
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Audit:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no such result's.
        """
        if values.get("kind") != KIND:
            raise ValueError(f"no audit, its kind is {values.get('kind')!r}")
        try:
            return cls(
                values["data"],
                values["split"],
                values["reals"],
                values["fakes"],
                values["seed"],
                tuple(Finding.from_dict(finding) for finding in values["findings"]),
                Duplicates.from_dict(values["duplicates"]),
                tuple(Bias.from_dict(detector) for detector in values["detectors"]),
                [BadImage(bad["index"], Path(bad["path"]), bad["reason"]) for bad in values["bad"]],
                values["simulated"],
                values["command"],
                values["versions"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged audit ({type(error).__name__}: {error})") from error


Measure = Callable[[Collection, Sequence[Column]], Bias]
"""The readable images and their facts -> what a detector makes of them."""


def audit(
    collection: Collection,
    *,
    detectors: Sequence[Measure] = (),
    workers: int = 0,
    seed: int = 0,
    command: str = "",
    verbose: bool = False,
) -> Audit:
    """Reads every image once, and looks for what tells the labels apart.

    Args:
        collection: the images.
        detectors: each asked once, with the images that can be read.
        workers: processes that read; results do not depend on their number.
        seed: of permutations and folds.
        command: what asked for this, for the record.
        verbose: show progress.
    """
    records, bad = read_records(collection, workers=workers, verbose=verbose)
    readable = replace(collection, samples=tuple(collection.samples[record.index] for record in records))
    facts = columns(records)
    labels = readable.labels
    return Audit(
        str(collection.root),
        collection.split,
        reals=labels.count(0),
        fakes=labels.count(1),
        seed=seed,
        findings=tuple(find_leaks(facts, labels, seed)),
        duplicates=find_duplicates(records, collection, splits_of(collection)),
        detectors=tuple(measure(readable, facts) for measure in detectors),
        bad=bad,
        simulated=simulation_note(collection),
        command=command,
        versions=find_versions(),
    )


def splits_of(collection: Collection) -> list[str | None]:
    """The split that each image lies in, None where the layout names none."""
    split_of = {
        sample.path: split
        for split in SPLITS
        if has_split(collection.root, split)
        for sample in find_images(collection.root, split).samples
    }
    return [split_of.get(sample.path) for sample in collection.samples]
