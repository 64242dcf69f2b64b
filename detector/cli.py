"""The command `npr`. Each command is a module of `detector.commands`, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from detector.commands.arguments import UsageError
from detector.signals import Terminated, as_exceptions, status_of

COMMANDS = {
    "detect": "say of image files whether they are generated",
    "scan": "say it of millions of files, on this machine or a cluster, in Parquet",
    "train": "train a detector",
    "periodicity": "add to a trained detector what the whole image says",
    "eval": "measure detectors on each generator of a data set",
    "truth": "measure detectors so that format, size and counts cannot flatter them",
    "calibrate": "find the threshold for a wanted rate of false alarms, with a guarantee",
    "audit": "look for what gives the labels of a data set away other than content",
    "robustness": "measure detectors on blurred, compressed, resized and noisy images",
    "report": "put results together as one HTML page with tables and plots",
    "explain": "draw why the detector says what it says of an image",
    "rank": "list images from the most fake to the least, with a contact sheet of both ends",
    "spectrum": "draw the mean spectra of reals and fakes of each generator",
    "diversity": "measure how detectors carry over by the number of classes trained on",
    "ablate": "train and test NPR with each residual of its Table 7",
    "study": "from photographs to a report: 28 simulated generators, NPR and CNNDetection",
    "synth": "make a data set from photographs and simulated generators",
    "bench": "measure speed on this machine, beside other implementations",
    "export": "write a detector for ONNX Runtime, OpenVINO or AOTInductor",
    "serve": "give verdicts over HTTP, to programs and on a page",
    "info": "show versions, backends and the machine",
}

_EPILOG = """\
from nothing to a verdict:
  npr synth --out data
  npr train data
  npr eval data/test --weights runs/data
  npr detect photo.jpg --weights runs/data

`npr COMMAND --help` explains a command. Exit status: 0 done, 1 bad input, 2 wrong usage,
130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_streams()
    parser = _parser(next((word for word in arguments if not word.startswith("-")), None))
    try:
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.error("which command? See npr --help")
        args.command_line = shlex.join(["npr", *arguments])  # for results, which say how they were made
        args.npr = main  # for commands that run others
        with _plain_warnings(), as_exceptions():
            status = args.run(args)
        sys.stdout.flush()
        return status
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:
        # Who read the output has gone, as `head` does. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"npr: error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print("npr: terminated" if isinstance(error, Terminated) else "npr: interrupted", file=sys.stderr)
        return status_of(error)


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the one command's own arguments: building them all would import torch for a --help."""
    parser = argparse.ArgumentParser(
        prog="npr",
        description="Detect generated images by the traces of up-sampling (NPR, Tan et al., CVPR 2024).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"npr {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        if name == command:
            importlib.import_module(f"detector.commands.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser


def _version() -> str:
    try:
        return metadata.version("npr-kernels")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _prepare_streams() -> None:
    """Prints the bytes of file names that are no text escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Prints warnings as the command prints errors, and none of Pillow's on files: what is wrong gets its line."""
    default = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"npr: warning: {_one_line(message)}\n"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        warnings.formatwarning = default


def _one_line(error: Exception | str) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
