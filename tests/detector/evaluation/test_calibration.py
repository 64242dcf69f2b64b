"""Calibration of a detector on image files whose scores are planted."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest

from detector.data import FAKE, REAL, DataError
from detector.evaluation import (
    Calibration,
    TooFewError,
    calibrate,
    certified_threshold,
    find_folders,
    fit_llr,
    llr_of,
    parse_pools,
)
from detector.evaluation.calibration_cost import logits_of
from detector.evaluation.calibration_measures import Measures, measure
from tests.detector.evaluation.stub import Brightness, save_grey

ALPHA = 0.1  # which 29 reals can certify


def score(level):
    return 1 / (1 + math.exp(-(level - 128) / 16))


def save_levels(folder, levels, start=0):
    """PNGs of these grey levels. Equal levels get different sizes, so that no two files are the same."""
    for i, level in enumerate(levels, start):
        save_grey(folder / f"{i:03}.png", int(level), size=(8, 8 + i))
    return [score(int(level)) for level in levels]


@pytest.fixture
def images(tmp_path, rng):
    """Folders camera, web and made, and the scores of their images."""
    return {
        "camera": save_levels(tmp_path / "camera", rng.integers(20, 120, 40)),
        "web": save_levels(tmp_path / "web", rng.integers(60, 160, 33), start=40),
        "made": save_levels(tmp_path / "made", rng.integers(130, 230, 21), start=73),
    }


def groups_in(root, *names, label=REAL):
    return [find_folders(name, [str(root / name)], label) for name in names]


def test_equals_the_library_on_planted_scores(images, tmp_path):
    reals, fakes = groups_in(tmp_path, "camera", "web"), groups_in(tmp_path, "made", label=FAKE)
    found = calibrate(Brightness(), reals, fakes, alpha=ALPHA, method="pav", name="grey", command="npr calibrate")
    own = {name: certified_threshold(images[name], ALPHA) for name in ("camera", "web")}
    assert found.threshold == pytest.approx(max(one.threshold for one in own.values()), abs=1e-6)
    for name, one in own.items():
        part = found.reals[name]
        assert found.certified[name].bound == one.bound
        assert found.certified[name].threshold == pytest.approx(one.threshold, abs=1e-6)
        assert found.certified[name].called == one.called
        assert part.share.images == len(images[name])
        assert part.share.called == (np.array(images[name]) > found.threshold + 1e-6).sum()
        digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).iterdir())
        assert part.digest == hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
        assert part.folders == (name,)
        assert found.real_logits[name] == pytest.approx(np.sort(logits_of(images[name])), rel=1e-4, abs=1e-4)
    assert found.fakes["made"].share.called == (np.array(images["made"]) > found.threshold + 1e-6).sum()
    expected = fit_llr(images["camera"] + images["web"], images["made"], "pav")
    assert found.llr.bounds == pytest.approx(expected.bounds, abs=1e-6)
    assert found.provenance.images == sum(map(len, images.values()))
    assert found.provenance.versions.keys() == {"npr-kernels", "torch", "pillow"}
    assert found.provenance.data == "camera, web, made"


def test_without_fakes(images, tmp_path):
    found = calibrate(Brightness(), groups_in(tmp_path, "camera"), alpha=ALPHA)
    assert (found.llr, found.measures, found.fakes) == (None, None, {})
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.record()["llr"] is None


def test_survives_json(images, tmp_path):
    reals, fakes = groups_in(tmp_path, "camera", "web"), groups_in(tmp_path, "made", label=FAKE)
    found = calibrate(Brightness(), reals, fakes, alpha=ALPHA)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Calibration.from_dict(values) == found
    assert json.loads(json.dumps(found.record(), allow_nan=False)).items() <= values.items()
    assert str(tmp_path) not in json.dumps(found.record())
    for name in values:
        if name in ("simulated", "kinds", "preset", "command", "doubtful"):
            continue
        with pytest.raises(ValueError, match=r"calibration|does not say"):
            Calibration.from_dict({key: value for key, value in values.items() if key != name})
    with pytest.raises(ValueError, match="no calibration, its kind is 'truth'"):
        Calibration.from_dict(values | {"kind": "truth"})


def test_copies_count_once(images, tmp_path):
    before = calibrate(Brightness(), groups_in(tmp_path, "camera"), alpha=ALPHA)
    for i, path in enumerate(sorted((tmp_path / "camera").iterdir())[:7]):
        shutil.copy(path, tmp_path / "camera" / f"copy{i}.png")
    after = calibrate(Brightness(), groups_in(tmp_path, "camera"), alpha=ALPHA)
    assert after.reals["camera"].copies == 7
    assert after.reals["camera"].digest == before.reals["camera"].digest
    assert (after.threshold, after.real_logits) == (before.threshold, before.real_logits)
    (tmp_path / "copies").mkdir()
    for i in range(50):
        shutil.copy(path, tmp_path / "copies" / f"{i}.png")
    with pytest.raises(TooFewError, match="copies: 1 real cannot certify"):
        calibrate(Brightness(), groups_in(tmp_path, "copies"), alpha=ALPHA)


def test_a_real_in_two_groups_counts_in_both_and_once_for_the_ratio(images, tmp_path):
    (camera,), (made,) = groups_in(tmp_path, "camera"), groups_in(tmp_path, "made", label=FAKE)
    both = find_folders("both", [str(tmp_path / "camera"), str(tmp_path / "web")], REAL)
    found = calibrate(Brightness(), [camera, both], [made], alpha=ALPHA)
    assert found.reals["both"].share.images == 73
    assert found.llr.reals == 73


def test_unreadable_files_do_not_count(images, tmp_path):
    (tmp_path / "camera" / "bad.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "camera" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = calibrate(Brightness(), groups_in(tmp_path, "camera"), alpha=ALPHA)
    assert {bad.path.name for bad in found.bad} == {"bad.png", "gone.png"}
    assert found.reals["camera"].share.images == 40


def test_too_few_is_said_before_scoring(images, tmp_path):
    model = Brightness()
    with pytest.raises(TooFewError, match=r"web: 33 reals cannot certify a rate of 1 % .* at least 299"):
        calibrate(model, groups_in(tmp_path, "web"))
    assert model.calls == 0
    for path in sorted((tmp_path / "web").iterdir())[:5]:
        path.write_bytes(b"broken" + path.name.encode())
    with pytest.raises(TooFewError, match=r"web: 28 reals cannot certify a rate of 10 % .* at least 29"):
        calibrate(model, groups_in(tmp_path, "web"), alpha=ALPHA)
    assert model.calls == 28


def test_what_cannot_be_calibrated(images, tmp_path):
    (camera,), (made,) = groups_in(tmp_path, "camera"), groups_in(tmp_path, "made", label=FAKE)
    shutil.copy(tmp_path / "camera" / "005.png", tmp_path / "made" / "innocent.png")
    (mixed,) = groups_in(tmp_path, "made", label=FAKE)
    with pytest.raises(DataError, match=r"005\.png is among the reals \(camera\) and among the fakes \(made\)"):
        calibrate(Brightness(), [camera], [mixed], alpha=ALPHA)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="broken: no image could be read"):
        calibrate(Brightness(), [camera], groups_in(tmp_path, "broken", label=FAKE), alpha=ALPHA)
    low = save_levels(tmp_path / "low", range(20), start=200)
    assert max(low) < min(images["camera"])
    with pytest.raises(ValueError, match="fakes do not score higher than reals"):
        calibrate(Brightness(), [camera], groups_in(tmp_path, "low", label=FAKE), alpha=ALPHA)
    steep = Brightness()
    steep.fc.weight.data.fill_(50)
    with pytest.raises(DataError, match="camera: too many reals have a score of 1"):
        calibrate(steep, [camera], [made], alpha=ALPHA)
    steep.fc.bias.data.fill_(-50 * 255)
    found = calibrate(steep, [camera], alpha=ALPHA)
    assert 0 < found.threshold < 1e-300, "all reals score 0"


def test_folders_by_label(tmp_path):
    for name in ("set/0_real/a.png", "set/1_fake/b.png", "plain/c.png", "other/1_fake/d.png"):
        save_grey(tmp_path / name, 5)

    def names(item, label):
        return [path.name for path in find_folders("x", [str(tmp_path / item)], label).images]

    assert names("set", REAL) == names("set/0_real", REAL) == ["a.png"]
    assert names("set", FAKE) == names("set/1_fake", FAKE) == names("set/*/b*", FAKE) == ["b.png"]
    assert names("plain", REAL) == names("plain", FAKE) == ["c.png"]
    for item, label, message in [
        ("set/1_fake", REAL, "x: no real image in .*set/1_fake"),
        ("other", REAL, "x: no real image in .*other"),
        ("set/0_real", FAKE, "x: no generated image in .*set/0_real"),
        ("nowhere", REAL, "x: .*nowhere does not exist"),
    ]:
        with pytest.raises(DataError, match=message):
            names(item, label)
    with pytest.raises(ValueError, match="fakes must be NAME=FOLDER"):
        parse_pools(["a,"], "fakes")


def test_ratio_of_a_model(images, tmp_path):
    model = Brightness()
    assert llr_of(model) is None
    found = calibrate(model, groups_in(tmp_path, "camera"), groups_in(tmp_path, "made", label=FAKE), alpha=ALPHA)
    model.calibration = json.loads(json.dumps(found.record()))
    assert llr_of(model) == found.llr
    model.calibration["llr"]["method"] = "tarot"
    with pytest.raises(ValueError, match="a damaged likelihood ratio"):
        llr_of(model)


def test_measures(rng):
    reals, fakes = rng.random(300) ** 2, np.sqrt(rng.random(120))
    llr = fit_llr(reals, fakes)
    found = measure(reals, fakes, llr)
    assert Measures.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for rate, share in found.found.items():
        threshold = np.sort(reals)[::-1][int(rate * 300)]  # three above it at 1 %, none at 0.1 %
        assert (share.called, share.images) == ((fakes > threshold).sum(), 120)
    assert list(found.found) == [0.01, 0.001]
    assert found.cllr_min <= found.cllr_learnt <= found.cllr + 0.01
    assert found.cllr_min < found.cllr_cross_validated
