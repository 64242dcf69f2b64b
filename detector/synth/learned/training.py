"""Trains a learned generator on photographs: reconstruction first, then under a discriminator's pressure."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from detector.console import Meter
from detector.synth.learned.kinds import KINDS
from detector.synth.learned.losses import PatchDiscriminator, feature_matching, hinge, reconstruction
from detector.synth.learned.spec import LearnedSpec
from detector.tensors import write_tensors
from npr_kernels import __version__

CROP, BATCH = 64, 8
STEPS = 500
LEARNING_RATE = 1e-3
ALONE = 0.4
"""Part of the steps before the discriminator has a say."""

SAVE_EVERY = 50

FORMAT = "npr-kernels learned generator 2"


@dataclass(frozen=True)
class Training:
    """How it went.

    Attributes:
        steps: done.
        reconstruction: mean of the last steps' reconstruction loss.
    """

    steps: int
    reconstruction: float


class LearnedGenerator:
    """A trained generator.

    Attributes:
        spec: which generator.
        training: how its training went.
    """

    def __init__(self, spec: LearnedSpec, network: nn.Module, training: Training) -> None:
        self.spec, self.training = spec, training
        # As in training: the layout decides how sums round, and in which order noise is drawn.
        self._network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._lock = threading.Lock()  # of torch's global random generator, which the networks draw noise from

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """What the generator makes of photographs: the same of the same photograph, with noise of its own.

        Args:
            images: uint8 [N, 3, H, W]; sides that are no multiples of the spec's factor are continued to the next one.

        Returns:
            uint8 [N, 3, H, W]
        """
        factor, (height, width) = self.spec.factor, images.shape[2:]
        parts = []
        for image in images.contiguous():  # one by one, so that the noise does not depend on the batch
            with self._lock, torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(image.numpy().tobytes(), self.spec.seed))
                fake, _ = self._network(
                    F.pad(_to_range(image[None]), (0, -width % factor, 0, -height % factor), "replicate")
                )
            fake = fake[..., :height, :width]
            parts.append(((fake[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
        return torch.stack(parts) if parts else images.clone()


def train(
    spec: LearnedSpec,
    photographs: Sequence[Tensor],
    *,
    steps: int = STEPS,
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    verbose: bool = True,
) -> LearnedGenerator:
    """A generator trained on photographs, or taken from the cache where the same training was done before.

    The same arguments give the same generator on one machine with one number of threads. A training that was killed
    goes on from its last state in the cache.

    Args:
        spec: which generator.
        photographs: uint8 [3, H, W], H and W at least CROP.
        steps: of BATCH crops.
        cache: the folder of trained generators; None keeps none.
        device: to train on.
        verbose: show progress.

    Raises:
        ValueError: there are no photographs or they are too small, or a cached file is damaged.
    """
    if not photographs:
        raise ValueError("photographs must not be empty")
    if small := [tuple(image.shape[1:]) for image in photographs if min(image.shape[1:]) < CROP]:
        raise ValueError(f"photographs must have sides of at least {CROP} pixels, got {small[0][0]}x{small[0][1]}")
    path = state = None
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
        key = _key(spec, photographs, steps)
        path, state = Path(cache) / f"{spec.name}-{key}.safetensors", Path(cache) / f"{spec.name}-{key}.state"
        if path.is_file():
            state.unlink(missing_ok=True)  # of a training that was killed between its last two writes
            return _load(path, spec)
    with torch.random.fork_rng(devices=[]):
        generator, trained = _train(spec, photographs, steps, state, torch.device(device), verbose)
    if path is not None and state is not None:
        _save(path, spec, generator, trained)
        state.unlink(missing_ok=True)
    return LearnedGenerator(spec, generator, trained)


def _train(
    spec: LearnedSpec,
    photographs: Sequence[Tensor],
    steps: int,
    state: Path | None,
    device: torch.device,
    verbose: bool,
) -> tuple[nn.Module, Training]:
    torch.manual_seed(spec.seed)
    generator, discriminator = KINDS[spec.kind](spec).to(device), PatchDiscriminator().to(device)
    for module in (generator, discriminator):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = (
        torch.optim.Adam(generator.parameters(), LEARNING_RATE, betas=(0.5, 0.99)),
        torch.optim.Adam(discriminator.parameters(), 4e-4, betas=(0.5, 0.99)),
    )
    alone = round(ALONE * steps)
    amp = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    first, losses = _resume(state, generator, discriminator, optimizers)
    with Meter(f"train {spec.name}", steps, done=first, verbose=verbose) as meter:
        for step in range(first, steps):
            torch.manual_seed(spec.seed * 1_000_003 + step)  # a resumed training draws what the first one would have
            real = _batch(photographs, device)
            optimizers[0].param_groups[0]["lr"] = LEARNING_RATE * _schedule(step, steps)
            generator.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                fake, penalty = generator(real)
            fake = fake.float()
            distance = reconstruction(fake, real, spec.finest)
            loss = distance + penalty.float()
            if step >= alone and spec.adversarial > 0:
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    judged, seen = discriminator(fake)
                    _, wanted = discriminator(real)
                loss = loss - spec.adversarial * judged.float().mean() + 0.2 * feature_matching(seen, wanted)
            optimizers[0].zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
            optimizers[0].step()
            if step >= alone // 2 and spec.adversarial > 0:
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    judged_real, judged_fake = discriminator(real)[0], discriminator(fake.detach())[0]
                optimizers[1].zero_grad(set_to_none=True)
                hinge(judged_real.float(), judged_fake.float()).backward()
                optimizers[1].step()
            losses = [*losses[-49:], distance.item()]
            meter.note(f"distance {losses[-1]:.3f}")
            meter.advance(1)
            if state is not None and (step + 1) % SAVE_EVERY == 0 and step + 1 < steps:
                _keep(state, step + 1, losses, generator, discriminator, optimizers)
    return generator.cpu(), Training(steps, sum(losses) / max(1, len(losses)))


def _schedule(step: int, steps: int) -> float:
    """Thirty steps up, constant, then down to nothing over the last three tenths."""
    done = step / steps
    return min(1.0, (step + 1) / 30) * (1.0 if done < 0.7 else (1 - done) / 0.3)


def _batch(photographs: Sequence[Tensor], device: torch.device) -> Tensor:
    """[BATCH, 3, CROP, CROP] in -1..1, drawn from torch's global generator."""
    crops = []
    for index in torch.randint(len(photographs), (BATCH,)).tolist():
        image = photographs[index]
        top, left = (int(torch.randint(size - CROP + 1, ())) for size in image.shape[1:])
        crops.append(image[:, top : top + CROP, left : left + CROP])
    return _to_range(torch.stack(crops)).to(device, memory_format=torch.channels_last)


def _to_range(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _key(spec: LearnedSpec, photographs: Sequence[Tensor], steps: int) -> str:
    """What a training depends on, in a few digits."""
    digest = hashlib.sha256(json.dumps([FORMAT, __version__, asdict(spec), steps]).encode())
    for image in photographs:
        digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _save(path: Path, spec: LearnedSpec, network: nn.Module, training: Training) -> None:
    tensors = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    metadata = {"format": FORMAT, "spec": json.dumps(asdict(spec)), "training": json.dumps(asdict(training))}
    write_tensors(path, tensors, metadata)


def _load(path: Path, spec: LearnedSpec) -> LearnedGenerator:
    network = KINDS[spec.kind](spec)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            if metadata.get("format") != FORMAT or json.loads(metadata["spec"]) != asdict(spec):
                raise ValueError("of another generator")
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            training = Training(**json.loads(metadata["training"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: damaged; remove it, and the generator is trained again ({reason})") from error
    return LearnedGenerator(spec, network, training)


def _keep(
    path: Path,
    step: int,
    losses: list[float],
    generator: nn.Module,
    discriminator: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, ...],
) -> None:
    """Writes the state between two steps, whole or not at all."""
    tensors = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    tensors |= {f"discriminator.{name}": value for name, value in discriminator.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}.{index}.{name}": value for name, value in values.items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_tensors(path, tensors, {"step": str(step), "losses": json.dumps(losses)})


def _resume(
    path: Path | None, generator: nn.Module, discriminator: nn.Module, optimizers: tuple[torch.optim.Optimizer, ...]
) -> tuple[int, list[float]]:
    """Restores a state in place; step 0 where there is none."""
    if path is None or not path.is_file():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            step, losses = int(metadata["step"]), json.loads(metadata["losses"])
        generator.load_state_dict(_under("generator.", tensors))
        discriminator.load_state_dict(_under("discriminator.", tensors))
        for number, optimizer in enumerate(optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(f"optimizer{number}.", tensors).items():
                index, key = name.split(".", 1)
                if value.dim():  # files keep no memory format, and vectorised code rounds alike on one layout only
                    value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
                state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: damaged; remove it, and the training starts anew ({reason})") from error
    return step, losses


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
