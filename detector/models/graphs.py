"""CUDA graphs of a function of one tensor: what a network of small kernels asks of the CPU, once for each shape."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

MOST = 4
"""Graphs that are kept; each keeps the memory of its maps, about 400 bytes for each pixel of its batch."""

_MOST_SEEN = 1024


class Graph(Protocol):
    def replay(self, x: Tensor) -> Tensor:
        """What the function gives for an input like the one it was captured with, in memory of its own."""


class CudaGraph:
    """A function captured with an input of one shape, dtype and layout, on the current device.

    Raises:
        RuntimeError: the function does what cannot be captured, such as to wait for the device.
    """

    def __init__(self, function: Function, x: Tensor) -> None:
        self._input = x.clone()
        # What is loaded, planned and allocated by a first call must be before the capture, on a stream like its own.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function(self._input)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(self._input)

    def replay(self, x: Tensor) -> Tensor:
        self._input.copy_(x)
        self._graph.replay()
        return self._output.clone()


class Graphs:
    """A function that is captured for the second input of a shape, and replayed from the third on.

    The graphs used last are kept, at most `most`. An input whose function cannot be captured is computed as it was
    before, and this is said once, in a RuntimeWarning. Safe to call from several threads, one after another.

    Args:
        function: of a tensor on a CUDA device, depending on nothing else, without gradients.
        capture: makes the graph, :class:`CudaGraph` but in tests.
    """

    def __init__(
        self, function: Function, *, most: int = MOST, capture: Callable[[Function, Tensor], Graph] = CudaGraph
    ) -> None:
        self._function, self._most, self._capture = function, most, capture
        self._graphs: OrderedDict[tuple, Graph] = OrderedDict()
        self._seen: OrderedDict[tuple, None] = OrderedDict()
        self._gave_up = False
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        key = (x.shape, x.stride(), x.dtype, x.device)
        with self._lock:  # a graph's input is written and read between two replays of it
            graph = self._graphs.get(key) or self._second(key, x)
            if graph is not None:
                self._graphs.move_to_end(key)
                return graph.replay(x)
        return self._function(x)

    def _second(self, key: tuple, x: Tensor) -> Graph | None:
        """The graph of an input that comes for the second time; None for others."""
        if self._gave_up or x.numel() == 0:
            return None
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _MOST_SEEN:
                self._seen.popitem(last=False)
            return None
        try:
            graph = self._capture(self._function, x)
        except RuntimeError as error:
            self._gave_up = True
            warnings.warn(f"no CUDA graph, kernels are launched one by one: {error}", RuntimeWarning, stacklevel=3)
            return None
        self._graphs[key] = graph
        if len(self._graphs) > self._most:
            self._graphs.popitem(last=False)
        return graph
