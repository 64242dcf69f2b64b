"""Verdicts withheld and signs of doubt, on images whose scores and reasons are planted."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.data import Delivery, find_images
from detector.evaluation import (
    Truth,
    as_truth_csv,
    as_truth_tables,
    aurc,
    balanced_weights,
    find_pool,
    measure_truth,
    print_table,
    risk_coverage,
    with_pools,
)
from detector.evaluation.abstention import EVERYTHING, NOTHING, POINTS, YARDSTICK, Abstention, Withheld, compare_signs
from detector.models import save_checkpoint
from tests.detector.evaluation.stub import Brightness


def save_textured(path, level, side=16, contrast=9, **options):
    """A file whose cells all have texture, and whose mean is the level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), level, dtype=np.uint8)
    dark = np.add.outer(np.arange(side) // 3, np.arange(side) // 3) % 2 == 0  # which JPEG keeps
    pixels[dark] -= contrast
    pixels[~dark] += contrast
    pixels[::2, ::2] += 1
    pixels[1::2, 1::2] -= 1
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def data(tmp_path):
    """Levels above 128 are called fake; those within the margin of it, and what the name says, are doubted."""
    root = tmp_path / "data"
    for name, level in {"a": 100, "near": 128 - 3, "b": 128 + 5, "c": 180}.items():
        save_textured(root / "gan/0_real" / f"{name}.png", level)
    for name, level in {"a": 110, "near": 128 + 2, "b": 200}.items():
        save_textured(root / "gan/1_fake" / f"{name}.png", level)
    save_textured(root / "gan/1_fake" / "small.png", 90, side=6)
    Image.new("RGB", (16, 16), (220,) * 3).save(root / "gan/1_fake" / "flat.png")
    for i, quality in enumerate((15, 39, 40, 95)):
        save_textured(root / f"web/0_real/{i}.jpg", 60, contrast=50, quality=quality)
    (root / "web/0_real/broken.jpg").write_bytes(b"\xff\xd8\xff")
    return find_images(root)


def abstentions(data, *deliveries, pools=(), model=None, **options):
    parsed = [Delivery.parse(text) for text in deliveries]
    truth = measure_truth(model or Brightness(), with_pools(data, pools), pools, parsed, abstain=True, **options)
    return truth, [part.abstention for part in truth.measurements]


def test_planted_reasons(data):
    truth, (found,) = abstentions(data)
    assert found.fakes == {"gan": Withheld(5, 2, 3, 1, {"small": 1, "flat": 1, "score": 1})}
    assert found.reals == {"gan": Withheld(4, 2, 1, 0, {"score": 1}), "web": Withheld(4, 0, 2, 0, {"jpeg": 2})}
    assert found.totals["reals"] == Withheld(8, 2, 3, 0, {"jpeg": 2, "score": 1})
    assert found.totals["fakes"] == found.fakes["gan"]
    assert found.fakes["gan"].wrong_of_unsure == pytest.approx(1 / 3)
    assert found.fakes["gan"].wrong_of_rest == pytest.approx(1 / 2)
    part = truth.measurements[0]
    for name, withheld in found.reals.items():
        assert (withheld.images, withheld.wrong) == (part.reals[name].images, part.reals[name].called)
    assert (Withheld(0, 0, 0, 0, {}).wrong_of_unsure, Withheld(2, 1, 2, 1, {}).wrong_of_rest) == (None, None)


def test_each_image_counts_once_in_the_totals(data):
    """Though a part of a folder is a folder of its own."""
    pools = [find_pool("p", ["web/0_real/[01].jpg", "web"], data)]
    _, (found,) = abstentions(data, pools=pools)
    assert list(found.reals) == ["gan", "web", "web/0_real/[01].jpg"]
    assert found.reals["web/0_real/[01].jpg"].reasons == {"jpeg": 2}
    assert found.totals["reals"].images == 8


def test_deliveries_count_as_files(data):
    """Compressed anew, all are JPEGs of that quality, unless they were of a lower one; cropped, they are small."""
    _, (strong, weak, small) = abstentions(data, "jpeg:39", "jpeg:90", "crop:6")
    assert strong.totals["reals"].reasons["jpeg"] == 8
    assert strong.totals["fakes"].reasons["jpeg"] == 5
    assert weak.totals["reals"].reasons["jpeg"] == 2
    assert "jpeg" not in weak.totals["fakes"].reasons
    assert small.totals["reals"].reasons["small"] == 8


def test_signs(data):
    """Their areas follow from the planted scores and reasons; those over deliveries need several of them."""
    _, (found,) = abstentions(data)
    planted = {  # level, label, whether the file gives a reason
        "gan/0_real/a.png": (100, 0, 0),
        "gan/0_real/b.png": (133, 0, 0),
        "gan/0_real/c.png": (180, 0, 0),
        "gan/0_real/near.png": (125, 0, 0),
        "gan/1_fake/a.png": (110, 1, 0),
        "gan/1_fake/b.png": (200, 1, 0),
        "gan/1_fake/flat.png": (220, 1, 1),
        "gan/1_fake/near.png": (130, 1, 0),
        "gan/1_fake/small.png": (90, 1, 1),
        **{f"web/0_real/{i}.jpg": (60, 0, i < 2) for i in range(4)},
    }
    levels, labels, of_file = np.array(list(planted.values())).T
    errors = (levels > 128) != (labels == 1)
    weights, near = balanced_weights(labels), -np.abs(levels - 128.0)
    assert found.signs[YARDSTICK].aurc == pytest.approx(aurc(errors, near, weights), abs=1e-6)
    assert found.signs["distance to the threshold"].aurc == pytest.approx(aurc(errors, near, weights), abs=1e-6)
    expected = aurc(errors, 1000 * of_file + near, weights)
    assert found.signs["any reason of the file, then distance"].aurc == pytest.approx(expected, abs=1e-6)
    assert {name.split(",")[0] for name in found.signs if name.endswith("then distance")} == {
        "small", "jpeg", "flat", "any reason of the file",
    }  # fmt: skip
    assert found.signs[NOTHING].aurc == pytest.approx((2 / 8 + 2 / 5) / 2)
    assert found.signs[EVERYTHING].aurc <= min(sign.aurc for sign in found.signs.values())
    assert found.signs[YARDSTICK].gain == (0, 0)


def test_redeliveries(data):
    """A sign for what is delivered once more, and for nothing else: what came before it, nobody has."""
    signs = {"spread of the logit over re-deliveries", "re-deliveries disagree, then distance"}
    deliveries = {"none": True, "crop:12": True, "crop:12,blur:1": False, "blur:1": False}
    _, found = abstentions(data, *deliveries)
    for (text, has), one in zip(deliveries.items(), found, strict=True):
        assert signs & one.signs.keys() == (signs if has else set()), text
    # Brightness hardly changes, so no verdict does.
    assert found[1].signs["re-deliveries disagree, then distance"].aurc == pytest.approx(found[1].signs[YARDSTICK].aurc)


def test_gains_are_those_of_other_draws(rng):
    """A sign that knows the errors gains surely, one that knows nothing loses; the interval holds the difference."""
    labels = rng.integers(0, 2, 400)
    errors = rng.random(400) < 0.3
    signs = {YARDSTICK: errors + rng.normal(0, 2, 400), "knowing": errors + rng.normal(0, 0.3, 400)}
    found = compare_signs(labels, errors, signs, seed=int(rng.integers(99)))
    low, high = found["knowing"].gain
    assert 0 < low < found[YARDSTICK].aurc - found["knowing"].aurc < high
    assert found[NOTHING].gain[0] < 0 < found[EVERYTHING].gain[0]


def test_a_likelihood_ratio_is_a_sign_where_there_is_one(data):
    model = Brightness()
    # Whose ratio is 1 at a level of 90, though the threshold is at 128.
    llr = {"method": "logistic", "parameters": {"slope": 0.4, "intercept": 0.4 * 38 / 16}, "bounds": [-2, 2]}
    model.calibration = {"llr": llr | {"reals": 9, "fakes": 9}}
    _, (found,) = abstentions(data, model=model)
    assert "likelihood ratio against the verdict" in found.signs
    assert found.reals["gan"].reasons == {"score": 2}  # 100 and 125 are called real, and speak for fake
    assert found.fakes["gan"].reasons["score"] == 2  # 90, whose ratio is 1, and 110


def test_one_label_alone_has_no_signs(data):
    reals = data.select(generators=("web",))
    _, (found,) = abstentions(reals)
    assert (found.signs, found.fakes) == ({}, {})
    assert found.totals["fakes"] == Withheld(0, 0, 0, 0, {})


def test_round_trip_and_nothing_unasked(data):
    truth, (found,) = abstentions(data)
    again = Truth.from_dict(json.loads(json.dumps(truth.to_dict(), allow_nan=False)))
    assert again == truth
    assert Abstention.from_dict(found.to_dict()) == found
    plain = measure_truth(Brightness(), data, (), [])
    assert "abstention" not in plain.to_dict()["measurements"][0]
    values = truth.to_dict()
    for part in values["measurements"]:
        del part["abstention"]
    assert values == plain.to_dict()
    with pytest.raises(ValueError, match="damaged truth"):
        Truth.from_dict(truth.to_dict() | {"measurements": [values["measurements"][0] | {"abstention": {"fakes": []}}]})


def shown(table, capsys):
    print_table(table)
    return capsys.readouterr().out


def test_tables(data, capsys):
    """Those of before come first, as they were."""
    truth, _ = abstentions(data, "none", "png")
    plain = measure_truth(Brightness(), data, (), [Delivery.parse("none"), Delivery.parse("png")])
    tables, before = as_truth_tables(truth), as_truth_tables(plain)
    assert (len(tables), len(before)) == (8, 4)
    for table, other in zip(tables, before, strict=False):
        assert shown(table, capsys) == shown(other, capsys)
    withheld, signs = shown(tables[4], capsys), shown(tables[5], capsys)
    assert "reals: web" in withheld
    assert "jpeg 2" in withheld
    assert "all fakes" in withheld
    assert YARDSTICK in signs
    assert "any reason of the file" in signs


def test_csv(data):
    """The rows of before come first, and their cells are as they were."""
    pools = [find_pool("p", ["web"], data)]
    truth, (found, _) = abstentions(data, "none", "png", pools=pools)
    plain = measure_truth(Brightness(), data, pools, [Delivery.parse("none"), Delivery.parse("png")])
    rows, before = (list(csv.DictReader(io.StringIO(as_truth_csv(of)))) for of in (truth, plain))
    kept = before[0].keys()
    new = {"wrong", "unsure", "unsure_wrong", "coverage", "risk", "reasons", "aurc", "gain_low", "gain_high"}
    assert rows[0].keys() - kept == new
    delivered = [row for row in rows if row["delivery"] == "none"]
    old = [row for row in before if row["delivery"] == "none"]
    assert [{name: row[name] for name in kept} for row in delivered[: len(old)]] == old
    assert not any(row[name] for row in delivered[: len(old)] for name in new)
    by_row = {(row["rows"], row["name"]): row for row in delivered[len(old) :]}
    assert by_row["fakes withheld", "gan"] == by_row["all fakes withheld", ""] | {
        "rows": "fakes withheld", "name": "gan",
    }  # fmt: skip
    web = by_row["reals withheld", "web"]
    assert [web[name] for name in ("images", "wrong", "unsure", "unsure_wrong", "coverage", "risk", "reasons")] == [
        "4", "0", "2", "0", "50.0000", "0.0000", "jpeg 2",
    ]  # fmt: skip
    both = by_row["both labels", ""]
    # Of 5 fakes 2 are judged, 1 of them wrongly; of 8 reals 5, 2 of them wrongly.
    coverage, risk = (2 / 5 + 5 / 8) / 2, (1 / 5 + 2 / 8) / (2 / 5 + 5 / 8)
    assert (float(both["coverage"]), float(both["risk"])) == pytest.approx((100 * coverage, 100 * risk), abs=1e-4)
    assert (found.coverage, found.risk) == pytest.approx((coverage, risk))
    for name, sign in found.signs.items():
        row = by_row["sign", name]
        cells = [float(row[cell]) for cell in ("aurc", "gain_low", "gain_high")]
        assert cells == pytest.approx([100 * value for value in (sign.aurc, *sign.gain)], abs=1e-4)
    assert {of for of, _ in by_row} == {
        "fakes withheld", "reals withheld", "all fakes withheld", "all reals withheld", "both labels", "sign",
    }  # fmt: skip
    assert len(by_row) == len(delivered) - len(old) == 6 + len(found.signs)


def test_curves(rng):
    """As many points as there is coverage to tell apart, on the curve, up to the risk of all."""
    labels = np.repeat([0, 1], [301, 98])
    errors = rng.random(399) < 0.3
    doubts = rng.random(399)
    points = np.array(compare_signs(labels, errors, {YARDSTICK: doubts})[YARDSTICK].curve)
    curve = np.stack(risk_coverage(errors, doubts, balanced_weights(labels)), axis=1)
    assert len(points) == POINTS
    # The coverage goes up by at most 1 / (2 * 98) from one image to the next.
    assert (np.abs(points[:, 0] - np.arange(1, POINTS + 1) / POINTS) < 1 / 196 + 1e-6).all()
    assert all(np.abs(curve - point).max(axis=1).min() < 1e-6 for point in points)
    risk = (errors[labels == 0].mean() + errors[labels == 1].mean()) / 2
    assert tuple(points[-1]) == pytest.approx((1, risk), abs=1e-6)  # points have six decimals
    few = compare_signs(labels[-100:], errors[-100:], {YARDSTICK: doubts[-100:]})[YARDSTICK].curve
    assert len(few) <= 100


def test_command(data, tmp_path, capsys):
    """--abstain adds tables and a field of --json, and changes no other."""
    import torch

    from detector.data import Preprocessing
    from detector.models import NPRDetector

    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_checkpoint(weights, NPRDetector(Preprocessing(crop=16)))
    command = ["truth", str(data.root), "--weights", str(weights), "--delivery", "none"]
    outputs = []
    for options in ([], ["--abstain"]):
        assert main([*command, *options]) == 0
        text = capsys.readouterr().out
        assert main([*command, *options, "--json", "-"]) == 0
        outputs.append((text, json.loads(io.StringIO(capsys.readouterr().out).read())))
    (plain, values), (text, more) = outputs
    assert text.startswith(plain)
    assert "verdicts withheld" not in plain
    assert "verdicts withheld" in text
    assert more["measurements"][0].pop("abstention")["totals"][1]["images"] == 8
    for result in (values, more):
        result.pop("command")
        result.pop("versions", None)
    assert {key: value for key, value in more.items() if key != "date"} == {
        key: value for key, value in values.items() if key != "date"
    }
