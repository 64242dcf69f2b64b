"""Arguments that several commands share: their kinds, checks and help. Free of torch, so that --help is quick."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from detector.box import DEFAULT, find
from detector.verdicts import INTERVAL_CONFIDENCE, PRECISIONS

if TYPE_CHECKING:
    import torch

    from detector.data import Preprocessing


class UsageError(Exception):
    """Arguments that do not go together: exit status 2, as for those that argparse refuses."""


def positive_int(text: str) -> int:
    value = _number(int, text, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def natural_int(text: str) -> int:
    value = _number(int, text, "a whole number")
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def positive_float(text: str) -> float:
    value = _number(float, text, "a number")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def fraction(text: str) -> float:
    value = _number(float, text, "a number")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, got {text!r}")
    return found


def _number(kind: type, text: str, what: str):
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="FILE",
        default=DEFAULT,
        help="checkpoint: .safetensors, an original .pth, or the folder of a training, whose best is taken "
        "(default: the one in the package, see npr info --model)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")


def add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy",
        choices=("native", "resize", "centre"),
        help="treat images otherwise than in the training: whole and never resized, resized to a square, "
        "or the centre crop",
    )


def add_judging(parser: argparse.ArgumentParser) -> None:
    """What a verdict rests on beside the detector."""
    parser.add_argument(
        "--threshold", metavar="X", type=fraction, help="call fake what scores above X (default: the detector's own)"
    )
    add_unsure(parser)
    add_policy(parser)
    add_precision(parser)
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument("--exact", action="store_true", help="read all of large images, not just what a verdict takes")
    reading.add_argument(
        "--confidence",
        metavar="C",
        type=fraction,
        default=INTERVAL_CONFIDENCE,
        help="that the score of all of an image lies in the interval found from a part (default: %(default)s)",
    )


def add_unsure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-unsure", action="store_true", help="two verdicts, real or fake, however doubtful; scores are the same"
    )


def find_preprocessing(args: argparse.Namespace, own: Preprocessing) -> Preprocessing:
    """A detector's own treatment of images, with the policy of --policy where it is given."""
    from dataclasses import replace

    return own if args.policy is None else replace(own, policy=args.policy)


def find_device(name: str | None) -> torch.device:
    """The device of that name; by default the first GPU, or the CPU.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name}: no such device here ({str(error).splitlines()[0]})") from error
    return device


def find_weights(path: str) -> Path:
    """The checkpoint that --weights means: itself, the best one of a training's folder, or the one in the package.

    Raises:
        FileNotFoundError: there is none in the package.
    """
    weights = find(path)
    return weights / "best.safetensors" if weights.is_dir() else weights


def count_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_readers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        metavar="N",
        type=natural_int,
        help="images that are read and decoded at once, 0 for none ahead (default: the cores, at most 8)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the residual blocks; bfloat16 on CUDA devices and int8 on the CPU are faster, with scores near those "
        "of float32 (default: %(default)s)",
    )


def count_readers(args: argparse.Namespace) -> int:
    """Of --workers."""
    return min(8, count_cores()) if args.workers is None else args.workers


def default_workers(device: torch.device) -> int:
    """Decoding processes of a training, so many that its steps do not wait for their batches.

    A GPU wants to be fed by the other cores. On two cores, with crops of 32 pixels and deliveries, steps on the CPU
    waited 42 % of the time without a process, 8 % with one and 2 % with two. Threads would share the interpreter with
    the step, which waited 16 % of the time for one and no less for two.
    """
    cores = count_cores()
    if cores == 1:
        return 0
    return min(8, cores - 1) if device.type == "cuda" else 2
