import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from detector.data import Preprocessing, find_images
from detector.evaluation import (
    Evaluation,
    as_comparison_table,
    as_csv,
    as_json,
    as_table,
    compare,
    compute_metrics,
    evaluate,
    fits,
    read_results,
    score_collection,
    write_results,
)
from detector.evaluation.provenance import data_digest, weights_digest
from detector.models import NPRDetector
from tests.detector.evaluation.stub import Roughness, make_tree

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


def save_noise(path, rng, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (rng.integers(0, 256, (*size, 3)) * rng.uniform(0.1, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def data(tmp_path):
    """Two generators of both classes and mixed sizes, one of fakes alone, one bad file."""
    rng = np.random.default_rng()
    for generator in ("alpha", "beta"):
        for i in range(6):
            label = ("0_real", "1_fake")[i % 2]
            save_noise(tmp_path / "test" / generator / label / f"{i}.png", rng, (20 + i % 3, 24))
    save_noise(tmp_path / "test/gamma/1_fake/0.png", rng, (32, 32))
    (tmp_path / "test/alpha/0_real/bad.png").write_bytes(b"no image")
    return find_images(tmp_path, "test")


@pytest.fixture
def model():
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))
    model = NPRDetector(Preprocessing(policy="native", crop=16)).eval()
    torch.nn.init.zeros_(model.fc1.bias)
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_equal_one_image_at_a_time(data, model, workers):
    result = evaluate(model.train(), data, batch_size=2, workers=workers)
    assert list(result.rows) == ["alpha", "beta", "gamma"]
    assert [image.path.name for image in result.bad] == ["bad.png"]
    for generator in ("alpha", "beta"):
        labels, scores = [], []
        for sample in data.by_generator()[generator].samples:
            if sample.path.name != "bad.png":
                pixels = torch.from_numpy(np.array(Image.open(sample.path))).permute(2, 0, 1)
                with torch.no_grad():
                    scores.append(model.eval()(pixels[None]).double().sigmoid().item())
                labels.append(sample.label)
        row = result.rows[generator].metrics
        assert (row.reals, row.fakes) == (3, 3)
        assert row.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
        assert row.accuracy == pytest.approx(np.mean((np.array(scores) > 0.5) == np.array(labels)))


def test_mean_and_undefined(data, model):
    result = evaluate(model, data)
    rows = {name: row.metrics for name, row in result.rows.items()}
    assert rows["gamma"].average_precision is None
    both = [rows[name].average_precision for name in ("alpha", "beta")]
    assert result.mean["average_precision"] == pytest.approx(np.mean(both))
    assert result.mean["fake_accuracy"] == pytest.approx(np.mean([row.fake_accuracy for row in rows.values()]))
    assert result.undefined == ["gamma: no reals, so average precision and AUC are undefined"]


def test_other_preprocessing(data, model):
    other = Preprocessing(policy="resize", resize=16, crop=16)
    native, resized = evaluate(model, data), evaluate(model, data, preprocessing=other)
    assert native.rows["alpha"].images == resized.rows["alpha"].images
    scores = [score_collection(model, data, preprocessing=p).scores for p in (None, other)]
    assert not np.allclose(*scores, rtol=1e-6, atol=0)


def test_tables_agree(data, model):
    result = evaluate(model, data)
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert [row["generator"] for row in rows] == ["alpha", "beta", "gamma", "mean"]
    assert rows[2]["average_precision"] == ""
    assert float(rows[0]["average_precision"]) == pytest.approx(
        100 * result.rows["alpha"].metrics.average_precision, abs=1e-4
    )
    assert [int(row["images"]) for row in rows] == [6, 6, 1, 13]

    content = json.loads(as_json(result, made="today"))
    assert content["made"] == "today"
    assert content["generators"][0]["average_precision"] == result.rows["alpha"].metrics.average_precision
    assert content["generators"][2]["average_precision"] is None
    assert content["mean"] == result.mean
    assert content["bad"][0]["reason"].startswith("is not an image")

    table = as_table(result)
    assert [column.header for column in table.columns] == [
        "generator", "images", "Acc", "AP", "Acc real", "Acc fake", "AUC", "best Acc", "ECE", "FPR95",
    ]  # fmt: skip
    assert table.row_count == 4
    wide = as_table(result, forensic=True)
    assert [column.header for column in wide.columns][10:] == ["EER", "TPR 1%", "TPR .1%", "Cllr", "Cllr min"]
    metrics = result.rows["alpha"].metrics
    shown = [next(iter(column.cells)) for column in wide.columns][10:]
    assert shown[:3] == [
        f"{100 * value:.1f}" for value in (metrics.eer, metrics.tpr_at_1_percent_fpr, metrics.tpr_at_0_1_percent_fpr)
    ]
    assert shown[3:] == [f"{metrics.cllr:.3f}", f"{metrics.cllr_min:.3f}"]
    for name, unit in (("eer", 100), ("tpr_at_0_1_percent_fpr", 100), ("cllr", 1), ("cllr_min", 1)):
        assert content["generators"][0][name] == getattr(metrics, name)
        assert float(rows[0][name]) == pytest.approx(unit * getattr(metrics, name), abs=1e-4)
        assert float(rows[-1][name]) == pytest.approx(unit * result.mean[name], abs=1e-4)
        assert rows[2][name] == ""


def test_results_of_earlier_releases(data, model):
    """They lack the forensic metrics, and nothing else may lack."""
    result = evaluate(model, data)
    content = json.loads(as_json(result))
    for row in content["generators"]:
        for name in ("eer", "tpr_at_1_percent_fpr", "tpr_at_0_1_percent_fpr", "cllr", "cllr_min"):
            del row[name]
    earlier = Evaluation.from_dict(content)
    assert earlier.mean == result.mean | dict.fromkeys(
        ("eer", "tpr_at_1_percent_fpr", "tpr_at_0_1_percent_fpr", "cllr", "cllr_min")
    )
    assert as_table(earlier, forensic=True).row_count == 4
    assert as_csv(earlier).splitlines()[1].endswith(",,,,,")
    del content["generators"][0]["fpr95"]
    with pytest.raises(ValueError, match="a damaged evaluation"):
        Evaluation.from_dict(content)


def test_the_wide_table_needs_room(data, model, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # a terminal, for rich
    wide = as_table(evaluate(model, data), forensic=True)
    for columns, expected in (("80", False), ("200", True)):
        monkeypatch.setenv("COLUMNS", columns)
        assert fits(wide) == expected
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    monkeypatch.setenv("COLUMNS", "80")
    assert fits(wide)


@pytest.fixture
def classes(tmp_path):
    """A generator with two classes, one without, as in ForenSynths."""
    make_tree(tmp_path / "test", ["progan/cat", "progan/dog", "biggan"], np.random.default_rng(), count=3)
    return find_images(tmp_path, "test")


def test_class_rows(classes):
    model = Roughness()
    result = evaluate(model, classes)
    assert {name: list(row.classes) for name, row in result.rows.items()} == {"biggan": [], "progan": ["cat", "dog"]}
    members = [sample for sample in classes.samples if sample.category == "dog"]
    dogs = score_collection(model, classes.select(categories=["dog"]))
    assert result.rows["progan"].classes["dog"].metrics == compute_metrics([s.label for s in members], dogs.scores)
    assert as_table(result, classes=True).row_count == as_table(result).row_count + 2 == 5
    rows = list(csv.DictReader(io.StringIO(as_csv(result, result))))
    assert [row["class"] for row in rows] == ["", "", "cat", "dog", ""] * 2
    assert {row["detector"] for row in rows} == {"Roughness"}


def test_round_trip(data, classes, tmp_path):
    for collection in (data, classes):
        result = evaluate(Roughness(), collection, bootstrap=20, name="rough", weights="w.pth", command="npr eval")
        write_results(tmp_path / "result.json", [result.to_dict()])
        (values,) = read_results(tmp_path / "result.json")
        assert Evaluation.from_dict(values) == result
        assert (values["kind"], values["detector"], values["weights"]) == ("evaluation", "rough", "w.pth")


def test_keeps_scores(classes):
    model = Roughness()
    row = evaluate(model, classes).rows["biggan"]
    labels, scores = score_collection(model, classes).of_generator("biggan")
    assert row.real_scores == pytest.approx(
        sorted(s for s, of in zip(scores, labels, strict=True) if of == 0), rel=1e-5
    )
    assert row.fake_scores == pytest.approx(
        sorted(s for s, of in zip(scores, labels, strict=True) if of == 1), rel=1e-5
    )


def test_intervals_do_not_depend_on_other_generators(classes):
    model = Roughness()
    whole = evaluate(model, classes, bootstrap=50, seed=3)
    alone = evaluate(model, classes.select(generators=["progan"]), bootstrap=50, seed=3)
    rows = [result.rows["progan"] for result in (whole, alone)]
    assert rows[0].intervals == rows[1].intervals
    assert rows[0].intervals.keys() == {"accuracy", "average_precision", "auc"}
    assert [row.intervals for row in rows[0].classes.values()] == [row.intervals for row in rows[1].classes.values()]
    # Scores depend on what else is in a batch, in their last bit, and so do metrics of their values.
    assert vars(rows[0].metrics) == pytest.approx(vars(rows[1].metrics), rel=1e-5)
    assert whole.mean_intervals.keys() == {"accuracy", "average_precision", "auc"}
    assert evaluate(model, classes).mean_intervals == {}


def test_comparison(classes):
    results = [evaluate(Roughness(slope=slope), classes, name=f"slope {slope}") for slope in (-0.2, 0.2)]
    comparison = compare(results)
    assert comparison.generators == ("biggan", "progan")
    assert [column.detector for column in comparison.columns] == ["slope -0.2", "slope 0.2"]
    assert comparison.columns[1].mean.accuracy == results[1].mean["accuracy"]
    assert as_comparison_table(comparison).row_count == 3


def test_digests(classes, tmp_path):
    model = Roughness()
    assert weights_digest(model) == weights_digest(Roughness()) != weights_digest(Roughness(slope=0.1))
    first = data_digest(classes)
    assert first == data_digest(find_images(classes.root, "test"))
    assert first != data_digest(classes.select(generators=["biggan"]))
    classes.samples[0].path.write_bytes(b"other")
    assert first != data_digest(classes)


def test_says_that_generators_are_simulated(classes):
    assert evaluate(Roughness(), classes).provenance.simulated == ""
    manifest = {"note": "They are simulated.", "generators": [{"name": "biggan", "kind": "GAN-like"}]}
    (classes.root / "synth.json").write_text(json.dumps(manifest))
    for root in (classes.root, classes.root / "test"):
        origin = evaluate(Roughness(), find_images(root)).provenance
        assert (origin.simulated, origin.kinds) == ("They are simulated.", {"biggan": "GAN-like"})
    (classes.root / "synth.json").write_text("{")
    assert evaluate(Roughness(), classes).provenance.simulated == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "no JSON"), ("[]", "no result of npr"), ('{"a": 1}', "no result of npr"), ('[{"kind": 3}]', "no result")],
)
def test_files_that_hold_no_result(content, message, tmp_path):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"does not say its|no evaluation|damaged"):
        Evaluation.from_dict({"kind": "evaluation", "generators": []})


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (True, TypeError), (1.5, TypeError)])
def test_bad_bootstrap(value, error, classes):
    with pytest.raises(error, match="bootstrap must"):
        evaluate(Roughness(), classes, bootstrap=value)
