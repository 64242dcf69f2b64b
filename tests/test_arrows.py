"""Dependencies point one way: between the parts of the packages there is no circle, and nothing imports the command."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def part_of(module: str) -> str:
    """What the arrows are between: detector.models of detector.models.resnet, npr_kernels whole."""
    return ".".join(module.split(".")[:2]) if module.startswith("detector.") else module.split(".")[0]


def arrows() -> dict[str, set[str]]:
    """The parts that each part imports, now or later; for type checkers alone counts too."""
    found: dict[str, set[str]] = {}
    for path in sorted([*ROOT.glob("detector/**/*.py"), *ROOT.glob("npr_kernels/**/*.py")]):
        module = path.relative_to(ROOT).with_suffix("")
        part = part_of(".".join(module.parts).removesuffix(".__init__"))
        targets = found.setdefault(part, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                names = [f"{node.module}.{name.name}" for name in node.names]
            else:
                continue
            targets.update(part_of(name) for name in names if name.split(".")[0] in ("detector", "npr_kernels"))
        targets.discard(part)
    return found


def test_no_circles():
    list(graphlib.TopologicalSorter(arrows()).static_order())


def test_nothing_imports_the_command():
    assert [part for part, targets in arrows().items() if "detector.cli" in targets] == []


def test_kernels_know_nothing_of_the_detector():
    assert arrows()["npr_kernels"] == set()
