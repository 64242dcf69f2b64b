import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from detector.data import Preprocessing, find_images
from detector.evaluation import as_csv, as_json, as_table, evaluate, score_collection
from detector.models import NPRDetector

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
