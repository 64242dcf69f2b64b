"""Batches on their way to a CUDA device and logits on their way back, while the device computes other ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Event(Protocol):
    """A point of the device's work."""

    def synchronize(self) -> None:
        """Waits until the device has come to it."""


class Device(Protocol):
    """What :class:`Transfers` asks of a device: CudaDevice but in tests."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to by itself."""

    def upload(self, pinned: Tensor) -> tuple[Tensor, Event]:
        """A copy on the device, for work that is asked for from now on, and when the pinned memory has been read."""

    def download(self, tensor: Tensor) -> tuple[Tensor, Event]:
        """A copy in pinned memory, and when it is there."""


class CudaDevice:
    """Uploads go by a stream of their own, beside the current one, on which kernels run and logits return."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._uploads = torch.cuda.Stream(device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, pinned: Tensor) -> tuple[Tensor, Event]:
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            uploaded = pinned.to(self._device, non_blocking=True)
            done = self._uploads.record_event()
        current.wait_event(done)
        uploaded.record_stream(current)  # it was allocated on the other stream, which must not take it back too soon
        return uploaded, done

    def download(self, tensor: Tensor) -> tuple[Tensor, Event]:
        downloaded = self.pinned(tuple(tensor.shape), tensor.dtype)
        downloaded.copy_(tensor, non_blocking=True)
        return downloaded, torch.cuda.current_stream(self._device).record_event()


class Transfers:
    """Starts batches: the next one is gathered and uploaded while the device computes the last one.

    Two pinned buffers take turns, so at most two batches wait in them.

    Args:
        compute: logits [N, 1] of uint8 [N, 3, H, W] on the device, in channels_last. It must not wait for the device.
    """

    def __init__(self, device: Device, compute: Callable[[Tensor], Tensor]) -> None:
        self._device, self._compute = device, compute
        self._buffers: list[Tensor | None] = [None, None]
        self._read: list[Event | None] = [None, None]
        self._turn = 0

    def start(self, images: Sequence[Tensor]) -> Callable[[], Tensor]:
        """Asks the device for the logits of images uint8 [3, H, W] of one size, on the host.

        Returns:
            A function that waits for them: float64 [N] on the host.
        """
        _, height, width = images[0].shape
        pinned = self._buffer((len(images), height, width, 3))
        for image, place in zip(images, pinned, strict=True):
            place.copy_(image.permute(1, 2, 0))
        uploaded, self._read[self._turn] = self._device.upload(pinned)
        self._turn = 1 - self._turn
        logits = self._compute(uploaded.permute(0, 3, 1, 2)).double().flatten()
        downloaded, done = self._device.download(logits)

        def wait() -> Tensor:
            done.synchronize()
            return downloaded

        return wait

    def _buffer(self, shape: tuple[int, ...]) -> Tensor:
        """The next one in turn, once the device has read what was in it."""
        event, buffer = self._read[self._turn], self._buffers[self._turn]
        if event is not None:
            event.synchronize()
        size = torch.Size(shape).numel()
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[self._turn] = self._device.pinned((size,), torch.uint8)
        return buffer[:size].view(shape)
