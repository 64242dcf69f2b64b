"""The state of a training between two steps: with it, a killed run goes on to the weights of one never killed.

One safetensors file holds the model, the optimizer's tensors and the random generators; its metadata hold the
position. It is replaced as a whole, so that whatever moment a run is killed at, one consistent state is on disk.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from detector.tensors import write_tensors


@dataclass
class Position:
    """Where a training stands.

    Attributes:
        epoch, batch: the next batch, counted from 0.
        step: steps done.
        losses: of the steps since the last line of the log.
        best: average precision of the best validation so far; None before the first.
        drops: how often the learning rate fell because validation accuracy had stopped improving.
        accuracy: the highest accuracy since the last such drop; None before the first validation after it.
        stale: validations since then that did not improve on it.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: float | None = None
    drops: int = 0
    accuracy: float | None = None
    stale: int = 0

    def improves(self, validation: dict[str, Any]) -> bool:
        """Whether a validation is the best so far, and remembers it if so.

        Higher average precision is better, and the later of two equals: on small sets it soon is 1, and a model still
        gains from the rest of its training. Without average precision every epoch is the best.
        """
        precision = validation["average_precision"]
        if precision is not None and self.best is not None and precision < self.best:
            return False
        self.best = precision
        return True

    def stagnates(self, accuracy: float | None, patience: int, min_improvement: float) -> bool:
        """Whether `patience` validations in a row have not improved the accuracy (0..1); then counts anew.

        An accuracy improves that is higher by `min_improvement` than the highest since the last drop. The first one
        after a drop is what the next ones are compared with, as in the original implementation of Wang et al.
        """
        if self.accuracy is None or (accuracy is not None and accuracy >= self.accuracy + min_improvement):
            self.accuracy, self.stale = accuracy, 0
        else:
            self.stale += 1
        if self.stale < patience:
            return False
        self.drops, self.accuracy, self.stale = self.drops + 1, None, 0
        return True


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Writes the state, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_tensors(path, tensors, {"position": json.dumps(asdict(position))})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Restores model, optimizer and random generators in place, and gives the position.

    Raises:
        OSError: the file cannot be read. ValueError: it is no state of such a model and optimizer.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            position = Position(**json.loads((file.metadata() or {})["position"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not the state of a training ({error})") from error
    try:
        model.load_state_dict(_under("model.", tensors))
        optimizer.load_state_dict(_optimizer_state(tensors, optimizer))
    except RuntimeError as error:
        raise ValueError(f"{path}: the state of another model ({' '.join(str(error).split())[:200]})") from error
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return position


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict; its tensors get their parameters' memory formats back, which files do not keep.

    Vectorised code rounds alike only on data laid out alike.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, key = name.split(".", 1)
        if value.dim():
            value = torch.empty_like(parameters[int(index)], dtype=value.dtype, device="cpu").copy_(value)
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
