"""The call that is timed, of a case and an implementation, and what it costs at least."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.bench import networks, pipeline, works
from detector.bench.cases import Case

Call = Callable[[], Any]

#: By implementation of ops and training: that of :class:`detector.bench.works.Case`, and the images' layout. Images
#: are channels_last when they are decoded; the papers' code works on contiguous ones.
_OPS = {
    "npr": ("cpu", "channels_last"),
    "eager": ("eager", "nchw"),
    "channels_last": ("eager", "channels_last"),
    "compile": ("compile", "channels_last"),
}


class Caller:
    """Prepares calls in this process.

    Args:
        threads: that the implementations use.
        folder: for the pipeline's files.
    """

    def __init__(self, threads: int, folder: Path) -> None:
        torch.set_num_threads(threads)
        self._threads, self._folder = threads, folder
        self._built: tuple[Any, networks.Network | None] = (None, None)  # the last network, and what it is

    def prepare(self, case: Case, implementation: str) -> Call:
        """Builds what is to be called; the call returns what it computed.

        Raises:
            Exception: whatever an implementation raises that does not run here.
        """
        return getattr(self, f"_{case.kind}")(case, implementation)

    def _op(self, case: Case, implementation: str) -> Call:
        self._built = (None, None)
        return self._work(_work_of(case), case, implementation)

    def _train(self, case: Case, implementation: str) -> Call:
        self._built = (None, None)
        return self._work(_work_of(case), case, implementation)

    def _work(self, work: works.Work, case: Case, implementation: str) -> Call:
        name, layout = _OPS[implementation]
        images = draw_images(case.batch, case.size, works.LAYOUTS[layout])
        prepared = works.Case(name, layout, work.dtype, [images])
        with prepared.backend():
            call = work.prepare(prepared)

        def backed() -> Any:
            with prepared.backend():
                return call(0)

        return backed

    def _model(self, case: Case, implementation: str) -> Call:
        images = draw_images(case.batch, case.size, networks.BUILDS[implementation].layout)
        return partial(self._network(implementation, images), images)

    def _pipeline(self, case: Case, implementation: str) -> Call:
        files = pipeline.write_files(self._folder, case.batch, case.size)
        if implementation == "npr":
            return partial(pipeline.ours, networks.random_detector(), files, self._threads)
        layout = networks.BUILDS[implementation].layout
        network = self._network(implementation, draw_images(pipeline.BATCH, case.size, layout))
        return partial(pipeline.plain, network, files, layout, self._threads)

    def _network(self, implementation: str, example: Tensor) -> networks.Network:
        """Built, unless the last one built was it."""
        key, network = (implementation, example.shape), self._built[1]
        if network is None or self._built[0] != key:
            self._built = (None, None)
            network = networks.build(implementation, example, self._threads)
            self._built = (key, network)
        return network


def draw_images(batch: int, size: int, layout: torch.memory_format) -> Tensor:
    """uint8 [N, 3, H, W], always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=layout)


def costs(case: Case, implementation: str) -> dict[str, float]:
    """Multiply-adds and bytes of an image, as far as they are known. Of a pipeline, those of its network."""
    if case.kind in ("model", "pipeline"):
        build = networks.BUILDS.get(implementation)
        return {} if build is None or build.int8 else {"multiply_adds": works.network(case.size, case.size)}
    work = _work_of(case)
    return {
        "multiply_adds": work.multiply_adds(case.size, case.size),
        "bytes": work.bytes(case.size, case.size, work.dtype.itemsize),
    }


def _work_of(case: Case) -> works.Work:
    title = "NPRDetector: training step" if case.kind == "train" else case.work
    return next(work for work in works.CPU_WORKS if f"{work.op}: {work.name}" == title)
