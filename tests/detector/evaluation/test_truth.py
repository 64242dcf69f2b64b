import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from detector.data import Delivery, find_images
from detector.evaluation import (
    Share,
    Truth,
    as_truth_csv,
    as_truth_tables,
    find_pool,
    measure_truth,
    pools_by_encoding,
    print_table,
    read_results,
    threshold_of,
    with_pools,
    write_results,
)
from tests.detector.evaluation.stub import Brightness, Roughness, save_grey

# Grey levels by folder; above 128 means fake.
LEVELS = {
    "both/0_real": (40, 100, 140),
    "both/1_fake": (100, 150, 160, 200),
    "fakes/1_fake": (90, 130),
    "film/0_real": (20, 30),
    "web/0_real": (125, 135, 145, 155, 165),
}
SUFFIX = {"web": "jpg", "film": "tif"}


@pytest.fixture
def data(tmp_path):
    for folder, levels in LEVELS.items():
        for i, level in enumerate(levels):
            save_grey(tmp_path / "data" / folder / f"{i}.{SUFFIX.get(folder.split('/')[0], 'png')}", level)
    return find_images(tmp_path / "data")


def truth_of(data, *deliveries, model=None, pools=None, **options):
    pools = pools_by_encoding(data) if pools is None else pools
    parsed = [Delivery.parse(text) for text in deliveries]
    return measure_truth(model or Brightness(), with_pools(data, pools), pools, parsed, **options)


def weighted(fakes, reals):
    labels = [1] * len(fakes) + [0] * len(reals)
    scores = [*fakes, *reals]
    weights = [1 / len(fakes)] * len(fakes) + [1 / len(reals)] * len(reals)
    return average_precision_score(labels, scores, sample_weight=weights), roc_auc_score(labels, scores)


def test_planted_scores(data):
    truth = truth_of(data)
    (part,) = truth.measurements
    assert (part.delivery, truth.threshold, truth.images, truth.columns) == (
        "none",
        0.5,
        16,
        ["own", "lossless", "jpeg"],
    )
    assert truth.pools == {"lossless": ("both", "film"), "jpeg": ("web",)}
    assert list(part.sources) == ["both", "fakes"]
    assert {name: source.recall for name, source in part.sources.items()} == {"both": Share(3, 4), "fakes": Share(1, 2)}
    assert part.reals == {"both": Share(1, 3), "film": Share(0, 2), "web": Share(4, 5)}
    assert part.pools == {"lossless": Share(1, 5), "jpeg": Share(4, 5)}

    lossless = LEVELS["both/0_real"] + LEVELS["film/0_real"]
    reals = {"own": LEVELS["both/0_real"], "lossless": lossless, "jpeg": LEVELS["web/0_real"]}
    for name, source in part.sources.items():
        assert list(source.against) == [pool for pool in reals if name == "both" or pool != "own"]
        for pool, separation in source.against.items():
            precision, auc = weighted(LEVELS[f"{name}/1_fake"], reals[pool])
            assert separation.reals == len(reals[pool])
            assert separation.balanced_average_precision == pytest.approx(precision, abs=1e-12)
            assert separation.auc == pytest.approx(auc, abs=1e-12)
    # By hand: 200, 160, 150 and then 140 (real), 100 twice, each label at 1/4 and 1/3.
    by_hand = 3 / 4 + (1 / 4) * 1 / (1 + 2 / 3)
    assert part.sources["both"].against["own"].balanced_average_precision == pytest.approx(by_hand)


def test_own_threshold(data):
    """180 is the only level above the threshold of a detector that brings one."""
    model = Brightness(threshold=1 / (1 + math.exp(-(180 - 128) / 16)))
    truth = truth_of(data, model=model)
    assert truth.threshold == model.threshold
    assert truth.measurements[0].sources["both"].recall == Share(1, 4)
    assert truth.measurements[0].worst_false_alarms == 0
    assert threshold_of(Brightness()) == 0.5
    for bad in (1.5, float("nan"), "half", True):
        model.threshold = bad
        with pytest.raises(ValueError, match=r"threshold must be a number in 0\.\.1"):
            threshold_of(model)


def test_share(rng):
    images = int(rng.integers(1, 300))
    called = int(rng.integers(0, images + 1))
    share = Share(called, images)
    assert share.rate == called / images
    assert share.interval == pytest.approx(tuple(binomtest(called, images).proportion_ci()), rel=1e-8, abs=1e-12)
    assert (Share(0, 0).rate, Share(0, 0).interval) == (None, None)


def test_more_reals_of_the_same_kind_change_nothing(data, tmp_path):
    before = truth_of(data).measurements[0]
    for times in (1, 2):
        for i, level in enumerate(LEVELS["web/0_real"]):
            save_grey(data.root / f"web/0_real/again{times}_{i}.jpg", level)
    after = truth_of(find_images(data.root)).measurements[0]
    assert after.reals["web"] == Share(12, 15)
    for name, source in before.sources.items():
        against = after.sources[name].against
        assert against["jpeg"].reals == 15
        for pool, separation in source.against.items():
            assert against[pool].balanced_average_precision == pytest.approx(separation.balanced_average_precision)
            assert against[pool].auc == pytest.approx(separation.auc)


def test_each_image_is_scored_once_a_delivery(data, tmp_path):
    """Pools that overlap each other and the data set, and one outside it."""
    save_grey(tmp_path / "photos/a.bmp", 10)
    pools = [
        find_pool("a", ["film", "web", "both/0_real/[01].png"], data),
        find_pool("b", ["web", str(tmp_path / "photos")], data),
    ]
    model = Brightness()
    truth = truth_of(data, "none", "png", model=model, pools=pools)
    assert model.calls == 2 * 17
    outside = str(tmp_path / "photos")
    assert truth.pools == {"a": ("film", "web", "both/0_real/[01].png"), "b": ("web", outside)}
    for part in truth.measurements:
        assert list(part.reals) == ["both", "film", "web", outside, "both/0_real/[01].png"]
        assert part.reals["both/0_real/[01].png"] == Share(0, 2)
        assert part.pools == {"a": Share(4, 9), "b": Share(4, 6)}
    assert truth.real_encodings[outside] == {"BMP": 1}
    assert truth.fake_encodings == {"both": {"PNG": 4}, "fakes": {"PNG": 2}}


@pytest.mark.parametrize("workers", [0, 2])
def test_both_labels_are_delivered(tmp_path, rng, workers):
    """What the detector sees is the cropped image, of reals and fakes alike."""
    levels = {}
    for folder in ("x/0_real", "x/1_fake"):
        for i in range(3):
            pixels = np.full((40, 40, 3), 255, dtype=np.uint8)
            levels[folder, i] = int(rng.integers(0, 256))
            pixels[12:28, 12:28] = levels[folder, i]
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    model = Brightness()
    (whole, cropped) = truth_of(
        find_images(tmp_path), "none", "crop:16", model=model, pools=[], workers=workers
    ).measurements
    assert [str(part.delivery) for part in (whole, cropped)] == ["none", "crop:16"]
    assert whole.sources["x"].recall == whole.reals["x"] == Share(3, 3)
    fakes, reals = ([levels[folder, i] for i in range(3)] for folder in ("x/1_fake", "x/0_real"))
    assert cropped.sources["x"].recall == Share(sum(level > 128 for level in fakes), 3)
    assert cropped.reals["x"] == Share(sum(level > 128 for level in reals), 3)
    assert cropped.sources["x"].against["own"].balanced_average_precision == pytest.approx(weighted(fakes, reals)[0])


def test_one_label_alone(data):
    fakes = truth_of(data.select(generators=["fakes"]))
    assert (fakes.columns, fakes.measurements[0].reals) == ([], {})
    assert fakes.measurements[0].worst_false_alarms is None
    assert fakes.remarks == ["fakes: no reals of its own and no pool, so balanced AP and AUC are undefined"]
    reals = truth_of(data.select(generators=["film", "web"]))
    assert reals.measurements[0].sources == {}
    assert reals.remarks == ["no fakes: false alarms alone are measured"]
    for truth in (fakes, reals):
        assert Truth.from_dict(json.loads(json.dumps(truth.to_dict()))) == truth
        assert len(as_truth_tables(truth)) == 2
        assert as_truth_csv(truth).count("\n") > 3


def test_images_that_cannot_be_read(data):
    (data.root / "both/0_real/0.png").write_bytes(b"no image")
    (data.root / "fakes/1_fake/0.png").write_bytes(b"")
    pools = [find_pool("film", ["film"], data)]
    truth = truth_of(data, "none", "png", pools=pools)
    assert sorted(bad.path.parent.parent.name for bad in truth.bad) == ["both", "fakes"]
    assert truth.images == 14
    for part in truth.measurements:
        assert part.reals["both"] == Share(1, 2)
        assert part.sources["fakes"].recall == Share(1, 1)
    assert truth.real_encodings["both"] == {"PNG": 2, "unknown": 1}


def test_summaries(data):
    part = truth_of(data).measurements[0]
    values = truth_of(data).to_dict()["measurements"][0]
    precisions = {
        pool: [
            source.against[pool].balanced_average_precision
            for source in part.sources.values()
            if pool in source.against
        ]
        for pool in ("own", "lossless", "jpeg")
    }
    for name, summary in (("mean", np.mean), ("worst", np.min)):
        of_pools = values["summaries"][name]["balanced_average_precision"]
        assert of_pools == {pool: pytest.approx(summary(found)) for pool, found in precisions.items()}
        assert values["summaries"][name]["recall"] == pytest.approx(summary([3 / 4, 1 / 2]))
    assert len(precisions["own"]) == 1
    assert values["worst_false_alarms"] == part.worst_false_alarms == 4 / 5


def test_round_trip(data, tmp_path):
    truth = truth_of(data, "none", "crop:4", name="bright", weights="w.pth", command="npr truth", told_by_headers=True)
    write_results(tmp_path / "t.json", [truth.to_dict()])
    (values,) = read_results(tmp_path / "t.json")
    assert Truth.from_dict(values) == truth
    assert (values["kind"], values["detector"], values["weights"]) == ("truth", "bright", "w.pth")
    with pytest.raises(ValueError, match="no truth, its kind is 'evaluation'"):
        Truth.from_dict(values | {"kind": "evaluation"})
    for name in ("measurements", "pools", "detector"):
        with pytest.raises(ValueError, match=r"damaged truth|does not say its"):
            Truth.from_dict({key: value for key, value in values.items() if key != name})
    with pytest.raises(ValueError, match="damaged truth"):
        Truth.from_dict(values | {"measurements": [{"delivery": "none"}]})


def test_tables_agree(data, capsys):
    truth = truth_of(data, "none", "png", name="bright", told_by_headers=True)
    rows = list(csv.DictReader(io.StringIO(as_truth_csv(truth, truth))))
    assert len(rows) == 2 * 2 * (2 + 2 + 3 + 2 + 1)
    assert {row["delivery"] for row in rows} == {"none", "png"}
    by_name = {(row["rows"], row["name"]): row for row in rows[:10]}
    part = truth.measurements[0]
    both = by_name["source", "both"]
    assert float(both["called_fake"]) == 75
    assert float(both["balanced_ap_jpeg"]) == pytest.approx(
        100 * part.sources["both"].against["jpeg"].balanced_average_precision, abs=1e-4
    )
    assert by_name["source", "fakes"]["balanced_ap_own"] == ""
    assert float(by_name["reals", "web"]["called_fake_high"]) == pytest.approx(100 * Share(4, 5).interval[1], abs=1e-4)
    assert by_name["reals", "web"]["encodings"] == "JPEG"
    assert float(by_name["worst of reals", ""]["called_fake"]) == 80

    tables = as_truth_tables(truth)
    assert len(tables) == 4
    for table in tables:
        print_table(table)
    out = capsys.readouterr().out
    assert "80.0 │ 28.4..99.5" in out
    assert out.count("worst folder") == 2
    assert "told by the files' headers" in " ".join(out.split())
    for source in part.sources.values():
        assert f"{100 * source.against['lossless'].balanced_average_precision:.1f}" in out


def test_draws_follow_from_seed_and_place(data, tmp_path):
    """Pools behind the data set, workers and batches change no draw."""

    class Noise:
        def __call__(self, image, generator):
            return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)

        def __str__(self):
            return "noise"

    save_grey(tmp_path / "photos/a.png", 10)
    pools = [find_pool("p", [str(tmp_path / "photos")], data)]
    rough = Roughness(slope=-0.5)
    torch.nn.init.constant_(rough.fc.bias, 42.5)

    def auc(pools, seed, **options):
        part = measure_truth(rough, with_pools(data, pools), pools, [Noise()], seed=seed, **options).measurements[0]
        return part.sources["both"].against["own"].auc, part.reals["web"]

    assert auc([], 3) == auc(pools, 3, batch_size=2) == auc(pools, 3)
    assert len({auc([], seed) for seed in range(8)}) > 1


def test_bad_deliveries(data):
    with pytest.raises(ValueError, match="deliveries must differ, got none, png, none"):
        truth_of(data, "none", "png", "none")
