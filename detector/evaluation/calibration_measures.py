"""How well scores, and the ratios learnt from them, tell fakes from reals: the figures that forensics reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from detector.data import FAKE, REAL
from detector.evaluation.calibration_cost import cllr, cllr_min, logits_of
from detector.evaluation.calibration_llr import Llr, cross_validated_cllr
from detector.evaluation.metrics import FALSE_RATES, equal_error_rate, tpr_at_fpr
from detector.evaluation.truth import Share


@dataclass(frozen=True)
class Measures:
    """Of reals and fakes together; costs in bits.

    Attributes:
        eer: equal error rate.
        found: by false-positive rate, of FALSE_RATES, the fakes found at the lowest threshold that calls no larger
            share of these very reals fake. Its interval is of the fakes alone, for that threshold.
        cllr: of the detector's own logit, taken as a natural log-likelihood ratio.
        cllr_min: of the best ratios that grow with the score, on these very images.
        cllr_learnt: of the learnt ratio, on the images that it was learnt from.
        cllr_cross_validated: of ratios so learnt, each without the images it is of; None where there are too few.
    """

    eer: float
    found: dict[float, Share]
    cllr: float
    cllr_min: float
    cllr_learnt: float
    cllr_cross_validated: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict; `found` as a list, with rates and intervals."""
        return vars(self) | {
            "found": [
                {"false_positive_rate": rate, **share.to_dict("true_positive_rate")}
                for rate, share in self.found.items()
            ]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measures:
        """The inverse of to_dict. Raises KeyError or TypeError where the values are no measures'."""
        found = {part["false_positive_rate"]: Share.from_dict(part) for part in values["found"]}
        return cls(**dict(values) | {"found": found})


def measure(real_scores: ArrayLike, fake_scores: ArrayLike, llr: Llr) -> Measures:
    """Of scores [R] and [F], in 0..1, at least one of each, and the ratio that was learnt from them."""
    reals, fakes = np.asarray(real_scores, dtype=np.float64), np.asarray(fake_scores, dtype=np.float64)
    labels, scores = np.repeat([REAL, FAKE], [len(reals), len(fakes)]), np.concatenate([reals, fakes])
    found = {
        rate: Share(round((tpr_at_fpr(labels, scores, rate) or 0) * len(fakes)), len(fakes)) for rate in FALSE_RATES
    }
    return Measures(
        eer=_defined(equal_error_rate(labels, scores)),
        found=found,
        cllr=_defined(cllr(logits_of(reals), logits_of(fakes))),
        cllr_min=_defined(cllr_min(reals, fakes)),
        cllr_learnt=_defined(cllr(*(math.log(10) * llr(group) for group in (reals, fakes)))),
        cllr_cross_validated=cross_validated_cllr(reals, fakes, llr.method),
    )


def _defined(value: float | None) -> float:
    assert value is not None, "there are reals and fakes"
    return value
