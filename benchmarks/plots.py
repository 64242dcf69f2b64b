"""Draws the README's plots of speed from a results file of `npr bench`.

    python -m benchmarks.plots [FILE] [--out docs/images]

FILE is by default the newest one in benchmarks/results. `make bench` measures and draws.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record
from detector.bench import results
from detector.bench.cases import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SETTING = "kept"  # of the curves: how npr itself runs

# After Okabe and Ito, told apart in all common kinds of colour blindness. An engine's int8 has its engine's colour.
COLOURS = {
    "npr": "#d55e00",
    "eager": "#7f7f7f",
    "channels_last": "#8c6d31",
    "compile": "#e69f00",
    "onnxruntime": "#0072b2",
    "openvino": "#009e73",
}
NAMES = {
    "npr": "npr",
    "npr-int8": "npr, int8",
    "eager": "PyTorch, as the papers' code",
    "channels_last": "PyTorch, channels_last",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-int8": "ONNX Runtime, int8",
    "openvino": "OpenVINO",
    "openvino-int8": "OpenVINO, int8",
}
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}

Rows = Sequence[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the plots of a results file of npr bench.")
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="(default: the newest)")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    args = parser.parse_args(arguments)
    file = args.file or newest()
    if file is None:
        sys.exit(f"benchmarks.plots: no results file of npr bench in {record.FOLDER}")
    for path in draw(results.read(file), args.out):
        print(f"drew {path} from {file}", file=sys.stderr)
    return 0


def newest(folder: Path = record.FOLDER) -> Path | None:
    """The results file of `npr bench` with the latest date; files of other steps lie beside it."""
    dated = []
    for path in sorted(folder.glob("*.json")):
        try:
            dated.append((results.read(path)["date"], path))
        except ValueError:
            continue
    return max(dated)[1] if dated else None


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """The files drawn: throughput against batch and size, and times of everything beside its rivals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    measured = [row for row in found["results"] if "error" not in row]
    drawn = []
    for name, height, paint in (("speed-model.png", 4.0, throughput), ("speed-rivals.png", 6.0, rivals)):
        with rc_context(STYLE):
            figure = Figure(figsize=(9, height), layout="constrained")
            paint(figure, measured)
            figure.supxlabel(_origin(found), fontsize=7, color="#555555", x=0.01, ha="left")
            figure.savefig(folder / name, dpi=130, metadata={"Software": None})
        drawn.append(folder / name)
    return drawn


def _origin(found: dict[str, Any]) -> str:
    machine = found["machine"]
    versions = [f"{name} {version}" for name, version in found["rivals"].items() if version]
    return (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}; "
        f"torch {machine['torch']}{''.join(f', {each}' for each in versions)}; {found['date']}"
    )


# ---- Throughput of the model --------------------------------------------------------------------------------------


def throughput(figure: Figure, rows: Rows) -> None:
    """Images a second against the batch, and megapixels a second against the size, each at its commonest other."""
    of_model = [row for row in rows if row["kind"] == "model" and row["setting"] == SETTING]
    by_batch, by_size = figure.subplots(1, 2)
    size = _with_most([(row["size"], row["batch"]) for row in of_model])
    batch = _with_most([(row["batch"], row["size"]) for row in of_model])
    _curves(
        by_batch,
        [(row, row["batch"], 1e3 / row["ms_per_image"]) for row in of_model if row["size"] == size],
        f"Images of {size}x{size} a second, by batch",
    )
    _curves(
        by_size,
        [(row, row["size"], row["size"] ** 2 / 1e3 / row["ms_per_image"]) for row in of_model if row["batch"] == batch],
        f"Megapixels a second, by size, {batch} {'image' if batch == 1 else 'images'} a batch",
    )
    by_batch.set_xlabel("images in a batch")
    by_size.set_xlabel("height and width in pixels")
    handles, labels = by_batch.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center")


def _with_most(pairs: Iterable[tuple[int, int]]) -> int | None:
    """The first number that comes with the most different second ones."""
    seconds: dict[int, set[int]] = {}
    for first, second in pairs:
        seconds.setdefault(first, set()).add(second)
    return max(seconds, key=lambda first: len(seconds[first]), default=None)


def _curves(axes: Axes, points: Sequence[tuple[dict[str, Any], int, float]], title: str) -> None:
    axes.set_title(title)
    axes.set_xscale("log", base=2)
    ticks = sorted({x for _, x, _ in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    for name in NAMES:
        line = sorted((x, y) for row, x, y in points if row["implementation"] == name)
        if line:
            axes.plot(*zip(*line, strict=True), label=NAMES[name], **_look(name))
    axes.set_ylim(bottom=0)


def _look(name: str) -> dict[str, Any]:
    engine = name.removesuffix("-int8")
    return {
        "color": COLOURS[engine],
        "linestyle": "--" if name != engine else "-",
        "linewidth": 2.5 if engine == "npr" else 1.3,
        "marker": "o",
        "markersize": 5 if engine == "npr" else 3.5,
    }


# ---- Everything beside its rivals ---------------------------------------------------------------------------------


def rivals(figure: Figure, rows: Rows) -> None:
    """Times of one case of each kind, in both settings."""
    for axes, kind in zip(figure.subplots(2, 2).flat, KINDS, strict=True):
        _bars(axes, _case_of(kind, rows))
    figure.suptitle(
        "ms an image; pale: glibc's allocator as it is, full: it keeps freed memory, as npr has it", x=0.01, ha="left",
        fontsize=9,
    )  # fmt: skip


def _case_of(kind: str, rows: Rows) -> list[dict[str, Any]]:
    """The rows of the case of a kind that has most of them; of ops the stem in inference."""
    cases: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind and (kind != "op" or row["work"] == "npr_stem: inference"):
            cases.setdefault((row["work"], row["batch"], row["size"]), []).append(row)
    most = max(map(len, cases.values()), default=0)
    full = [key for key, of_case in cases.items() if len(of_case) == most]
    # Neither the smallest nor the largest: what people run is in between.
    full.sort(key=lambda key: key[1] * key[2] ** 2)
    return cases[full[len(full) // 2]] if full else []


def _bars(axes: Axes, rows: Rows) -> None:
    if not rows:
        axes.set_axis_off()
        return
    names = [name for name in NAMES if any(row["implementation"] == name for row in rows)]
    settings = sorted({row["setting"] for row in rows}, key=lambda setting: setting != SETTING)
    height = 0.8 / len(settings)
    for number, setting in enumerate(settings):
        times = {row["implementation"]: row["ms_per_image"] for row in rows if row["setting"] == setting}
        places = [names.index(name) + (number - (len(settings) - 1) / 2) * height for name in times]
        colours = [COLOURS[name.removesuffix("-int8")] for name in times]
        bars = axes.barh(places, list(times.values()), height, color=colours, alpha=1.0 if setting == SETTING else 0.4)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=6)
    first = rows[0]
    axes.set_title(f"{first['work']}, {first['batch']} of {first['size']}x{first['size']}")
    axes.set_yticks(range(len(names)), [NAMES[name] for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)


if __name__ == "__main__":
    sys.exit(main())
