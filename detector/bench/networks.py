"""The whole detector in inference, as ours and as its rivals compute it: callables on a batch of images.

Each is built from one NPRDetector for batches like an example, and gives uint8 [N, 3, H, W] its N logits. What needs a
package that is not installed raises ExportError when it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detector.bench import rivals
from detector.models import NPRDetector

Network = Callable[[Tensor], Any]


class Build(NamedTuple):
    build: Callable[[NPRDetector, Tensor, int], Network]  # of a model in evaluation mode, an example and threads
    layout: torch.memory_format  # of the images that it is fed with
    int8: bool = False  # it computes with 8-bit integers, so that the floor of float32 is none for it


def ours(model: NPRDetector, example: Tensor, threads: int) -> Network:
    return _without_gradients(model.for_inference())


def ours_int8(model: NPRDetector, example: Tensor, threads: int) -> Network:
    return _without_gradients(model.for_inference("int8"))


def _without_gradients(network: Callable[[Tensor], Tensor]) -> Network:
    def call(images: Tensor) -> Tensor:
        with torch.no_grad():
            return network(images).flatten()

    return call


BUILDS: dict[str, Build] = {
    "npr": Build(ours, torch.channels_last),
    "npr-int8": Build(ours_int8, torch.channels_last, int8=True),
    **{
        name: Build(
            rival,
            torch.channels_last if name in ("channels_last", "compile") else torch.contiguous_format,
            int8=name.endswith("-int8"),
        )
        for name, rival in rivals.RIVALS.items()
    },
}


def build(implementation: str, example: Tensor, threads: int) -> Network:
    """One of BUILDS, of :func:`random_detector`.

    Args:
        example: uint8 [N, 3, H, W], in the build's layout.
    """
    return BUILDS[implementation].build(random_detector(), example, threads)


def random_detector() -> NPRDetector:
    """Always the same. Its batch norms know the statistics of some images, so that its features are as large as those
    of a trained network."""
    torch.manual_seed(0)
    model = NPRDetector()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    return model.eval()
