"""`npr bench`: how fast everything is on this machine, beside what it replaces."""

from __future__ import annotations

import argparse
from typing import Any

from detector.bench.cases import KINDS
from detector.commands.arguments import UsageError, count_cores, positive_float, positive_int

QUICK_MINUTES, FULL_MINUTES = 2.6, 45.0

_DESCRIPTION = f"""\
Measure speed on this machine's CPU: the fused ops (op), the network in inference (model), files on disk to verdicts
(pipeline) and a training step (train), each beside its rivals in the same run: the papers' code in eager mode, the same
in channels_last, torch.compile (with freezing), ONNX Runtime and OpenVINO, in float32 and int8, as far as they are
installed. All of them take turns, each in a process of its own, in two settings of glibc's allocator. Shown are times,
ratios, shares of the floor that the machine sets, and memory.

--quick measures a few cases within 3 minutes, otherwise there are more batches and sizes and it takes up to
{FULL_MINUTES:g} minutes. Close what else is running; ratios count, times drift.

With --compare, two results files are compared instead, of one machine or of two: our times by their ratios to the
rivals that were measured with them. What got slower is named, and the exit status is then 1."""

_EPILOG = """\
examples:
  npr bench --quick
  npr bench --only model --threads 1 --json model.json
  npr bench --compare before.json after.json --tolerance 10%
"""


def add_parser(subparsers: Any) -> None:
    """Adds `bench` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "bench", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cases, within 3 minutes")
    parser.add_argument("--only", choices=KINDS, action="append", help="this kind alone; may be given again")
    parser.add_argument(
        "--threads", metavar="N", type=positive_int, default=count_cores(), help="of each (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        metavar="M",
        type=positive_float,
        help="for all of it; what is not measured by then says so "
        f"(default: {FULL_MINUTES:g}, with --quick {QUICK_MINUTES:g})",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the results to FILE, or print them instead of tables",
    )
    parser.add_argument("--compare", metavar=("OLD", "NEW"), nargs=2, help="compare two results files")
    parser.add_argument(
        "--tolerance", metavar="X", type=_share, help="of --compare: so much slower is not (default: 5%%)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where something of ours got slower, or was not measured."""
    if args.compare is None:
        if args.tolerance is not None:
            raise UsageError("--tolerance goes with --compare")
        return _measure(args)
    if args.quick or args.only or args.json or args.minutes:
        raise UsageError("--compare measures nothing: it goes with --tolerance alone")
    return _compare(args)


def _measure(args: argparse.Namespace) -> int:
    from detector.bench import results, table
    from detector.bench.cases import FULL, QUICK, select
    from detector.bench.frame import Effort
    from detector.commands.truth import write_result
    from detector.console import say
    from detector.files import check_writable

    if args.json not in (None, "-"):
        check_writable(args.json)
    cases = select(QUICK if args.quick else FULL, tuple(args.only or KINDS))
    minutes = args.minutes or (QUICK_MINUTES if args.quick else FULL_MINUTES)
    effort = Effort(60 * minutes, turn=0.1, rounds=5) if args.quick else Effort(60 * minutes, turn=0.3, rounds=9)
    found = results.run(cases, effort, args.threads, say)
    if args.json != "-":
        print(table.as_tables(found))
    if args.json is not None:
        write_result(args.json, results.as_text(found))
    return int(any("error" in row for row in found["results"] if row["implementation"] == "npr"))


def _compare(args: argparse.Namespace) -> int:
    from detector.bench import results, table
    from detector.bench.compare import compare

    tolerance = 0.05 if args.tolerance is None else args.tolerance
    old, new = map(results.read, args.compare)
    changes = compare(old, new)
    print("\n".join(table.as_lines(changes, tolerance)))
    return int(any(change.is_slower(tolerance) for change in changes))


def _share(text: str) -> float:
    """5% or 0.05."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a share such as 5% or 0.05, got {text!r}") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value
