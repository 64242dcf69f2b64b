import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from detector.data import FAKE, REAL, Delivery, find_images
from detector.evaluation import (
    calibrate,
    evaluate,
    find_folders,
    find_preset,
    measure_truth,
    pools_by_encoding,
    robustness,
)
from detector.report import write_report
from tests.detector.evaluation.stub import Roughness, make_tree

pytest.importorskip("matplotlib", reason="reports need matplotlib")

EVIL = "<script>alert(\"$x$\")</script> & 'co'"
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements, ids, attributes and texts of a page, and the texts in drawings; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.texts, self.drawn = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] == "text":
            self.drawn.append(data)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_tree(
        root / "test", ["progan/cat", "progan/<i>dog", "stylegan/car", "biggan"], np.random.default_rng(), count=4
    )
    make_tree(root / "test", ["stargan"], np.random.default_rng(), count=2, labels=["1_fake"])
    return find_images(root, "test")


@pytest.fixture(scope="module")
def results(data):
    """Two evaluations by a preset, two robustness results, a truth, two calibrations and two studies."""
    preset = find_preset("forensynths-8")
    selected, _ = preset.select(data)
    found = []
    for name, slope in (("rough", -0.2), (EVIL, -0.05)):
        model = Roughness(slope=slope)
        evaluation = evaluate(model, selected, bootstrap=20, name=name, command=f"npr eval '{EVIL}'")
        origin = replace(evaluation.provenance, preset=preset.name, simulated=f"Simulated {EVIL}.")
        found.append(replace(evaluation, provenance=origin).to_dict())
    for name, slope in (("rough", -0.2), (EVIL, -0.05)):
        sweeps = {"blur": (0, 1), "jpeg": (90, 50), "noise": (0, 5), "view": (0, 1)}
        found.append(robustness(Roughness(slope=slope), data, sweeps=sweeps, name=name).to_dict())
    pools = [replace(pool, name=EVIL) for pool in pools_by_encoding(data)]
    deliveries = [Delivery.parse(text) for text in ("none", "crop:16,jpeg:80")]
    found.append(measure_truth(Roughness(), data, pools, deliveries, name=EVIL, abstain=True).to_dict())
    reals = [find_folders(name, [str(data.root)], REAL) for name in ("plain", EVIL)]
    fakes = [find_folders(name, [str(data.root / "test" / name / "1_fake")], FAKE) for name in ("biggan", "stargan")]
    rule = {"alpha": 0.3, "confidence": 0.8, "name": EVIL}
    found.append(calibrate(Roughness(), reals, fakes, **rule).to_dict())
    found.append(calibrate(Roughness(), reals, **rule).to_dict())
    outcomes = [
        {
            "name": str(count),
            "what": {"classes": ["c"] * count},
            "training_images": 10 * count,
            "accuracy": 0.5 + count / 100,
            "average_precision": 0.6 + count / 100,
            "generators": {EVIL: {"accuracy": 0.5, "average_precision": 0.6}},
            "digest": "0" * 64,
        }
        for count in (2, 4, 8)
    ]
    study = {
        "kind": "diversity",
        "title": f"Diversity {EVIL}",
        "varied": "classes",
        "held": "The rest.",
        "data": "data",
        "simulated": "",
        "outcomes": outcomes,
        "published": {"source": "a paper", "average_precision": {"2": 0.81, "4": 0.85}},
        "command": "npr diversity",
        "versions": {"npr-kernels": "1"},
    }
    return [*found, study, study | {"kind": "ablation", "title": "Ablation", "published": None}]


@pytest.fixture(scope="module")
def text(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, f"Title {EVIL}", results)
    return path.read_text(encoding="utf-8")


def test_is_whole(text):
    page = Page(text)
    assert page.tags.count("h1") == 1
    # two calibrations, truth, evaluation, robustness, diversity, ablation, limits, making
    assert page.tags.count("section") == page.tags.count("h2") == 9
    # calibrations' scores and evidence, two deliveries, each with verdicts and curves, bars, two detectors' panels,
    # curves, diversity
    assert page.tags.count("svg") == 14
    words = " ".join(page.texts)
    assert all(word in words for word in ("mean", "Table 1", "Limits", "Super-resolution", "ProGAN", "<i>dog"))
    assert "94.5" in words  # BigGAN's published AP
    assert "StarGAN: no reals, so average precision and AUC are undefined." in words


def test_calibrations(text, results):
    """The page shows the JSON's figures."""
    section = text.split(f"<h2>{escape(f'Calibration: {EVIL}')}</h2>")[1].split("<section")[0]
    (result, _) = [result for result in results if result["kind"] == "calibration"]
    measures = result["measures"]
    for part in result["reals"]:
        assert f"{100 * part['bound']:.2f} %" in section
        assert f"{part['called_fake']} ({100 * part['rate']:.2f} %)" in section
    for part in (*result["reals"], *result["fakes"]):
        assert part["digest"][:16] in section
    for value in (measures["cllr"], measures["cllr_min"], measures["cllr_learnt"]):
        assert f">{value:.3f}<" in section
    assert f">{100 * measures['eer']:.1f}<" in section
    drawn = " ".join(Page(section[: section.rindex("</section>")]).drawn)
    assert all(name in drawn for name in ("ROC", "DET", "Tippett", "Reliability"))


def test_withheld_verdicts(text, results):
    """The page shows the JSON's figures."""
    section = text.split(f"<h2>{escape(f'Truth: {EVIL} on ')}")[1].split("<section")[0]
    (result,) = [result for result in results if result["kind"] == "truth"]
    assert section.count("Verdicts withheld") == len(result["measurements"]) == 2
    for part in result["measurements"]:
        found = part["abstention"]
        assert f"{100 * found['coverage']:.1f} % of the images are judged" in section
        assert all(f">{sign['name']}<" in section for sign in found["signs"])
        assert all(f">{100 * sign['aurc']:.2f}<" in section for sign in found["signs"])
        for row in (*found["fakes"], *found["reals"]):
            assert ", ".join(f"{code} {count}" for code, count in row["reasons"].items()) in section
    drawn = Page("<h2>" + section[: section.rindex("</section>")]).drawn
    assert {"all fakes", "all reals", "images judged, %", "p(1 - p)"} <= set(drawn)


def test_holds_itself_together(text):
    """Nothing from outside, no script, and every reference inside has one target."""
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not re.search(r"https?://|//\w+\.\w|@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for name, value in page.attributes if name == "href"}
    targets |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets
    assert targets <= set(page.ids)
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_escapes_what_comes_from_outside(text):
    assert "<script" not in text
    assert "<i>" not in text
    page = Page(text)
    assert f"Title {EVIL}" in page.texts
    assert f"npr eval '{EVIL}'" in "".join(page.texts)
    assert page.drawn.count(EVIL) >= 2  # legends of bars and curves: no formula between the dollar signs
    assert any(EVIL in text for text in page.texts if text.startswith("Simulated"))


def test_is_the_same_again(text, results, tmp_path):
    write_report(tmp_path / "again.html", f"Title {EVIL}", results)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_follows_light_and_dark(text):
    assert "currentColor" in text
    assert "var(--faint)" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text


def test_without_simulated_generators(data, tmp_path):
    write_report(tmp_path / "r.html", "t", [evaluate(Roughness(), data).to_dict()])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "imulated" not in text
    write_report(tmp_path / "r.html", "t", [evaluate(Roughness(), data.select(generators=["stargan"])).to_dict()])
    assert "–" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "no results"),
        ([{"kind": "horoscope"}], "kind horoscope; known are"),
        ([{"kind": "evaluation", "detector": "d"}], "does not say its"),
        ([{"kind": "robustness", "detector": "d"}], "does not say its"),
        ([{"kind": "truth", "detector": "d"}], "does not say its"),
        ([{"kind": "calibration", "detector": "d"}], "does not say its"),
        ([{"kind": "diversity", "held": "x"}], "damaged result of kind diversity"),
    ],
)
def test_bad_results_leave_no_file(results, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r.html", "t", results)
    assert list(tmp_path.iterdir()) == []
