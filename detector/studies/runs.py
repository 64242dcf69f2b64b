"""One run of a study, trained and measured unless that is done, so that a repeated study costs little."""

from __future__ import annotations

from pathlib import Path

from detector.console import say
from detector.data import Collection
from detector.evaluation import Evaluation, evaluate
from detector.evaluation.provenance import provenance
from detector.evaluation.results import read_results, write_results
from detector.models import load_checkpoint
from detector.training.trainer import CONFIG, TrainConfig, train

EVALUATION = "evaluation.json"


def train_unless_done(config: TrainConfig, *, verbose: bool = True) -> Path:
    """The best checkpoint of a run, which is begun, gone on with, or left as it is where it is finished.

    Raises:
        DataError: no images, or not both reals and fakes.
        ValueError: the folder holds a run that was configured otherwise or had other images.
    """
    return train(config, resume=(Path(config.out) / CONFIG).exists(), verbose=verbose)


def evaluate_unless_done(
    weights: Path,
    collection: Collection,
    path: Path,
    *,
    name: str,
    device: str = "cpu",
    workers: int = 0,
    command: str = "",
    verbose: bool = True,
) -> Evaluation:
    """The evaluation of a checkpoint, read from `path` where it is that of these weights on these images.

    Args:
        weights: the checkpoint.
        collection: the images.
        path: where the evaluation is kept.
        name: of the detector, in tables.
        device: that the model runs on.
        workers, command: see :func:`detector.evaluation.evaluate`.
        verbose: show progress.

    Raises:
        ValueError: `path` holds something else than an evaluation.
    """
    model = load_checkpoint(weights, device)
    wanted = provenance(model, collection, model.preprocessing, name=name, weights=str(weights), command=command)
    if path.exists():
        try:
            found = Evaluation.from_dict(read_results(path)[0])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if all(getattr(found.provenance, field) == getattr(wanted, field) for field in _SAME):
            if verbose:
                say(f"{path}: evaluated already")
            return found
    evaluation = evaluate(
        model, collection, workers=workers, name=name, weights=str(weights), command=command, verbose=verbose
    )
    write_results(path, [evaluation.to_dict()])
    return evaluation


# What makes a recorded evaluation the one that is wanted.
_SAME = ("detector", "digest", "data", "split", "images", "preprocessing")
