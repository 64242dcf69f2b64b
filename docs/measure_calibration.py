"""Measures what a calibrated threshold does on photographs that it was not calibrated on: the tables of proofs.md.

    python docs/measure_calibration.py NAME=REALS[,REALS...] ... [--alpha 0.01] [--splits 2000]

The names are those of groups, each of one origin, as `npr calibrate` takes them. No photograph may be in two files: a
crop of one in each half would tie the halves together.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.box import DEFAULT, find
from detector.data import REAL, Collection, Sample
from detector.evaluation import certified_threshold, clopper_pearson, find_folders, parse_pools, score_collection
from detector.models import load_checkpoint

Scores = dict[str, NDArray[np.float64]]
"""Of reals, by group."""


def score_groups(groups: dict[str, list[str]], weights: str) -> Scores:
    """As they are, whole, as `npr detect` scores them."""
    model = load_checkpoint(find(weights))
    scores = {}
    for name, items in groups.items():
        samples = tuple(Sample(path, REAL, name, "") for path in find_folders(name, items, REAL).images)
        found = score_collection(model, Collection(Path(), "", None, samples))
        scores[name] = np.array(found.scores)
    return scores


def halves(scores: Scores, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each group divided at random; where its number is odd, chance says which half gets one more."""
    first, second = [], []
    for values in scores.values():
        shuffled = rng.permutation(values)
        middle = (len(shuffled) + int(rng.integers(2))) // 2
        first.append(shuffled[:middle])
        second.append(shuffled[middle:])
    return np.concatenate(first), np.concatenate(second)


def measure_halves(scores: Scores, alpha: float, splits: int, seed: int) -> None:
    """Calibrates on one half and counts on the other, again and again."""
    from scipy.stats import betabinom

    rng = np.random.default_rng(seed)
    rates, below, within, promised_below, promised_within = [], [], [], [], []
    for _ in range(splits):
        calibration, rest = halves(scores, rng)
        found = certified_threshold(calibration, alpha)
        called = np.arange(len(rest) + 1)
        chances = betabinom.pmf(called, len(rest), found.rank, found.images - found.rank + 1)
        fits = _reaches_down(len(rest), alpha)
        above = int((rest > found.threshold).sum())
        rates.append(above / len(rest))
        below.append(above <= alpha * len(rest))
        within.append(fits[above])
        promised_below.append(chances[called <= alpha * len(rest)].sum())
        promised_within.append(chances[fits].sum())
    print(f"{splits} halvings of {sum(map(len, scores.values()))} photographs, {100 * alpha:g} %, seed {seed}\n")
    print("| | measured | of any detector |\n|---|---:|---:|")
    for name, got, wanted in (
        ("splits whose held-out rate is at most alpha", below, promised_below),
        ("splits whose held-out rate's 95 % interval reaches down to alpha", within, promised_within),
    ):
        print(f"| {name} | {100 * np.mean(got):.1f} % | {100 * np.mean(wanted):.1f} % |")
    quantiles = 100 * np.quantile(rates, (0.5, 0.95, 1.0))
    print(
        f"\nheld-out rate: mean {100 * np.mean(rates):.2f} %, median {quantiles[0]:.2f} %, "
        f"95 of 100 at most {quantiles[1]:.2f} %, largest {quantiles[2]:.2f} %\n"
    )


@cache
def _reaches_down(images: int, alpha: float) -> NDArray[np.bool_]:
    """For each number of images that are called fake, whether its interval does."""
    return np.array([clopper_pearson(called, images)[0] <= alpha for called in range(images + 1)])


def measure_groups(scores: Scores, alpha: float) -> None:
    """Calibrates on all groups but one and counts on that one."""
    print(
        "| photographs of | images | threshold of the others | called fake | 95 % interval |\n|---|---:|---:|---:|---:|"
    )
    for name, values in scores.items():
        others = np.concatenate([other for key, other in scores.items() if key != name])
        found = certified_threshold(others, alpha)
        above = int((values > found.threshold).sum())
        low, high = clopper_pearson(above, len(values))
        print(
            f"| {name} | {len(values)} | {found.threshold:.4f} | {100 * above / len(values):.1f} | "
            f"{100 * low:.1f} to {100 * high:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", metavar="NAME=REALS", nargs="+")
    parser.add_argument("--weights", default=DEFAULT)
    parser.add_argument("--alpha", type=float, default=0.01)
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    scores = score_groups(parse_pools(args.groups), args.weights)
    measure_halves(scores, args.alpha, args.splits, args.seed)
    measure_groups(scores, args.alpha)


if __name__ == "__main__":
    main()
