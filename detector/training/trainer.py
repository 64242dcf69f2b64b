"""Trains a detector: `train(TrainConfig(...))`. The loop is in `train`, everything that it calls stands below it.

A run is a folder:

    config.json         everything that was configured
    log.jsonl           a line for every `log_every` steps and for every validation
    tensorboard/        the same for TensorBoard, where it is installed
    state.safetensors   what a resumed run starts from
    last.safetensors    the model after the last whole epoch
    best.safetensors    the model with the best validation
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from detector.console import Meter, say
from detector.data import (
    FAKE,
    REAL,
    BadImage,
    Batch,
    Collection,
    DataError,
    EpochSampler,
    ImageDataset,
    Sample,
    collate,
    find_images,
    has_split,
)
from detector.evaluation import compute_metrics, score_collection
from detector.files import write_text
from detector.models import CNNDetector, Detector, load_imagenet_weights, save_checkpoint
from detector.training.log import LOG, TENSORBOARD, NoLog, RunLog
from detector.training.ranks import ALONE, Ranks
from detector.training.recipes import Recipe
from detector.training.state import Position, load_state, save_state
from npr_kernels import __version__

CONFIG = "config.json"
STATE = "state.safetensors"
LAST = "last.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run is configured with.

    Attributes:
        data: a data set as `detector.data.find_images` understands it. Its train split is trained on, or, without
            splits, all of it.
        out: the run's folder.
        recipe: see there.
        classes, generators: train and validate on these alone; None for all.
        balanced: as many reals as fakes in every epoch.
        val_fraction: of the training images, held out for validation where the data set has no val split.
        imagenet: file of torchvision's ResNet-50 weights, which a CNNDetector starts from; None for random ones.
        seed: of weights, order, crops and augmentation.
        device: "cpu", "cuda", "cuda:1", ...
        amp: autocast to bfloat16.
        accumulate: parts that each batch, or each rank's share of it, is computed in, one after the other: as much less
            memory. Gradients are those of the whole batch; batch norms see the parts.
        workers: processes that decode. The result does not depend on them.
        validate_every: epochs between validations, besides the one after the last epoch; 1 for the schedule
            "plateau", which lives by them.
        log_every: steps between lines of the log.
        checkpoint_every: steps between states, besides one after every epoch.
    """

    data: str
    out: str
    recipe: Recipe
    classes: tuple[str, ...] | None = None
    generators: tuple[str, ...] | None = None
    balanced: bool = False
    val_fraction: float = 0.1
    imagenet: str | None = None
    seed: int = 100
    device: str = "cpu"
    amp: bool = False
    accumulate: int = 1
    workers: int = 0
    validate_every: int = 1
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("accumulate", "validate_every", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.recipe.schedule == "plateau" and self.validate_every > 1:
            raise ValueError(f"validate_every must be 1 for the schedule plateau, got {self.validate_every}")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must be between 0 and 1, got {self.val_fraction}")
        if self.imagenet is not None and self.recipe.model != "CNNDetector":
            raise ValueError(f"imagenet weights are a ResNet-50's; {self.recipe.model} cannot start from them")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `TrainConfig.from_dict` makes an equal one."""
        return asdict(self) | {"recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of to_dict. Raises TypeError, ValueError or KeyError for anything else."""
        values = values | {"recipe": Recipe.from_dict(values["recipe"])}
        for name in ("classes", "generators"):
            values[name] = None if values[name] is None else tuple(values[name])
        return cls(**values)


# What may differ between a run and its resumption: it does not change the weights.
FREE_TO_CHANGE = ("data", "out", "workers", "log_every", "checkpoint_every")


def train(
    config: TrainConfig, *, resume: bool = False, force: bool = False, verbose: bool = True, ranks: Ranks = ALONE
) -> Path:
    """Trains a detector, or goes on with it.

    Args:
        config: the run.
        resume: go on from the run's last state; the config must be the run's own (see FREE_TO_CHANGE). A run that
            was killed before its first state starts anew.
        force: replace a run that is there.
        verbose: show what was found, progress and validations.
        ranks: this process among those that train together, each of which calls this function with the same other
            arguments; see :mod:`detector.training.ranks`. All of them read the data and the run's folder.

    Returns:
        The checkpoint with the best validation.

    Raises:
        DataError: no images, or not both reals and fakes.
        FileExistsError: there is a run already, and neither resume nor force.
        ValueError: the run that is there does not fit; an argument is wrong.
    """
    recipe, out, device = config.recipe, Path(config.out), ranks.device(config.device)
    verbose = verbose and ranks.writes
    preprocessing, augmentation = recipe.preprocessing(), recipe.augmentation()
    training, validation = find_data(config, verbose)
    _seed(config.seed)
    model = recipe.detector()
    if config.imagenet is not None and isinstance(model, CNNDetector):
        load_imagenet_weights(model, config.imagenet)
    if ranks.writes:
        open_run(config, training, resume, force, ranks.size)
    ranks.wait()

    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=recipe.betas)
    position = Position()
    if resume and (out / STATE).exists():
        position = load_state(out / STATE, model, optimizer)
        if position.epoch >= recipe.epochs or recipe.ends_after(position.drops):
            if verbose:
                say(f"the run in {out} is finished, after step {position.step}")
            return out / BEST
        if verbose:
            say(f"resumed after step {position.step}, in epoch {position.epoch + 1}")

    ranks.prepare(model)

    dataset = ImageDataset(training, preprocessing, training=True, seed=config.seed, augmentation=augmentation)
    batches = EpochBatches(training.labels, recipe.batch_size, seed=config.seed, balanced=config.balanced, ranks=ranks)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else every epoch draws from the global one, and a resumed epoch once more
    )
    log = RunLog(out, position.step, verbose=verbose) if ranks.writes else NoLog()
    named: set[int] = set()  # bad images that the user knows of

    for epoch in range(position.epoch, recipe.epochs):
        if recipe.ends_after(position.drops):
            break
        dataset.set_epoch(epoch)
        batches.set_epoch(epoch, first=position.batch)
        model.train()
        losses = [torch.tensor(loss, device=device) for loss in position.losses]  # since the last line of the log
        name = f"epoch {epoch + 1}/{recipe.epochs}"
        with Meter(name, batches.images, done=batches.skipped, verbose=verbose) as meter:
            for batch in loader:
                learning_rate = recipe.learning_rate_at(epoch, position.batch, batches.total, position.drops)
                good, bad = ranks.sums(len(batch.labels), len(batch.bad))
                if good:
                    losses.append(step(model, optimizer, batch, good, learning_rate, device, config, ranks))
                if bad:
                    name_bad(list(chain(*ranks.gather(batch.bad))), named, verbose)
                position.step += 1
                position.batch += 1
                meter.advance(good + bad)

                if position.step % config.log_every == 0 and losses:
                    loss = torch.stack(losses).mean().item()
                    log.write("train", position.step, epoch + 1, loss=loss, learning_rate=learning_rate,
                              images_per_second=meter.rate)  # fmt: skip
                    meter.note(f"loss {loss:.4f}")
                    losses = []
                # No state between an epoch's last step and its validation: the log's lines for this step would be
                # complete for one and not for the other.
                if position.step % config.checkpoint_every == 0 and position.batch < batches.total:
                    position.losses = [loss.item() for loss in losses]
                    if ranks.writes:
                        log.sync()
                        save_state(out / STATE, model, optimizer, position)

        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == recipe.epochs
        metrics = validate(model, validation, config.workers, ranks) if due else None
        if metrics is not None:
            log.write("val", position.step, epoch + 1, **metrics)
            if verbose:
                say(f"{name}  step {position.step}  {describe(metrics)}")
        position.epoch, position.batch = epoch + 1, 0
        position.losses = [loss.item() for loss in losses]
        about: dict[str, Any] = {"recipe": recipe.to_dict(), "epoch": epoch + 1, "step": position.step}
        about["validation"] = metrics
        if metrics is not None and position.improves(metrics) and ranks.writes:
            save_checkpoint(out / BEST, model, **about)
        if (
            metrics is not None
            and recipe.schedule == "plateau"
            and position.stagnates(metrics["accuracy"], recipe.decay_epochs, recipe.min_improvement)
        ):
            rate = recipe.learning_rate_at(epoch, 0, 1, position.drops)
            if verbose:
                ends = " and the training ends" if recipe.ends_after(position.drops) else ""
                say(f"validation accuracy no longer improves: the learning rate falls to {rate:g}{ends}")
        if ranks.writes:
            save_checkpoint(out / LAST, model, **about)
            log.sync()
            save_state(out / STATE, model, optimizer, position)

    log.close()
    ranks.wait()
    return out / BEST


def step(
    model: Detector,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    good: int,
    learning_rate: float,
    device: torch.device,
    config: TrainConfig,
    ranks: Ranks,
) -> Tensor:
    """One step of the optimizer; the mean loss of all ranks' `good` images, on the device, so that nobody waits for it.

    Args:
        batch: this rank's images, of which there may be none.
        good: images of all ranks.
    """
    assert isinstance(batch.images, Tensor)  # training crops have one size
    images = batch.images if len(batch.labels) else batch.images.new_empty(0, 3, config.recipe.crop, config.recipe.crop)
    images = images.to(device, non_blocking=True)
    labels = batch.labels.to(device, non_blocking=True)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in range(config.accumulate):
        chosen = slice(len(labels) * part // config.accumulate, len(labels) * (part + 1) // config.accumulate)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.amp):
            logits = model(images[chosen]).flatten()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = labels[chosen].to(logits.dtype)
        if len(targets):
            loss = F.binary_cross_entropy_with_logits(logits, targets) * (len(targets) / good)
        else:
            loss = logits.sum()  # of nothing; but the other ranks wait for this one's gradients
        loss.backward()
        total += loss.detach()
    ranks.sum_gradients(model)
    optimizer.step()
    return ranks.sum(total)


def validate(model: Detector, validation: Collection, workers: int, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Loss, accuracy and average precision (None where a class is missing) over all validation images.

    Every rank scores its share; a score depends on its image alone.
    """
    result = score_collection(
        model, replace(validation, samples=tuple(ranks.share(validation.samples))), workers=workers
    )
    shares = ranks.gather((result.labels, result.scores))
    labels, scores = (list(chain(*parts)) for parts in zip(*shares, strict=True))
    metrics = compute_metrics(labels, scores)
    right = [score if label else 1 - score for label, score in zip(labels, scores, strict=True)]
    loss = -math.fsum(math.log(max(score, 1e-30)) for score in right) / len(right) if right else None
    return {
        "images": metrics.images,
        "loss": loss,
        "accuracy": metrics.accuracy,
        "average_precision": metrics.average_precision,
    }


def describe(metrics: dict[str, Any]) -> str:
    """A validation in one line."""
    names = {"accuracy": "Acc", "average_precision": "AP"}
    parts = [f"{head} {100 * metrics[name]:.1f}" for name, head in names.items() if metrics[name] is not None]
    loss = metrics["loss"]
    return "validation: " + "  ".join([*parts, f"loss {loss:.4f}" if loss is not None else "no readable image"])


def name_bad(bad: list[BadImage], named: set[int], verbose: bool) -> None:
    """Tells the user of images that cannot be read and are skipped, of each one once."""
    for image in bad:
        if image.index not in named and verbose:
            say(f"skipped {image.path}: {image.reason}")
        named.add(image.index)


class EpochBatches(Sampler[list[int]]):
    """The batches of one epoch after another, from any batch of the epoch on: what makes an exact resumption possible.

    Of each, this process's share among the ranks, which may be empty.

    Attributes:
        total: batches in an epoch.
        images: images in an epoch.
        skipped: images before the epoch's first batch that is drawn.
    """

    def __init__(self, labels: list[int], batch_size: int, *, seed: int, balanced: bool, ranks: Ranks = ALONE) -> None:
        self._order = EpochSampler(labels, seed=seed, balanced=balanced)
        self._batch_size = batch_size
        self._ranks = ranks
        self._first = 0
        self.images = len(self._order)
        self.total = math.ceil(self.images / batch_size)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Chooses the epoch and the batch that it starts with."""
        self._order.set_epoch(epoch)
        self._first = first

    @property
    def skipped(self) -> int:
        return min(self._first * self._batch_size, self.images)

    def __len__(self) -> int:
        return self.total - self._first

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._order)
        for start in range(self.skipped, self.images, self._batch_size):
            yield list(self._ranks.share(order[start : start + self._batch_size]))


def find_data(config: TrainConfig, verbose: bool) -> tuple[Collection, Collection]:
    """The images to train on and to validate on.

    Raises:
        DataError: there are none, or not both reals and fakes to train on.
    """
    split = "train" if has_split(config.data, "train") else None
    training = find_images(config.data, split).select(categories=config.classes, generators=config.generators)
    if split and has_split(config.data, "val"):
        validation = find_images(config.data, "val").select(categories=config.classes, generators=config.generators)
        source = "the val split"
    else:
        training, validation = hold_out(training, config.val_fraction, config.seed)
        source = f"{100 * config.val_fraction:g} % of the training images, held out, as there is no val split"
    reals, fakes = training.labels.count(REAL), training.labels.count(FAKE)
    if not (reals and fakes):
        raise DataError(f"training needs reals and fakes, {training.root} gives {reals} reals and {fakes} fakes")
    if verbose:
        say(training.describe())
        say(f"validation on {len(validation)} images: {source}")
    return training, validation


def hold_out(collection: Collection, fraction: float, seed: int) -> tuple[Collection, Collection]:
    """Splits a collection in two, of every generator and label the same fraction, the same ones for the same seed.

    Raises:
        DataError: the fraction leaves nothing to validate on.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(collection.samples):
        groups.setdefault((sample.generator, sample.label), []).append(index)
    rng = np.random.default_rng(seed)
    held = {i for group in groups.values() for i in rng.permutation(group)[: round(fraction * len(group))].tolist()}
    if not held:
        raise DataError(f"{len(collection)} images are too few to hold out {100 * fraction:g} % for validation")
    kept: list[Sample] = []
    out: list[Sample] = []
    for index, sample in enumerate(collection.samples):
        (out if index in held else kept).append(sample)
    return replace(collection, samples=tuple(kept)), replace(collection, samples=tuple(out))


def open_run(config: TrainConfig, training: Collection, resume: bool, force: bool, ranks: int = 1) -> None:
    """Makes the run's folder and writes its config, or checks that the run which is there is the one to go on with.

    Raises:
        FileExistsError: there is a run, and neither resume nor force. FileNotFoundError: nothing to resume.
        ValueError: the run that is there was configured otherwise, had other images or another number of ranks.
    """
    out = Path(config.out)
    there = [name for name in (CONFIG, LOG, STATE, BEST, LAST) if (out / name).exists()]
    identity = fingerprint(training)
    if resume:
        if CONFIG not in there:
            raise FileNotFoundError(f"no run to resume in {out}: it has no {CONFIG}")
        _check_same_run(out / CONFIG, config, identity, ranks)
        return
    if there and not force:
        raise FileExistsError(
            f"{out} holds a run already ({', '.join(there)}); resume (--resume) or replace it (--force)"
        )
    # The state goes first: whatever remains of a run without one cannot be resumed as if it were this one.
    for name in (STATE, CONFIG, LOG, BEST, LAST):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / TENSORBOARD, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    record = {"config": config.to_dict(), "images": identity, "ranks": ranks}
    record |= {"npr_kernels": __version__, "torch": torch.__version__}
    write_text(out / CONFIG, json.dumps(record, indent=2) + "\n")


def read_config(out: str | os.PathLike[str]) -> TrainConfig:
    """The configuration of the run in a folder.

    Raises:
        OSError: there is none. ValueError: its config.json is damaged.
    """
    path = Path(out) / CONFIG
    try:
        return TrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the configuration of a run ({error})") from error


def fingerprint(collection: Collection) -> str:
    """Tells one set of training images from another: a hash of their names and labels, wherever they lie."""
    digest = hashlib.sha256()
    for sample in collection.samples:
        digest.update(os.fsencode(sample.path.relative_to(collection.root)) + b"\0%d\n" % sample.label)
    return f"{len(collection)} {digest.hexdigest()}"


def _check_same_run(path: Path, config: TrainConfig, identity: str, ranks: int) -> None:
    recorded, wanted = (_flat(values.to_dict()) for values in (read_config(path.parent), config))
    different = [
        f"{name} {recorded[name]!r}, not {wanted[name]!r}"
        for name in wanted
        if name not in FREE_TO_CHANGE and recorded[name] != wanted[name]
    ]
    if different:
        raise ValueError(f"cannot resume {path.parent}, which was started with {'; '.join(different)}")
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("ranks", 1) != ranks:
        raise ValueError(
            f"cannot resume {path.parent} with {ranks} processes: it was started with {record.get('ranks', 1)}"
        )
    if record["images"] != identity:
        raise ValueError(f"cannot resume {path.parent}: the training images in {config.data} are not the run's")


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return config | config["recipe"] | {"recipe": config["recipe"]["name"]}


def _seed(seed: int) -> None:
    """Makes a run repeatable: equal on one CPU with one number of threads, nearly so on GPUs."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
