"""Training by several processes, one a device, as torchrun starts them: who is who, and what they tell each other.

The processes are ranks 0 .. size - 1. Each takes its share of every batch; batch norms and gradients are those of the
whole batch, so that the weights are, up to rounding, those of one process with the same batch size, and the same on all
ranks at all times. Rank 0 alone writes files and messages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detector.training.batch_norm import synchronise_batch_norms

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another, which may be decoding or validating, before it gives up."""


class Ranks:
    """This process among those that train together.

    Attributes:
        rank: which one it is, 0 .. size - 1.
        size: how many there are.
        local_rank: which one it is on its machine; its CUDA device has that number.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def writes(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """This process's device: of "cuda", the one of its own; any other as it is named."""
        device = torch.device(name)
        if self.size > 1 and device.type == "cuda":
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        return device

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items: consecutive ones, as many as the others' or one more or less."""
        count = len(items)
        return items[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def prepare(self, model: nn.Module) -> None:
        """Gives all ranks the first one's model, whose batch norms share their statistics from now on."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
        synchronise_batch_norms(model)

    def sum_gradients(self, model: nn.Module) -> None:
        """Replaces every gradient by the sum of the ranks' gradients.

        All at once, in an order of their own: the same sums in every run, and after every resumption. PyTorch's
        DistributedDataParallel sends buckets while it still computes, but packs them anew after its first step, and so
        sums of more than two ranks round otherwise after a resumption. What it would hide is little: a detector has
        6 MB of gradients.
        """
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        sums = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, total in zip(gradients, sums.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    def sums(self, *numbers: int) -> list[int]:
        """Of each number, the sum over all ranks."""
        if self.size == 1:
            return list(numbers)
        return self.sum(torch.tensor(numbers)).tolist()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, item: T) -> list[T]:
        """All ranks' items, in the order of the ranks; they travel pickled."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """This process among those that torchrun started together, connected in the block; ALONE without torchrun.

    Raises:
        ValueError: torchrun's variables are damaged. RuntimeError: the others cannot be reached.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE") == "1":
        yield ALONE
        return
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"torchrun's RANK, WORLD_SIZE and LOCAL_RANK are missing or no numbers ({error})") from error
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank, size, local_rank)
    finally:
        dist.destroy_process_group()
