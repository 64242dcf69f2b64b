"""What the card of the detector in the box says: what it was made of, how its threshold was chosen, and the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detector.evaluation import Truth, read_results
from detector.evaluation.formats import percent
from detector.evaluation.truth import SUMMARIES
from detector.synth.learned import LEARNED
from detector.synth.networks import NETWORKS
from detector.weights import fakes, packages


def card(threshold: float, false_alarms: float, rates: list[list[str]], truth: Path | None) -> list[dict[str, Any]]:
    """The sections of the model card, see :mod:`detector.models.card`.

    Args:
        threshold: logit of the trained detector that was moved to a score of one half.
        false_alarms: the share of each history's reals that it was chosen by.
        rates: rows of history, images and percent of them above the threshold.
        truth: result of `npr truth --json`, on sources that nothing was trained on; None for none.

    Raises:
        OSError, ValueError: the result cannot be read.
    """
    sections: list[dict[str, Any]] = [
        {
            "title": "Trained on",
            "text": "Real images are cut from these packages of Debian 12, shrunk, taken again by a "
            "simulated camera, and compressed; see detector/weights/photographs.py.",
            "columns": ["package", "photographs", "drawings", "textures", "licences"],
            "rows": [
                [p.name, len(p.photographs), len(p.drawings), "yes" if p.textures else "", p.licences]
                for p in packages.PACKAGES
            ],
        },
        {
            "title": "Generators trained here",
            "text": "Small networks trained on these images, see detector/synth/learned.",
            "columns": ["name", "what"],
            "rows": [[spec.name, spec.description] for spec in LEARNED if spec.name in fakes.TRAINED_HERE],
        },
        {
            "title": "Networks trained elsewhere",
            "text": "They enlarged shrunk images. Figures on their images are figures on generators that were seen.",
            "columns": ["name", "package", "whose", "factor", "licence"],
            "rows": [
                [n.name, " or ".join(n.packages), n.source, n.factor, n.licence]
                for n in NETWORKS
                if n.name in fakes.NETWORKS
            ],
        },
        {
            "title": "Periodicity",
            "text": "The logit is half the network's, and that of a logistic regression on how coherent the strength "
            "of detail is over the whole image, see detector/models/periodicity.py. It is fitted to the same real "
            "images and to the fakes of the networks trained elsewhere, without those of the generators trained here.",
        },
        {
            "title": "Threshold",
            "text": f"A score above 0.5 is called fake. That is a logit of {threshold:.2f} of the trained detector, "
            f"above which {100 * false_alarms:g} % of the held-out real images lie, every history weighing the same. "
            "These are the training's own histories, not those of other photographs.",
            "columns": ["history", "images", "called fake"],
            "rows": rates,
        },
    ]
    if truth is not None:
        (result,) = read_results(truth)
        sections += _truth_sections(Truth.from_dict(result))
    return sections


def _truth_sections(truth: Truth) -> list[dict[str, Any]]:
    """For each delivery, every source of fakes and every folder of reals, in percent."""
    sections: list[dict[str, Any]] = []
    for part in truth.measurements:
        rows = [
            [
                name,
                source.recall.images,
                *(
                    percent(found.balanced_average_precision if found else None)
                    for found in map(source.against.get, truth.columns)
                ),
                percent(source.recall.rate),
            ]
            for name, source in part.sources.items()
        ]
        for name, summary in SUMMARIES.items():
            means = [percent(summary(part.precisions(pool))) for pool in truth.columns]
            rows.append([f"**{name}**", "", *means, percent(summary(part.recalls))])
        sections.append(
            {
                "title": f"Truth after {part.delivery}: real generators",
                "text": "Balanced AP against reals of each pool, and the share of fakes found.",
                "columns": ["source of fakes", "images", *(f"AP, {pool} reals" for pool in truth.columns), "found"],
                "rows": rows,
            }
        )
        alarms: list[list[Any]] = []
        for name, share in part.reals.items():
            low, high = share.interval or (0.0, 1.0)
            alarms.append([name, share.images, percent(share.rate), f"{percent(low)} to {percent(high)}"])
        sections.append(
            {
                "title": f"Truth after {part.delivery}: photographs called fake",
                "columns": ["folder of reals", "images", "called fake", "95 % interval"],
                "rows": alarms,
            }
        )
    return sections
