"""An audit on the page: its tables, whatever names the files bring."""

import numpy as np
import pytest

from detector.audit import audit, measure_bias
from detector.audit.leaks import CONSTANT, Finding
from detector.data import Delivery, find_images
from detector.report import write_report
from detector.report.audit import _typical
from tests.detector.audit.images import exif, make_set, save
from tests.detector.evaluation.stub import Brightness
from tests.detector.report.test_report import EVIL, Page

pytest.importorskip("matplotlib", reason="reports need matplotlib")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Every fake's EXIF names an evil program; a picture is there twice."""
    root = tmp_path_factory.mktemp("data") / "<b>set"
    rng = np.random.default_rng()
    make_set(root, rng, lambda path, pixels, rng: save(path, pixels, exif=exif(software=EVIL)), count=12)
    (root / "1_fake" / "<i>again.png").write_bytes((root / "0_real" / "000.png").read_bytes())

    def measure(collection, columns):
        return measure_bias(Brightness(), collection, columns, [Delivery.parse("jpeg:50")], name=EVIL)

    return audit(find_images(root), detectors=[measure], command="npr audit")


def test_the_page(found, tmp_path):
    write_report(tmp_path / "a.html", "Audit", [found.to_dict()])
    page = Page((tmp_path / "a.html").read_text())
    text = " ".join(page.texts)
    assert "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert f"Bias: {EVIL} on" in text
    assert "1_fake/<i>again.png" in text
    assert "Labels leak through" in text
    for finding in found.findings:
        assert any(finding.name in each for each in page.texts)
    rows = (tmp_path / "a.html").read_text().count("<tr>")
    assert rows > len(found.findings)
    write_report(tmp_path / "b.html", "Audit", [found.to_dict()])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_damaged_audit_is_refused(found, tmp_path):
    values = found.to_dict()
    del values["findings"][0]["auc"]
    with pytest.raises(ValueError, match="damaged"):
        write_report(tmp_path / "a.html", "Audit", [values])


@pytest.mark.parametrize(
    ("value", "unit", "wanted"),
    [
        (132645.7, "bytes", "132646\N{NO-BREAK SPACE}bytes"),
        (-0.012934, "dB", "\N{MINUS SIGN}0.01293\N{NO-BREAK SPACE}dB"),
        (9999.0, "", "9999"),
        (None, "dB", "–"),
        ({"-x": 3, "b": 1}, "", "-x 75\N{NO-BREAK SPACE}%, b 25\N{NO-BREAK SPACE}%"),
    ],
)
def test_typical_values(value, unit, wanted):
    finding = Finding("fact", "file", unit, CONSTANT, 4, 4)
    assert _typical(finding, value, 4) == wanted
