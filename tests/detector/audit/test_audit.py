"""Audits of small data sets: every leak that is planted is found, and clean sets are not accused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, features
from scipy import stats

from detector.audit import FACTS, Audit, audit, columns, find_duplicates, find_leaks, measure_bias, read_records
from detector.audit.audit import splits_of
from detector.audit.bias import follow
from detector.audit.leaks import DIFFERS, LEAK, NOT_FOUND, TOO_FEW
from detector.audit.tables import as_audit_tables, in_order, summary
from detector.data import Delivery, find_images
from tests.detector.audit.images import PROFILE, SIDE, as_image, exif, make_set, picture, save, text
from tests.detector.evaluation.stub import Brightness, save_grey

PARAMETERS = "cat\nSteps: 20, Sampler: Euler, CFG scale: 7"


def comb(period):
    def plant(path, pixels, rng):
        save(path, pixels + 8.0 * (np.arange(pixels.shape[1]) % period == 0)[:, None])

    return plant


def saved(suffix=None, **options):
    def plant(path, pixels, rng):
        save(path if suffix is None else path.with_suffix(suffix), pixels, **options)

    return plant


def grown(height, width):
    return lambda path, pixels, rng: save(path, picture(rng, height, width))


JPEG = {"suffix": "jpg", "quality": 90}

LEAKS = {
    "format": (saved(".bmp"), {}),
    "bytes per pixel": (saved(compress_level=0), {}),
    "colour mode": (lambda path, pixels, rng: as_image(pixels).convert("L").save(path), {}),
    "width": (grown(SIDE, SIDE + 2), {}),
    "height": (grown(SIDE + 2, SIDE), {}),
    "aspect": (grown(SIDE + 2, SIDE), {}),
    "width x height": (grown(SIDE + 2, SIDE), {}),
    "JPEG quality": (saved(quality=84), JPEG),
    "JPEG tables": (saved(quality=84), JPEG),
    "chroma subsampling": (saved(quality=90, subsampling="4:4:4"), JPEG),
    "progressive": (saved(quality=90, progressive=True), JPEG),
    "metadata present": (saved(exif=exif(software="x")), {}),
    "colour profile": (saved(icc_profile=PROFILE), {}),
    "camera named": (saved(exif=exif(make="Canon", model="5D")), {}),
    "software named": (saved(pnginfo=text(parameters=PARAMETERS)), {}),
    "comb of period 2": (comb(2), {}),
    "comb of period 4": (comb(4), {}),
    "comb of period 8": (comb(8), {}),
    "noise": (lambda path, pixels, rng: save(path, pixels + rng.normal(0, 8, (*pixels.shape[:2], 1))), {}),
    "saturation": (lambda path, pixels, rng: save(path, (pixels + pixels.mean(axis=2, keepdims=True)) / 2), {}),
    "brightness": (lambda path, pixels, rng: save(path, pixels + 60), {}),
    "contrast": (lambda path, pixels, rng: save(path, 128 + 0.5 * (pixels - 128)), {}),
    "clipped samples": (lambda path, pixels, rng: save(path, 128 + 4 * (pixels - 128)), {}),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(name, rng, tmp_path):
    plant, options = LEAKS[name]
    found = audit(find_images(make_set(tmp_path, rng, plant, **options)))
    finding = next(finding for finding in found.findings if finding.name == name)
    assert finding.verdict == (DIFFERS if finding.kind == "pixels" else LEAK)
    assert finding.auc > 0.85
    assert finding.interval[0] > 0.6
    assert found.is_clean == (finding.kind == "pixels" and not found.leaks)
    assert finding in in_order(found.findings)[: sum(each.found for each in found.findings)]


def test_origin_and_chroma(rng, tmp_path):
    """What needs XMP or a history to be planted."""
    from tests.detector.facts.files import TRAINED, international_text, packet, with_chunks

    def plant(path, pixels, rng):
        once = path.with_suffix(".jpg")
        save(once, pixels, quality=95, subsampling="4:2:0")
        save(path, Image.open(once))
        once.unlink()
        chunk = international_text("XML:com.adobe.xmp", packet(attributes=f'iptc:DigitalSourceType="{TRAINED}"'))
        path.write_bytes(with_chunks(path.read_bytes(), (b"iTXt", chunk)))

    findings = {each.name: each for each in audit(find_images(make_set(tmp_path, rng, plant))).findings}
    assert findings["origin named"].verdict == LEAK
    assert findings["origin named"].fake == {"none": 0, "trainedAlgorithmicMedia": 24}
    assert findings["chroma detail"].verdict == DIFFERS
    assert findings["chroma detail"].higher == "reals"


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Records of images that differ in everything that facts tell."""
    rng = np.random.default_rng()
    root = tmp_path_factory.mktemp("varied")
    formats = ["jpg", "png", "bmp"] + ["webp"] * features.check("webp")
    for i in range(72):
        suffix = rng.choice(formats)
        pixels = picture(rng, *rng.integers(40, 90, 2), contrast=rng.uniform(0.3, 2)) + rng.normal(0, 30)
        options = {}
        if suffix == "jpg":
            options = {"quality": int(rng.integers(40, 100)), "progressive": bool(rng.random() < 0.5)}
        if suffix != "bmp" and rng.random() < 0.5:
            options["exif"] = exif(make=str(rng.choice(["Canon", "Nikon"])), model=f"{rng.integers(5)}")
        if suffix != "bmp" and rng.random() < 0.3:
            options["icc_profile"] = PROFILE
        save(root / "real" / f"{i}.{suffix}", pixels, **options)
    records, bad = read_records(find_images(root))
    assert not bad
    return records


@pytest.mark.parametrize("fakes", [36, 12])
def test_a_clean_set_is_not_accused(varied, fakes, rng):
    """Labels dealt out at random: any fact at all is found in at most one case of twenty."""
    facts = columns(varied)
    accused = 0
    for seed in range(40):
        labels = rng.permutation(np.repeat([0, 1], [len(varied) - fakes, fakes])).tolist()
        accused += any(finding.found for finding in find_leaks(facts, labels, seed))
    assert accused <= stats.binom.ppf(1 - 1e-5, 40, 0.05)


def test_a_clean_set_is_clean(rng, tmp_path):
    found = audit(find_images(make_set(tmp_path, rng)))
    untested = {finding.name for finding in found.findings if finding.verdict == TOO_FEW}
    assert untested == {"JPEG quality", "JPEG tables", "chroma subsampling", "progressive"}
    assert not found.duplicates.groups
    if not found.leaks:  # in 19 of 20 cases
        assert found.is_clean
        assert summary(found) == ["no fact of the files gives the labels away"]


def test_findings_do_not_depend_on_each_other(varied, rng):
    """A fact's statistics are its own; its corrected p-value alone knows of the others."""
    labels = rng.integers(0, 2, len(varied)).tolist()
    facts = columns(varied)
    together = find_leaks(facts, labels, 7)
    for column, finding in zip(facts, together, strict=True):
        (alone,) = find_leaks([column], labels, 7)
        assert (alone.auc, alone.interval, alone.real, alone.fake) == (
            finding.auc, finding.interval, finding.real, finding.fake,
        )  # fmt: skip
        assert alone.p is None or alone.p <= finding.p


def test_facts_have_names_of_their_own():
    assert len({fact.name for fact in FACTS}) == len(FACTS)
    assert {*LEAKS, "file size", "origin named", "chroma detail"} == {fact.name for fact in FACTS}


def test_workers_change_nothing(rng, tmp_path):
    collection = find_images(make_set(tmp_path, rng, count=4))
    assert read_records(collection, workers=0) == read_records(collection, workers=2)


def test_duplicates(rng, tmp_path):
    """Equal and near images within and across labels and splits."""
    for split in ("train", "test"):
        make_set(tmp_path, rng, count=5, split=f"{split}/x")
    pixels = [picture(rng) for _ in range(5)]
    train, test = tmp_path / "train/x", tmp_path / "test/x"
    save(train / "0_real/a.png", pixels[0])
    shutil.copy(train / "0_real/a.png", train / "0_real/a_again.png")  # equal, within
    save(train / "0_real/b.png", pixels[1])
    shutil.copy(train / "0_real/b.png", train / "1_fake/b.png")  # equal, across labels
    save(train / "0_real/c.png", pixels[2])
    save(train / "1_fake/c.jpg", pixels[2], quality=80)  # near, across labels
    save(train / "0_real/d.png", pixels[3])
    save(test / "0_real/d.jpg", pixels[3], quality=70)  # near, across splits
    save(test / "0_real/e.png", as_image(pixels[4]))
    save(test / "0_real/e_small.png", as_image(pixels[4]).resize((40, 40), Image.Resampling.LANCZOS))
    save(train / "0_real/flat.png", np.full((30, 30, 3), 99))
    collection = find_images(tmp_path)
    records, _ = read_records(collection)
    found = find_duplicates(records, collection, splits_of(collection))
    groups = {
        (group.kind, *(member.removesuffix(".png").removesuffix(".jpg") for member in group.members)): group
        for group in found.groups
    }
    assert set(groups) == {
        ("exact", "train/x/0_real/a", "train/x/0_real/a_again"),
        ("exact", "train/x/0_real/b", "train/x/1_fake/b"),
        ("near", "train/x/0_real/c", "train/x/1_fake/c"),
        ("near", "test/x/0_real/d", "train/x/0_real/d"),
        ("near", "test/x/0_real/e", "test/x/0_real/e_small"),
    }
    crossing = {name[1][-1]: (group.crosses_labels, group.crosses_splits) for name, group in groups.items()}
    assert crossing == {
        "a": (False, False), "b": (True, False), "c": (True, False), "d": (False, True), "e": (False, False),
    }  # fmt: skip
    assert {group.members[0][-5] for group in found.leaks} == {"b", "d"}
    assert found.unhashed == 1
    result = audit(collection)
    assert not result.is_clean
    assert any("near images in splits test, train" in line for line in summary(result))
    assert any("equal files in both labels" in line for line in summary(result))


def test_duplicates_are_linked_by_others(rng, tmp_path):
    """A picture that drifts step by step is one group, though its ends are far apart; equal files count once."""
    collection = find_images(make_set(tmp_path, rng, count=4))
    records, _ = read_records(collection)
    hashes = [0b0, 0b111111, 0b111111111111, 2**63 - 1, 2**63 - 1, 0b1, None, None]
    digests = ["a", "b", "c", "d", "e", "a", "f", "g"]
    from dataclasses import replace

    changed = [
        replace(record, hash=value, digest=digest)
        for record, value, digest in zip(records, hashes, digests, strict=True)
    ]
    found = find_duplicates(changed, collection, [None] * 8)
    names = [sample.path.relative_to(tmp_path).as_posix() for sample in collection.samples]
    assert [(group.kind, group.members) for group in found.groups] == [
        ("exact", (names[0], names[5])),
        ("near", (names[0], names[1], names[2])),
        ("near", (names[3], names[4])),
    ]


def test_bad_images_do_not_count(rng, tmp_path):
    make_set(tmp_path, rng, count=6)
    (tmp_path / "0_real" / "bad.png").write_bytes(b"\x89PNG broken")
    found = audit(find_images(tmp_path))
    assert (found.reals, found.fakes) == (6, 6)
    assert [bad.path.name for bad in found.bad] == ["bad.png"]


def test_one_label_alone_is_not_tested(rng, tmp_path):
    make_set(tmp_path, rng, count=6)
    shutil.rmtree(tmp_path / "1_fake")
    found = audit(find_images(tmp_path))
    assert {finding.verdict for finding in found.findings} == {TOO_FEW}
    assert as_audit_tables(found)


def test_following_against_scipy(varied, rng):
    """Spearman's correlation of numbers, and of categories Kruskal and Wallis' H."""
    labels = rng.integers(0, 2, len(varied))
    scores = np.round(rng.random(len(varied)), 1)
    facts = {column.fact.name: column for column in columns(varied)}
    found = {(each.fact, each.label): each for each in follow(list(facts.values()), labels, scores)}
    for label in (0, 1):
        rows = facts["contrast"].rows[labels == label]
        values = facts["contrast"].values[labels == label]
        expected = stats.spearmanr(values, scores[rows]).statistic
        assert found["contrast", label].strength == pytest.approx(expected, abs=1e-9)
        groups = {}
        for row, name in zip(facts["format"].rows, facts["format"].values, strict=True):
            if labels[row] == label:
                groups.setdefault(name, []).append(scores[row])
        statistic = stats.kruskal(*groups.values()).statistic
        images = sum(map(len, groups.values()))
        epsilon = (statistic - len(groups) + 1) / (images - len(groups))
        assert found["format", label].strength == pytest.approx(np.sqrt(max(epsilon, 0)), abs=1e-9)
        for name, mean in found["format", label].means.items():
            assert mean == pytest.approx(np.mean(groups[name]))


def test_following_of_nothing_is_not_found(varied, rng):
    facts = columns(varied)
    labels = rng.integers(0, 2, len(varied))
    accused = sum(any(each.found for each in follow(facts, labels, rng.random(len(varied)), i)) for i in range(25))
    assert accused <= stats.binom.ppf(1 - 1e-5, 25, 0.05)


def test_a_detector_that_goes_by_brightness(rng, tmp_path):
    """Its score follows brightness within each label and nothing of the file; deliveries change it as computed."""
    for label, levels in (("0_real", (40, 150)), ("1_fake", (100, 215))):
        for i, level in enumerate(np.linspace(*levels, 12).round().astype(int).tolist()):
            save_grey(tmp_path / label / f"{i}.png", level, (40, 40))
    collection = find_images(tmp_path)
    records, _ = read_records(collection)
    deliveries = [Delivery.parse("none"), Delivery.parse("crop:8"), Delivery.parse("jpeg:50")]
    found = measure_bias(Brightness(), collection, columns(records), deliveries, name="b", weights="w", seed=3)
    follows = {(each.fact, each.label): each.strength for each in found.following if each.found}
    assert follows["brightness", 0] == follows["brightness", 1] == pytest.approx(1)
    assert {fact for fact, _ in follows} <= {"brightness", "file size", "bytes per pixel"}
    assert [after.delivery for after in found.delivered] == ["none", "crop:8", "jpeg:50"]
    none, cropped, _ = found.delivered
    levels = np.linspace(40, 150, 12).round()
    assert none.real_score == pytest.approx(np.mean(1 / (1 + np.exp(-(levels - 128) / 16))), abs=1e-4)
    assert none.false_alarms == np.mean(levels > 128)
    assert (cropped.auc, cropped.found) == (none.auc, none.found)


def test_results_survive_json(rng, tmp_path):
    torch.manual_seed(0)
    make_set(tmp_path, rng, saved(exif=exif(software="x")), count=12)
    shutil.copy(tmp_path / "0_real/000.png", tmp_path / "0_real/copy.png")
    (tmp_path / "0_real/bad.png").write_bytes(b"")

    def measure(collection, facts):
        return measure_bias(Brightness(), collection, facts, [Delivery.parse("png")])

    found = audit(find_images(tmp_path), detectors=[measure], command="npr audit", seed=5)
    assert found.duplicates.groups
    assert found.detectors[0].following
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = Audit.from_dict(values)
    assert again == found
    assert again.to_dict() == found.to_dict()
    assert values["clean"] is False
    with pytest.raises(ValueError, match="no audit"):
        Audit.from_dict({"kind": "truth"})
    with pytest.raises(ValueError, match="a damaged audit"):
        Audit.from_dict({"kind": "audit"})
    assert NOT_FOUND in {finding["verdict"] for finding in values["findings"]}
