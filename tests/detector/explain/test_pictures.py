"""Figures and contact sheets as files: their size, what is where, and names that are no ordinary text."""

import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import FAKE, REAL
from detector.explain import MeanSpectrum, explain
from detector.explain.contact_sheet import save_contact_sheet, thumbnail
from detector.models import NPRDetector

NAMES = ["a$b^$ {x}_1.png", "\udcff\udc00.png", "line\nbreak.png", "漢字.png"]


@pytest.fixture(scope="module")
def figures():
    pytest.importorskip("matplotlib")
    from detector.explain import figures

    return figures


@pytest.mark.parametrize("size", [(40, 30), (2, 90), (3, 3), (30, 1300)], ids=str)
def test_explanation_of_any_size(figures, tmp_path, rng, size):
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    explanation = explain(NPRDetector(), image)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for picture in pictures:
        figures.save_figure(figures.explanation_figure(image, explanation, "title"), picture)
    with Image.open(pictures[0]) as opened:
        assert opened.format == "PNG"
        assert opened.size == (1350, 860)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_title(figures, tmp_path, name):
    spectra = {name: {FAKE: MeanSpectrum(np.ones((8, 8)), 3)}, "both": {}}
    spectra["both"] = {label: MeanSpectrum(np.ones((8, 8)), 3) for label in (REAL, FAKE)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_figure(figures.spectra_figure(spectra, name), tmp_path / "s.png")
    assert Image.open(tmp_path / "s.png").size == (1500, 760)


def test_without_matplotlib(figures, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"figures need matplotlib: pip install 'npr-kernels\[report\]'"):
        figures.new_figure(1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_contact_sheet(tmp_path, name):
    """Two groups of three and one, two in a row; every picture where it belongs."""
    colours = [(200, 10, 10), (10, 200, 10), (10, 10, 200), (200, 200, 10)]
    flat = [torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 100, 300) for colour in colours]
    one, *rest = [thumbnail(image, f"0.5  {name}") for image in flat]
    save_contact_sheet(tmp_path / "s.png", {"three": rest, "one": [one]}, columns=2)
    sheet = np.array(Image.open(tmp_path / "s.png"))
    found = []
    for colour in colours:
        rows, columns = np.nonzero((np.abs(sheet.astype(int) - colour) < 3).all(axis=2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (53, 160)
        found.append((rows.min(), columns.min()))
    (fourth_y, _), (first_y, first_x), (second_y, second_x), (third_y, third_x) = found
    assert first_y == second_y < third_y < fourth_y
    assert first_x == third_x < second_x
