"""What arguments, manifests and stores name, as blocks of rows."""

import os
import zipfile
from urllib.parse import quote

import pytest

from detector.scan.seen import Seen
from tests.detector.scan.packages import needed

pa, pq, _, _, listing, locations = needed(
    "pyarrow", "pyarrow.parquet", "pyarrow.csv", "fsspec", "detector.scan.listing", "detector.scan.locations"
)


def listed(*arguments, column="path", carried=(), size=4, seen=None):
    """The rows of the blocks, whose sizes are looked at."""
    blocks = list(listing.blocks_of(listing.find_sources(map(str, arguments), column, carried), size, seen or Seen()))
    assert [block.num_rows for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert all(1 <= block.num_rows <= size for block in blocks)
    return [tuple(row.values()) for block in blocks for row in block.to_pylist()]


def test_folders_files_and_patterns_each_path_once(tmp_path, rng):
    names = [f"{number} é.png" for number in range(rng.integers(5, 30))]
    for name in names:
        (tmp_path / name).touch()
    paths = sorted(str(tmp_path / name) for name in names)
    found = listed(tmp_path, tmp_path / "*.png", paths[0], tmp_path / "none*", tmp_path / "none")
    wanted = [(path, None) for path in paths]
    assert found == [*wanted, (str(tmp_path / "none*"), "matches no file"), (str(tmp_path / "none"), None)]
    seen = Seen()
    seen.add(paths[1:])
    assert listed(tmp_path, seen=seen) == wanted[:1]


def test_names_that_are_no_text_are_rows(tmp_path):
    try:
        open(os.fsencode(tmp_path) + b"/\xff.png", "wb").close()
    except OSError:
        pytest.skip("the file system takes no such name")
    ((path, error),) = listed(tmp_path)
    assert path.endswith("\\udcff.png")
    assert error.startswith("has a name that is no UTF-8")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_manifests(kind, tmp_path, rng):
    """Of several, with paths that are there twice or not at all, and columns in another order."""
    count = 3000
    numbers = rng.integers(0, count, count)
    paths = [f'{number},"é"\n.png' for number in numbers]
    paths[7], paths[70] = None, None
    keys = [int(number) for number in rng.integers(-100, 100, count)]
    for number, rows in enumerate([slice(0, count // 2), slice(count // 2, count)]):
        table = pa.table({"key": keys[rows], "file": paths[rows], "other": keys[rows]})
        name = tmp_path / f"{number}.{kind}"
        if kind == "csv":
            pa.csv.write_csv(table, name)
        else:
            pq.write_table(table, name, row_group_size=100)
    wanted = {}
    for path, key in zip(paths, keys, strict=True):
        wanted.setdefault(path, key)
    found = listed(tmp_path / f"*.{kind}", column="file", carried=["key"], size=64)
    if kind == "csv":
        wanted = {path: str(key) for path, key in wanted.items()}
    none = ("", "is no path, the manifest has none there", wanted.pop(None))
    assert sorted(found) == sorted([none, *((path, None, key) for path, key in wanted.items())])
    assert listing.count_rows(listing.find_sources([str(tmp_path / f"*.{kind}")], "file", [])) == count


def test_manifests_of_other_types_are_refused(tmp_path):
    for number, key in enumerate([1, "1"]):
        pq.write_table(pa.table({"path": ["a"], "key": [key]}), tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet: its columns key are of other types than those of .*0\.parquet"):
        listed(tmp_path / "*.parquet", carried=["key"])


def test_uris(tmp_path):
    """A folder through pyarrow, with a name that must be quoted; a member of an archive through fsspec."""
    (tmp_path / "a b").mkdir()
    for name in ("a b/1é.png", "2.JPG", "3.txt"):
        (tmp_path / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("inner.png", "in it")
    base = f"file://{quote(str(tmp_path))}"
    member = f"zip://inner.png::{tmp_path}/x.zip"
    found = listed(base, member, f"{base}/a%20b/")
    assert found == [(f"{base}/2.JPG", None), (f"{base}/a%20b/1%C3%A9.png", None), (member, None)]
    contents = []
    for path, _ in found:
        with locations.opened(path) as file:
            contents.append(file.read().decode())
    assert contents == ["2.JPG", "a b/1é.png", "in it"]


def test_uris_that_lead_nowhere_are_rows(tmp_path):
    (tmp_path / "empty").mkdir()
    folder, unknown, missing = f"file://{tmp_path}/empty", "nowhere://x/y", f"file://{tmp_path}/none.png"
    found = dict(listed(folder, unknown, missing))
    assert found[folder] == "is a folder without images"
    assert found[unknown].startswith("cannot be read (")
    assert found[missing] is None
    with pytest.raises(OSError, match="cannot be read"), locations.opened(missing):
        pass
