"""`npr truth`, and `npr eval` with --delivery or --reals."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.data import find_images
from detector.evaluation import Truth, balanced_average_precision, clopper_pearson, score_collection
from detector.models import load_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

COUNTS = {"gan/0_real": 3, "gan/1_fake": 4, "diffusion/1_fake": 3, "film/0_real": 4, "web/0_real": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """PNG, but for the JPEGs of `web`; larger than the crop of the tests, of sizes that differ by label."""
    root = tmp_path_factory.mktemp("truth") / "set"
    rng = np.random.default_rng()
    for folder, count in COUNTS.items():
        (root / folder).mkdir(parents=True)
        suffix = "jpg" if folder.startswith("web") else "png"
        side = 30 if "fake" in folder else 41
        for i in range(count):
            pixels = rng.integers(0, 256, (side, side + i, 3)) * rng.uniform(0.1, 1)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{'ab'[i % 2]}_{i}.{suffix}")
    return root


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def result_of(capsys, *arguments):
    assert status_of(*arguments, "--json", "-") == 0
    return json.loads(capsys.readouterr().out)


def test_defaults(data, weights, capsys):
    assert status_of("truth", data, "--weights", weights) == 0
    captured = capsys.readouterr()
    assert captured.out.count("source of fakes") == captured.out.count("folder of reals") == 2
    assert "after crop:256,jpeg:80: fakes found" in captured.out
    assert "told by the files' headers" in " ".join(captured.out.split())
    assert "pool lossless: film (4 PNG), gan (3 PNG)\n" in captured.err
    assert "pool jpeg: web (5 JPEG)\n" in captured.err


def test_equals_scores_of_files_made_alike(data, weights, capsys, tmp_path):
    """Cropped by hand and stored anew, reals and fakes score what the command says of them."""
    result = result_of(capsys, "truth", data, "--weights", weights, "--delivery", "crop:24")
    for path in data.rglob("*.*"):
        target = (tmp_path / path.relative_to(data)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            left, top = ((side - 24) // 2 // 2 * 2 for side in image.size)
            image.crop((left, top, left + 24, top + 24)).save(target)
    scores = score_collection(load_checkpoint(weights), find_images(tmp_path))
    by_label = {(name, label): [] for name in ("gan", "diffusion", "film", "web") for label in (0, 1)}
    for label, score, name in zip(scores.labels, scores.scores, scores.generators, strict=True):
        by_label[name, label].append(score)

    (part,) = result["measurements"]
    pools = {"lossless": ("gan", "film"), "jpeg": ("web",)}
    for row in part["sources"]:
        fakes = by_label[row["source"], 1]
        assert row["called_fake"] == sum(score > 0.5 for score in fakes)
        for pool, names in pools.items():
            reals = [score for name in names for score in by_label[name, 0]]
            expected = balanced_average_precision([1] * len(fakes) + [0] * len(reals), fakes + reals)
            assert row["against"][pool]["balanced_average_precision"] == pytest.approx(expected, abs=1e-6)
    for row in part["reals"]:
        called = sum(score > 0.5 for score in by_label[row["reals"], 0])
        assert (row["called_fake"], row["images"]) == (called, len(by_label[row["reals"], 0]))
        assert row["interval"] == pytest.approx(clopper_pearson(called, row["images"]))


def test_named_pools_and_files(data, weights, capsys, tmp_path):
    pools = ["--reals", "lossless=film,gan/0_real/a_*", "--reals", "web"]
    files = ["--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json"]
    assert (
        status_of("truth", data, "--weights", f"x={weights}", *pools, *files, "--delivery", "none", "jpeg:60:444") == 0
    )
    assert "told by" not in capsys.readouterr().out
    truth = Truth.from_dict(json.loads((tmp_path / "t.json").read_text()))
    assert truth.pools == {"lossless": ("film", "gan/0_real/a_*"), "web": ("web",)}
    assert [part.delivery for part in truth.measurements] == ["none", "jpeg:60:444"]
    for part in truth.measurements:
        assert {name: share.images for name, share in part.reals.items()} == {
            "film": 4, "gan": 3, "web": 5, "gan/0_real/a_*": 2,
        }  # fmt: skip
        assert {name: share.images for name, share in part.pools.items()} == {"lossless": 6, "web": 5}
        assert list(part.sources["gan"].against) == ["own", "lossless", "web"]
        assert list(part.sources["diffusion"].against) == ["lossless", "web"]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(rows) == 2 * (2 + 2 + 4 + 2 + 1)
    assert {row["detector"] for row in rows} == {"x"}


def test_settings_of_a_folder(data, weights, capsys):
    settings = data / "measure.json"
    try:
        settings.write_text(json.dumps({"delivery": ["crop:20"], "reals": {"film": ["film"]}}))
        found = Truth.from_dict(result_of(capsys, "truth", data, "--weights", weights))
        assert ([part.delivery for part in found.measurements], found.pools) == (["crop:20"], {"film": ("film",)})
        assert not found.told_by_headers
        found = Truth.from_dict(
            result_of(capsys, "truth", data, "--weights", weights, "--delivery", "png", "--reals", "w=web")
        )
        assert ([part.delivery for part in found.measurements], found.pools) == (["png"], {"w": ("web",)})
        for content, message in [
            ("{", "no JSON"),
            ("[]", "wants {"),
            ('{"reals": ["film"]}', "wants {"),
            ('{"delivery": "none"}', "wants {"),
            ('{"pools": {}}', "wants {"),
            ('{"reals": {"x": ["nowhere"]}}', "pool x: no nowhere in"),
            ('{"delivery": ["fly"]}', "unknown"),
        ]:
            settings.write_text(content)
            assert status_of("truth", data, "--weights", weights) == 1
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    finally:
        settings.unlink()


def test_generators_and_limit(data, weights, capsys):
    """Pools stay whole where fewer sources are measured."""
    arguments = ["--weights", weights, "--delivery", "none", "--generators", "diffusion"]
    found = Truth.from_dict(result_of(capsys, "truth", data, *arguments))
    assert list(found.measurements[0].sources) == ["diffusion"]
    assert {name: share.images for name, share in found.measurements[0].pools.items()} == {"lossless": 7, "jpeg": 5}
    found = Truth.from_dict(
        result_of(capsys, "truth", data, "--weights", weights, "--delivery", "none", "--limit", "2")
    )
    assert {name: share.images for name, share in found.measurements[0].reals.items()} == {
        "film": 2,
        "gan": 2,
        "web": 2,
    }
    assert {source.recall.images for source in found.measurements[0].sources.values()} == {2}


def test_limit_of_a_part_of_a_folder(data, weights, capsys):
    """Two of the part, whatever two are drawn of the folder; and the two of a folder are its two in a pool."""
    options = ["--delivery", "none", "--limit", "2", "--reals", "p=gan/0_real/a_*,film"]
    for seed in range(4):
        arguments = ["--weights", weights, *options, "--seed", seed]
        part = Truth.from_dict(result_of(capsys, "truth", data, *arguments)).measurements[0]
        assert part.pools["p"].images == 4
        assert (part.reals["film"].images, part.reals["gan"].images, part.reals["web"].images) == (2, 2, 2)


def test_eval_with_delivery_or_reals(data, weights, capsys):
    found = Truth.from_dict(
        result_of(capsys, "eval", data, "--weights", weights, "--delivery", "none", "crop:20", "none")
    )
    assert [part.delivery for part in found.measurements] == ["none", "crop:20"]
    assert found.columns == ["own"]
    assert found.remarks == ["diffusion: no reals of its own and no pool, so balanced AP and AUC are undefined"]
    found = Truth.from_dict(result_of(capsys, "eval", data, "--weights", weights, "--reals", "p=film,web"))
    assert [part.delivery for part in found.measurements] == ["none"]
    assert found.pools == {"p": ("film", "web")}
    plain = result_of(capsys, "eval", data, "--weights", weights)
    assert plain["kind"] == "evaluation"


def test_several_detectors(data, weights, capsys):
    arguments = ["--weights", f"a={weights}", f"b={weights}", "--delivery", "none"]
    results = result_of(capsys, "truth", data, *arguments)
    assert [result["detector"] for result in results] == ["a", "b"]
    assert results[0]["measurements"] == results[1]["measurements"]
    assert status_of("truth", data, *arguments, "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["detector"] for row in rows} == {"a", "b"}


def test_page(data, weights, tmp_path, capsys):
    """The page shows the JSON's figures, whichever command makes it."""
    pytest.importorskip("matplotlib", reason="reports need matplotlib")
    files = ["--html", tmp_path / "t.html", "--json", tmp_path / "t.json"]
    assert status_of("truth", data, "--weights", weights, *files) == 0
    assert (
        status_of("report", tmp_path / "t.json", "--out", tmp_path / "r.html", "--title", f"The truth on {data}") == 0
    )
    text = (tmp_path / "t.html").read_text()
    assert text == (tmp_path / "r.html").read_text()
    for part in json.loads((tmp_path / "t.json").read_text())["measurements"]:
        assert f"<h3>After {part['delivery']}</h3>" in text
        after = text.split(f"<h3>After {part['delivery']}</h3>")[1].split("<h3>")[0]
        rates = [row["recall"] for row in part["sources"]]
        rates += [value for row in part["sources"] for of in row["against"].values() for value in list(of.values())[1:]]
        rates += [value for row in part["reals"] + part["pools"] for value in (row["false_alarms"], *row["interval"])]
        rates += [value for of in part["summaries"].values() for value in of["balanced_average_precision"].values()]
        assert len(rates) > 30
        for value in rates:
            assert f"{100 * value:.1f}" in after


def test_images_that_cannot_be_read(weights, capsys, tmp_path):
    for name in ("a/0_real/x.png", "a/1_fake/y.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"no image")
    assert status_of("truth", tmp_path, "--weights", weights, "--delivery", "none") == 1
    captured = capsys.readouterr()
    assert "x.png: is not an image" in captured.err
    assert "y.png: is not an image" in captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--delivery", "pigeon"], 1, "unknown; there are none, png, jpeg"),
        (["--reals", "w=nowhere"], 1, "pool w: no nowhere in"),
        (["--reals", "w=web/0_real/*.png"], 1, "pool w: no web/0_real/*.png in"),
        (["--reals", "w=diffusion"], 1, "pool w: no real image in diffusion"),
        (["--reals", "own=web"], 1, "may not be called 'own'"),
        (["--reals", "w="], 1, "reals must be NAME=FOLDER"),
        (["--reals", "w={empty}"], 1, "pool w: no real image in"),
        (["--json", "{empty}"], 1, "it is a folder"),
    ],
)
@pytest.mark.parametrize("command", ["truth", "eval"])
def test_bad_input(command, arguments, status, message, data, weights, capsys, tmp_path):
    if arguments[0] == "--json" and command == "eval":
        arguments = [*arguments, "--reals", "web"]
    options = [argument.format(empty=tmp_path) for argument in arguments]
    assert status_of(command, data, "--weights", weights, *options) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("npr: error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("other", [["--preset", "forensynths-8"], ["--bootstrap", "9"], ["--by", "class"]])
def test_what_does_not_go_together(other, data, weights, capsys):
    assert status_of("eval", data, "--weights", weights, "--delivery", "none", *other) == 2
    assert "--delivery, --reals and --abstain do not go with" in capsys.readouterr().err
