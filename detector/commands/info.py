"""`npr info`: what is installed and what runs."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds `info` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "info",
        description="Show versions, the kernels' backends with the reason where one is off, compiled GPU targets, "
        "CPU features and threads.",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    import npr_kernels

    facts = npr_kernels.info()
    if args.json:
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
    ]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 0


def _cpu(cpu: dict[str, Any]) -> str:
    if cpu["instruction_set"] is None:
        return str(cpu["machine"])
    return f"{cpu['machine']}, {cpu['instruction_set']} in use of {', '.join(cpu['instruction_sets'])}"
