"""What the project wants of a GPU, beside what a results file reached.

Times are those of channels_last images. "of the floor" is the time of the least traffic at the measured bandwidths,
as a share of the time; "times faster" is the peer's time over ours. torch.compile's is the better of its two modes.
"""

from __future__ import annotations

from typing import Any

from detector.bench import floors, works

LAYOUT = "channels_last"
TRITON_AT_MOST = 1.3  # times the time of the CUDA kernels

# Least share of the floor, and times faster than eager and torch.compile; None: nothing is asked.
WANTED: dict[tuple[str, str], tuple[float, float | None, float | None]] = {
    ("npr_conv2d", "forward"): (0.85, 6, 2),
    ("npr_conv2d", "weight gradient"): (0.80, None, None),
    ("npr_stem", "inference"): (0.60, 15, 5),
    ("npr_stem", "training, forward + backward"): (0.50, 10, 4),
}


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target with what was `reached`, None where that was not measured, and whether it was `met`."""
    times: dict[tuple[str, str, str], float] = {
        (row["op"], row["work"], row["implementation"]): row["ms_per_image"]
        for row in results["results"]
        if row["layout"] == LAYOUT and "ms_per_image" in row
    }
    judged = []

    def add(op: str, title: str, measure: str, wanted: float, reached: float | None, *, at_most: bool = False) -> None:
        met = None if reached is None else reached <= wanted if at_most else reached >= wanted
        judged.append({"op": op, "work": title, "measure": measure, "wanted": wanted, "reached": reached, "met": met})

    for work in works.WORKS:
        if (work.op, work.name) not in WANTED or work.residual != "npr":
            continue
        share, eager, compiled = WANTED[work.op, work.name]

        def time(*names: str, work: works.Work = work) -> float | None:
            return min((times[key] for name in names if (key := (work.op, work.title, name)) in times), default=None)

        rows = (row for row in results["results"] if (row["op"], row["work"]) == (work.op, work.title))
        ours, peer_eager, peer_compiled = time(results["ours"]), time("eager"), time(*works.MAX_AUTOTUNE)
        floor = floors.floor_ms(next(rows, {}), results["floors_per_second"])
        add(work.op, work.title, "of the floor", share, ratio(floor, ours))
        if eager is not None:
            add(work.op, work.title, "times faster than eager", eager, ratio(peer_eager, ours))
        if compiled is not None:
            add(work.op, work.title, "times faster than torch.compile", compiled, ratio(peer_compiled, ours))
        triton = time("triton")
        add(work.op, work.title, "Triton's time over ours", TRITON_AT_MOST, ratio(triton, ours), at_most=True)
        if compiled is not None:
            add(work.op, work.title, "Triton, times faster than torch.compile", 1, ratio(peer_compiled, triton))
    return judged


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
