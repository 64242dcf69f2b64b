"""`npr serve`: verdicts over HTTP."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from detector.commands.arguments import (
    add_device,
    add_judging,
    add_readers,
    add_weights,
    count_readers,
    find_device,
    find_preprocessing,
    find_weights,
    natural_int,
    positive_float,
    positive_int,
)
from detector.commands.lines import as_line, identity_of
from detector.serve.settings import Settings

TOKEN = "NPR_SERVE_TOKEN"

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_DESCRIPTION = f"""\
Answer over HTTP what `npr detect --json` says of a file, to programs (POST /v1/detect: a form with files, or JSON with
base64; the interface is described at /openapi.json) and to people: the address itself is a page to drop pictures on.

Files that come within a short delay are scored together. What does not fit into the line of those that wait is refused
with status 429 and the time to try again. Nothing is kept: uploads are in memory alone, and no name of a file is
logged. On SIGTERM and Ctrl-C no more requests are taken, those begun are ended, and the exit status is 0.

It listens on this machine alone unless --host says otherwise. With --token-file, or {TOKEN} in the environment,
requests need the header `Authorization: Bearer TOKEN`; the page asks for it. There is no encryption: to be reached from
elsewhere, put it behind a proxy that has TLS."""

_EPILOG = """\
examples:
  npr serve
  curl -F files=@photo.jpg http://127.0.0.1:8000/v1/detect
  npr serve --weights calibrated.safetensors --host 0.0.0.0 --token-file token.txt
"""


def add_parser(subparsers: Any) -> None:
    """Adds `serve` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "serve", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_weights(parser)
    add_judging(parser)
    add_device(parser)
    add_readers(parser)
    where = parser.add_argument_group("where, and for whom")
    where.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on (default: %(default)s)")
    where.add_argument(
        "--port", metavar="N", type=natural_int, default=8000, help="0 for any free one (default: %(default)s)"
    )
    where.add_argument("--token-file", metavar="FILE", help=f"holds the token (default: {TOKEN} in the environment)")
    limits = parser.add_argument_group("limits")
    _add_limit(limits, "batch-size", "N", positive_int, "files that are scored together")
    _add_limit(limits, "delay", "SECONDS", positive_float, "that the first file of a batch waits for others")
    _add_limit(limits, "queue", "N", positive_int, "files that may wait")
    _add_limit(limits, "timeout", "SECONDS", positive_float, "from a request's last byte to its answer")
    _add_limit(limits, "receive-timeout", "SECONDS", positive_float, "from a request's first byte to its last")
    _add_limit(limits, "drain", "SECONDS", positive_float, "that requests have to end after SIGTERM")
    _add_limit(limits, "max-file-bytes", "N", positive_int, "of a file")
    _add_limit(limits, "max-request-bytes", "N", positive_int, "of a request")
    _add_limit(limits, "max-held-bytes", "N", positive_int, "of uploads in memory")
    _add_limit(limits, "max-files", "N", positive_int, "of a request")
    _add_limit(limits, "max-pixels", "N", positive_int, "of an image")
    parser.set_defaults(run=run)


def _add_limit(group: Any, name: str, metavar: str, kind: Any, text: str) -> None:
    default = getattr(Settings, name.replace("-", "_"))
    group.add_argument(f"--{name}", metavar=metavar, type=kind, default=default, help=f"{text} (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    try:
        from detector.serve.server import address_of, listen
        from detector.serve.server import run as serve
    except ImportError as error:
        raise ValueError(f"npr serve needs {error.name}: pip install 'npr-kernels[serve]'") from error
    from detector.console import say
    from detector.evaluation import threshold_of
    from detector.memory import keep_freed_memory
    from detector.models import load_checkpoint
    from detector.serve.judge import Judge
    from detector.serve.service import Service

    limits = {name: getattr(args, name) for name in Settings.__dataclass_fields__ if hasattr(args, name)}
    settings = Settings(**limits, token=_token(args.token_file))
    with listen(args.host, args.port) as listener:
        keep_freed_memory()
        weights = find_weights(args.weights)
        model = load_checkpoint(weights, find_device(args.device)).eval().for_inference(args.precision)
        preprocessing = find_preprocessing(args, model.preprocessing)
        own = preprocessing == model.preprocessing
        identity = identity_of(
            weights, None if own else args.policy, None if args.exact else args.confidence, args.precision
        )
        judge = Judge(
            model=model,
            preprocessing=preprocessing,
            threshold=threshold_of(model) if args.threshold is None else args.threshold,
            unsure=not args.no_unsure,
            exact=args.exact,
            confidence=args.confidence,
            batch_size=args.batch_size,
            workers=count_readers(args),
            identity=identity,
            as_line=lambda detection, facts: as_line(detection, identity, facts),
        )
        if settings.token is None and args.host not in _LOOPBACK:
            say(f"npr: warning: whoever reaches {args.host} can use the service; --token-file asks for a token")
        say(f"npr serve: {address_of(listener)}")
        serve(Service(judge, settings), listener)
    return 0


def _token(path: str | None) -> str | None:
    """Of a file or of the environment, never of the command line, which other users can read."""
    if path is None:
        return os.environ.get(TOKEN)
    token = Path(path).read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{path} is empty, it is to hold a token")
    return token
