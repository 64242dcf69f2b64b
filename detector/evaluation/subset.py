"""A smaller collection to measure on, drawn so that no generator and no label is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detector.data import Collection


def draw_subset(collection: Collection, limit: int, seed: int = 0) -> Collection:
    """At most `limit` reals and as many fakes of every generator, drawn without replacement, in the old order.

    What is drawn of a generator depends on the seed and on its own images alone.
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be an int, got {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    groups: dict[tuple[str, int], list[int]] = {}
    for i, sample in enumerate(collection.samples):
        groups.setdefault((sample.generator, sample.label), []).append(i)
    kept: list[int] = []
    for (generator, label), members in groups.items():
        rng = np.random.default_rng([seed, label, *generator.encode()])
        kept += rng.permutation(members)[:limit].tolist()
    return replace(collection, samples=tuple(collection.samples[i] for i in sorted(kept)))
