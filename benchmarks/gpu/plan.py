"""What is measured, in its order: what matters most comes first, should the time not suffice for all."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu import kernels
from benchmarks.gpu.journal import Row
from detector.bench import floors, works
from detector.bench.works import FAST, Work

MEMORY = "memory"
FAST_WORKS = (("npr_conv2d", "forward"), ("npr_stem", "inference"), ("npr_stem", "training, forward + backward"))


def implementations(device: torch.device) -> list[str]:
    """Ours first."""
    return [*(["cuda", "eager", "triton", *works.MAX_AUTOTUNE] if device.type == "cuda" else ["cpu", "eager"])]


def smoke(names: list[str]) -> list[Row]:
    """Each low-level op in each dtype, by each of the names that has kernels of its own.

    Triton's, which are compiled as they are called, in channels_last alone.
    """
    return [
        Row("smoke", work.op, work.title, name + suffix, layout)
        for name in names
        if name in works.FUSED
        for layout in (("channels_last",) if name == "triton" else ("channels_last", "nchw"))
        for suffix in ("", FAST)
        for work in kernels.SMOKE
        if not suffix or work.name in kernels.WITH_PRECISION
    ]


def bench(names: list[str]) -> list[Row]:
    memory = [Row("bench", MEMORY, kind, names[0], "") for kind in floors.BANDWIDTHS]
    return memory + [row for name in names for row in of_implementation(name)]


def of_implementation(name: str) -> list[Row]:
    """bfloat16 and channels_last, which training uses, before float32, that before nchw, and other residuals last."""
    rows = [*fused(name)] if name in works.FUSED else [*others(name)]
    return sorted(
        rows,
        key=lambda row: ("haar" in row.work, row.layout != "channels_last", not row.work.endswith("bfloat16")),
    )


def fused(name: str) -> Iterator[Row]:
    """The low-level ops are measured in channels_last alone, and so is precision="fast"; detectors differ in their stem
    alone."""
    for work in (*works.WORKS, *kernels.KERNELS):
        yield Row("bench", work.op, work.title, name, "channels_last")
        if work.op not in ("NPRDetector", kernels.OP) and work.residual == "npr":
            yield Row("bench", work.op, work.title, name, "nchw")
        if work.dtype == torch.bfloat16 and work.residual == "npr" and gains(work):
            yield Row("bench", work.op, work.title, name + FAST, "channels_last")


def gains(work: Work) -> bool:
    return (work.op, work.name) in FAST_WORKS or (work.op == kernels.OP and work.name in kernels.WITH_PRECISION)


def others(name: str) -> Iterator[Row]:
    """torch.compile chooses layouts itself, and its backward passes cannot be run twice, as measuring one alone needs.

    It gets no detector: what it would gain there is not the stem's. The other residuals are measured in channels_last
    alone, and last.
    """
    compiles = name in works.MAX_AUTOTUNE
    for work in works.WORKS:
        if compiles and (work.name == "weight gradient" or work.op == "NPRDetector" or work.residual != "npr"):
            continue
        if work.name == works.FOLDED:
            continue
        yield Row("bench", work.op, work.title, name, "channels_last")
        if not compiles and work.op != "NPRDetector" and work.residual == "npr":
            yield Row("bench", work.op, work.title, name, "nchw")


def work_of(row: Row) -> Work:
    return next(work for work in (*works.WORKS, *kernels.SMOKE) if (work.op, work.title) == (row.op, row.work))
