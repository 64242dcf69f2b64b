"""What the project says of itself in several places is the same, and what its pages point at is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python before 3.11 cannot read pyproject.toml by itself")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_to_cite_is_the_projects():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == project()["version"]
    assert f"## {project()['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def links_of(page):
    """The relative links of a page, each as a file and a heading in it, "" for the file itself."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [((page.parent / path).resolve() if path else page, heading) for path, _, heading in links]


def anchors_of(page):
    """What links can name in a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = links_of(page)
    assert [path for path, _ in links if not path.exists()] == []
    assert [(path, heading) for path, heading in links if heading and heading not in anchors_of(path)] == []


def test_the_index_leads_to_every_page_and_the_readme_to_the_index():
    index = ROOT / "docs" / "index.md"
    led_to = {path for path, _ in links_of(index)}
    assert {page for page in ROOT.glob("docs/**/*.md") if page != index} - led_to == set()
    assert index in {path for path, _ in links_of(ROOT / "README.md")}


def test_the_readme_has_the_table_of_the_truth():
    readme, truth = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/truth.md"))
    table = re.search(r"^\| fakes of \|.*?\n\n", readme, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert table[0] in truth


def test_info_is_a_program_too():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "npr_kernels.info"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '"backends"' in done.stdout
