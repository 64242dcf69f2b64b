"""From a score to the evidence in it: the log-likelihood ratio of "fake" over "real", learnt from images of both.

A ratio says how much more often fakes have such a score than reals do; what that makes of an image depends on how many
fakes there are where it comes from, which no test set knows. It holds for the reals and fakes that it was learnt from,
and is kept within what their number can support (:mod:`detector.evaluation.calibration_elub`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detector.evaluation.calibration_cost import cllr, logits_of
from detector.evaluation.calibration_elub import elub
from detector.evaluation.calibration_pav import pool_adjacent_violators

if TYPE_CHECKING:
    from detector.models import Detector

FOLDS = 5
"""Of the cross-validation of Cllr."""

_LN10 = math.log(10)

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Llr:
    """A learnt log-likelihood ratio, to base 10.

    Attributes:
        method: a name of METHODS.
        parameters: the method's, JSON-able. Of "logistic", `slope` and `intercept`: the ratio is
            slope * logit + intercept. Of "pav", `logits` and `llrs`: of the ends of its blocks, between which it is
            interpolated.
        bounds: the ratio is clipped to them.
        reals, fakes: numbers of images that it was learnt from.
    """

    method: str
    parameters: Parameters
    bounds: tuple[float, float]
    reals: int
    fakes: int

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Of scores [...], in 0..1; NaN for NaN."""
        return np.clip(METHODS[self.method].ratio(self.parameters, logits_of(scores)), *self.bounds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict."""
        return asdict(self) | {"bounds": list(self.bounds)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Llr:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no such ratio's.
        """
        try:
            low, high = map(float, values["bounds"])
            llr = cls(values["method"], dict(values["parameters"]), (low, high), values["reals"], values["fakes"])
            if not np.isfinite(llr([0.0, 0.5, 1.0])).all() or low > high:
                raise ValueError(f"its bounds are {low} and {high}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"a damaged likelihood ratio ({type(error).__name__}: {error})") from error
        return llr


def llr_of(model: Detector) -> Llr | None:
    """The likelihood ratio that the detector was calibrated with; None where it was not, or without fakes.

    Raises:
        ValueError: the calibration is damaged.
    """
    values = (model.calibration or {}).get("llr")
    return None if values is None else Llr.from_dict(values)


class Method(NamedTuple):
    """How ratios follow from logits, log10 and without bounds.

    Attributes:
        fit: parameters, of logits of reals [R] and of fakes [F].
        ratio: of logits [...], given the parameters.
    """

    fit: Callable[[NDArray[np.float64], NDArray[np.float64]], Parameters]
    ratio: Callable[[Parameters, NDArray[np.float64]], NDArray[np.float64]]


def fit_llr(real_scores: ArrayLike, fake_scores: ArrayLike, method: str = "logistic") -> Llr:
    """Learns the ratio, and its bounds on the same images.

    Args:
        real_scores, fake_scores: [R] and [F], in 0..1, at least one of each.
        method: "logistic" (Platt's: a straight line of the logit) or "pav" (pool adjacent violators: any function that
            grows with the score).

    Raises:
        ValueError: the method is unknown, there is no real or no fake, a score is not in 0..1, or the ratio would fall
            with the score.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    llr = _fit(_checked("real_scores", real_scores), _checked("fake_scores", fake_scores), method)
    if llr.parameters.get("slope", 1) <= 0:
        raise ValueError(
            f"fakes do not score higher than reals (slope {llr.parameters['slope']:.3g}): no likelihood ratio grows "
            "with the score"
        )
    return llr


def cross_validated_cllr(
    real_scores: ArrayLike, fake_scores: ArrayLike, method: str = "logistic", seed: int = 0
) -> float | None:
    """Cllr of ratios that were each learnt without the image they are of: of one FOLDS-th from all the others.

    Args:
        real_scores, fake_scores, method: as of :func:`fit_llr`.
        seed: of the division into folds.

    Returns:
        In bits; None with fewer than FOLDS reals or fakes.
    """
    rng = np.random.default_rng(seed)
    groups = [_checked("real_scores", real_scores), _checked("fake_scores", fake_scores)]
    if min(map(len, groups)) < FOLDS:
        return None
    folds = [rng.permutation(len(group)) % FOLDS for group in groups]
    held_out: list[list[NDArray[np.float64]]] = [[], []]
    for fold in range(FOLDS):
        reals, fakes = (group[of != fold] for group, of in zip(groups, folds, strict=True))
        llr = _fit(reals, fakes, method)
        for part, group, of in zip(held_out, groups, folds, strict=True):
            part.append(_LN10 * llr(group[of == fold]))
    return cllr(*map(np.concatenate, held_out))


def _fit(real_scores: NDArray[np.float64], fake_scores: NDArray[np.float64], method: str) -> Llr:
    groups = [logits_of(real_scores), logits_of(fake_scores)]
    fit, ratio = METHODS[method]
    parameters = fit(*groups)
    low, high = elub(*(_LN10 * ratio(parameters, group) for group in groups))
    return Llr(method, parameters, (low / _LN10, high / _LN10), len(real_scores), len(fake_scores))


def _fit_logistic(reals: NDArray[np.float64], fakes: NDArray[np.float64]) -> Parameters:
    """Logistic regression of the label on the logit, with a prior of one half, so that its log-odds are the ratio.

    Targets are Platt's ("Probabilistic Outputs for Support Vector Machines", 1999): (F + 1) / (F + 2) for fakes and
    1 / (R + 2) for reals, so that labels that a threshold separates do not make it infinitely steep. Each image of a
    label with N images weighs (N + 2) / N^2, with which these targets sum to one half of the weight, and a score that
    says nothing has a ratio of 1.
    """
    x = np.concatenate([reals, fakes])
    counts = np.repeat([len(reals), len(fakes)], [len(reals), len(fakes)]).astype(np.float64)
    targets = np.where(np.arange(len(x)) < len(reals), 1 / (counts + 2), (counts + 1) / (counts + 2))
    weights = (counts + 2) / counts**2
    centre, scale = x.mean(), x.std()
    if scale == 0:
        return {"slope": 0.0, "intercept": 0.0}
    design = np.stack([(x - centre) / scale, np.ones_like(x)], axis=1)

    def cost(beta: NDArray[np.float64]) -> float:
        z = design @ beta
        return float(weights @ (np.logaddexp(0, z) - targets * z))

    beta = np.zeros(2)
    for _ in range(100):  # Newton's method, which takes about ten steps
        chances = (1 + np.tanh(design @ beta / 2)) / 2
        gradient = design.T @ (weights * (chances - targets))
        curvature = design.T @ (design * (weights * chances * (1 - chances))[:, None])
        step = np.linalg.solve(curvature, gradient)
        before, size = cost(beta), 1.0
        while cost(beta - size * step) > before and size > 1e-9:
            size /= 2
        beta = beta - size * step
        if np.abs(step).max() < 1e-10:
            break
    slope = beta[0] / scale
    return {"slope": float(slope / _LN10), "intercept": float((beta[1] - slope * centre) / _LN10)}


def _logistic_ratio(parameters: Parameters, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return parameters["slope"] * logits + parameters["intercept"]


def _fit_pav(reals: NDArray[np.float64], fakes: NDArray[np.float64]) -> Parameters:
    """A flat piece for each block. Infinite ratios become ones that lie beyond any bound of that many images."""
    blocks = pool_adjacent_violators(reals, fakes)
    llrs = np.clip(blocks.llrs, -math.log(len(fakes) + 1), math.log(len(reals) + 1)) / _LN10
    ends = np.stack([blocks.lowest, blocks.highest], axis=1).ravel()
    values = np.repeat(llrs, 2)
    kept = np.append(True, np.diff(ends) > 0)  # blocks of one score have one end
    return {"logits": ends[kept].tolist(), "llrs": values[kept].tolist()}


def _pav_ratio(parameters: Parameters, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.interp(logits, parameters["logits"], parameters["llrs"])


METHODS = {"logistic": Method(_fit_logistic, _logistic_ratio), "pav": Method(_fit_pav, _pav_ratio)}
"""Ways to learn the ratio."""


def _checked(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be [N] with at least one score, got shape {list(values.shape)}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} must be in 0..1, got {values[~((values >= 0) & (values <= 1))][0]}")
    return values
