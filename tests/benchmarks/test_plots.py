"""The README's plots, from results that the test makes up."""

import json

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.figure import Figure
from PIL import Image

from benchmarks import plots, run
from detector.bench import cases, results
from tests.detector.bench import fakes

SPEED = {name: 10.0 + number for number, name in enumerate(plots.NAMES)}


@pytest.fixture
def found():
    """Every case in both settings; the time of an image is the implementation's SPEED in ms for 256x256."""
    rows = []
    for case in cases.FULL:
        for setting in ("default", "kept"):
            for name in case.implementations:
                time = SPEED[name] * (case.size / 256) ** 2 * (1 if setting == "kept" else 2)
                rows.append({"kind": case.kind, "work": case.work, "batch": case.batch, "size": case.size})
                rows[-1] |= {"setting": setting, "implementation": name, "ms_per_image": time}
                rows[-1] |= {"floor_ms": 1.0, "memory": None}
    rows[0] = {key: value for key, value in rows[0].items() if key != "ms_per_image"} | {"error": "it broke"}
    return fakes.results({}, results=rows)


def lines(axes):
    return {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}


def test_throughput(found):
    figure = Figure()
    plots.throughput(figure, [row for row in found["results"] if "error" not in row])
    by_batch, by_size = map(lines, figure.axes)
    assert set(by_batch) == set(by_size) == set(plots.NAMES.values())
    for name, time in SPEED.items():
        assert by_batch[plots.NAMES[name]] == pytest.approx(dict.fromkeys((1, 4, 16, 64), 1e3 / time))
        megapixels = 256**2 / 1e3 / time
        assert by_size[plots.NAMES[name]] == pytest.approx(dict.fromkeys((64, 128, 256, 512, 1024), megapixels))


def test_rivals(found):
    figure = Figure()
    plots.rivals(figure, [row for row in found["results"] if "error" not in row])
    titles = [axes.get_title(loc="center") or axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split(",")[0] for title in titles] == [
        "npr_stem: inference", "model in inference", "files to verdicts", "training step",
    ]  # fmt: skip
    model = figure.axes[1]
    kept, default = ([bar.get_width() for bar in bars] for bars in model.containers)
    assert kept == pytest.approx(list(SPEED.values()))
    assert default == pytest.approx([2 * time for time in SPEED.values()])


def test_files(found, tmp_path, capsys):
    results.write(tmp_path / "r.json", found)
    assert plots.main([str(tmp_path / "r.json"), "--out", str(tmp_path)]) == 0
    for name in ("speed-model.png", "speed-rivals.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 9 * 130
    assert "Some CPU, 2 threads, avx2; torch 2.13.0, onnxruntime 1.2; 2000-01-01" in plots._origin(found)


@pytest.mark.parametrize("kinds", [(), ("model",), ("op", "train")])
def test_what_was_not_measured_is_left_out(found, kinds, tmp_path):
    rows = [row for row in found["results"] if row["kind"] in kinds]
    assert len(plots.draw(found | {"results": rows}, tmp_path)) == 2


def test_the_newest_of_the_right_kind(tmp_path, monkeypatch):
    assert plots.newest(tmp_path) is None
    for name, date in (("b", "2001-01-01"), ("a", "2002-02-02"), ("c", "2000-01-01")):
        results.write(tmp_path / f"{name}.json", fakes.results({"npr": 1.0}, date=date))
    (tmp_path / "gpu.json").write_text(json.dumps({"date": "2030-01-01", "sanitizer": {}}))
    assert plots.newest(tmp_path) == tmp_path / "a.json"


def test_one_command_measures_and_draws(found, tmp_path, monkeypatch):
    """`make bench`, with a measurement that takes no time."""
    monkeypatch.setattr(results, "run", lambda *_: found)
    monkeypatch.setattr(plots.record, "FOLDER", tmp_path / "results")
    drawn = []
    monkeypatch.setattr(plots, "main", lambda arguments: drawn.append(arguments) or 0)
    found["results"] = found["results"][1:]
    assert run.main(["--threads", "1"]) == 0
    (file,) = (tmp_path / "results").iterdir()
    assert drawn == [[str(file)]]
    assert results.read(file) == found
    assert run.main(["--json", str(tmp_path / "mine.json")]) == 0
    assert drawn[1] == [str(tmp_path / "mine.json")]
