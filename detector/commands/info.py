"""`npr info`: what is installed and what runs, and what a detector is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from detector.box import DEFAULT
from detector.commands.arguments import UsageError


def add_parser(subparsers: Any) -> None:
    """Adds `info` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "info",
        description="Show versions, the kernels' backends with the reason where one is off, compiled GPU targets, the "
        "instruction set that the CPU kernels use (NPR_CPU in the environment forces one), threads and the decoder of "
        "images; or, with --model, what a detector was made of, how it does and where it fails.",
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        nargs="?",
        const=DEFAULT,
        help="the model card of a checkpoint (default: the one in the package)",
    )
    parser.add_argument("--markdown", action="store_true", help="the model card as a page")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.markdown and args.model is None:
        raise UsageError("--markdown goes with --model")
    return _print_installation(args.json) if args.model is None else _print_model(args)


def _print_model(args: argparse.Namespace) -> int:
    from detector.commands.arguments import find_weights
    from detector.models.card import as_json, as_markdown, read_card

    card = read_card(find_weights(args.model))
    print(json.dumps(as_json(card), indent=2) if args.json else as_markdown(card))
    return 0


def _print_installation(as_json: bool) -> int:
    import npr_kernels
    from detector.data import find_decoder

    facts = npr_kernels.info() | {"decoder": find_decoder().to_dict()}
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    build, cpu = facts["build"], facts["cpu"]
    lines = [("npr-kernels", facts["version"])]
    lines += [(name, version or "not installed") for name, version in facts["versions"].items()]
    lines += [
        (f"backend {name}", "on" if state["available"] else f"off: {state['reason']}")
        for name, state in facts["backends"].items()
    ]
    lines += [(f"runs on {device}", backend) for device, backend in facts["chosen"].items()]
    targets = build["cuda_targets"] if build else []
    lines += [
        ("GPU targets", ", ".join(targets) or "none compiled in"),
        ("GPUs", ", ".join(facts["devices"]) or "none"),
        ("CPU", _cpu(cpu)),
        ("threads", str(facts["threads"])),
        ("decoder", str(find_decoder())),
    ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0


def _cpu(cpu: dict[str, Any]) -> str:
    if cpu["instruction_set"] is None:
        return str(cpu["machine"])
    choice = f"{cpu['instruction_set']} in use of {', '.join(cpu['instruction_sets'])}"
    return f"{cpu['machine']}, {choice} ({cpu['instruction_set_reason']})"
