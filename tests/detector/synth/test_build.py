"""build: the data set's layout, its fairness between labels, its reproducibility, and how it appears."""

import itertools
import json
import struct
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import DataError, decode, find_images
from detector.synth import MANIFEST, Generator, build, find_families
from detector.synth.camera import photograph
from detector.synth.scenes import dead_leaves

SIZE = 32
FAMILIES = find_families(["nearest", "fir", "faceswap"])
TRAIN = find_families(["nearest"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of ten small photographs and everything else that a folder may hold."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        rng = np.random.default_rng([7, i])
        height, width = (70 + i, 90) if i % 2 else (90, 70 + i)
        (folder / f"{i}.jpg").write_bytes(photograph(dead_leaves(height, width, rng), rng))
    (folder / "more").mkdir()
    (folder / "more" / "copy.jpg").write_bytes((folder / "3.jpg").read_bytes())
    (folder / "small.png").write_bytes(b"")
    Image.new("RGB", (63, 200)).save(folder / "narrow.png")
    (folder / "README.md").write_text("not a photograph")
    return folder


def make(out, photos, **options):
    options = {"size": SIZE, "count": 3, "train_count": 9, "workers": 2} | options
    return build(out, FAMILIES, TRAIN, photos=photos, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory, photos):
    out = tmp_path_factory.mktemp("data") / "set"
    make(out, photos)
    return out


def tree(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def chunks(file):
    """Names and lengths of a PNG's chunks."""
    position, result = 8, []
    while position < len(file):
        length, name = struct.unpack_from(">I4s", file, position)
        result.append((name, length))
        position += 12 + length
    return result


def test_layout_and_counts(data):
    expected = {("train", "nearest"): 9, ("val", "nearest"): 3}
    expected |= {("test", spec.name): 3 for spec in FAMILIES}
    folders = {(path.parent.name, path.name) for path in data.glob("*/*")}
    assert folders == set(expected)
    for (split, name), count in expected.items():
        for label in ("0_real", "1_fake"):
            assert len(list((data / split / name / label).iterdir())) == count
    test = find_images(data, "test")
    assert test.generators == ("faceswap", "fir", "nearest")
    assert test.labels.count(0) == test.labels.count(1) == 9
    assert find_images(data, "train").categories == ("nearest",)


def test_nothing_but_the_pixels_tells_labels_apart(data):
    files = tree(data)
    files.pop(MANIFEST)
    assert len({len(file) for file in files.values()}) == 1
    assert len({tuple(chunks(file)) for file in files.values()}) == 1
    for path in files:
        with Image.open(data / path) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (SIZE, SIZE), {})
    names = {label: [path.rsplit("/", 1)[1] for path in files if label in path] for label in ("0_real", "1_fake")}
    assert names["0_real"] == names["1_fake"]
    assert len({path.stat().st_mode for path in data.rglob("*.png")}) == 1


def test_images_are_all_different(data):
    files = tree(data)
    assert len(set(files.values())) == len(files)


def test_reals_are_crops_of_their_splits_photographs(data, photos):
    manifest = json.loads((data / MANIFEST).read_text())
    groups = manifest["photographs"]
    assert sorted(groups) == ["fit", "test", "train", "val"]
    for a, b in itertools.combinations(groups.values(), 2):
        assert not set(a) & set(b)
    assert sum(map(len, groups.values())) == 10
    offsets = set()
    for split in ("train", "val", "test"):
        sources = [decode(photos / name) for name in groups[split]]
        for path in data.glob(f"{split}/*/0_real/*.png"):
            if "faceswap" in path.parts:  # compressed once more
                continue
            image = decode(path)
            places = [place for source in sources for place in find(image, source)]
            assert len(places) == 1
            offsets.add(places[0])
    assert {(y % 2, x % 2) for y, x in offsets} == {(0, 0), (0, 1), (1, 0), (1, 1)}  # no grid shows


def find(image, source):
    """Offsets at which the image lies in the source."""
    corners = source.unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # [3, rows, columns, SIZE, SIZE], a view
    candidates = (corners[..., 0, :] == image[:, None, None, 0]).all(-1).all(0).nonzero().tolist()
    return [(y, x) for y, x in candidates if torch.equal(source[:, y : y + SIZE, x : x + SIZE], image)]


def test_manifest(data):
    manifest = json.loads((data / MANIFEST).read_text())
    assert "simulated" in manifest["note"]
    assert manifest["images"] == len(list(data.rglob("*.png")))
    assert (manifest["size"], manifest["count"], manifest["train_count"], manifest["seed"]) == (SIZE, 3, 9, 0)
    assert [generator["name"] for generator in manifest["generators"]] == ["nearest", "fir", "faceswap"]
    for generator in manifest["generators"]:
        assert 15 < generator["psnr_db"] < 60
        assert {"upsampler", "kernel", "channels", "seed", "description"} <= generator.keys()
    assert set(manifest["versions"]) == {"npr-kernels", "torch", "numpy", "pillow"}
    reasons = manifest["skipped"]
    assert reasons.pop("small.png") == "is empty"
    assert reasons.pop("narrow.png") == "is 63x200 pixels; 64 are needed in each direction"
    ((name, reason),) = reasons.items()
    assert {name, reason.removeprefix("is the same file as ")} == {"3.jpg", "more/copy.jpg"}


def test_same_arguments_same_bytes_for_any_number_of_workers(data, photos, tmp_path):
    make(tmp_path / "again", photos, workers=1)
    assert tree(tmp_path / "again") == tree(data)
    make(tmp_path / "three", photos, workers=3)
    assert tree(tmp_path / "three") == tree(data)


def test_another_seed_gives_other_images(data, photos, tmp_path):
    make(tmp_path / "other", photos, seed=1)
    first, second = tree(data), tree(tmp_path / "other")
    assert first.keys() == second.keys()
    assert all(first[path] != second[path] for path in first)


def test_a_family_does_not_change_the_others_images(data, photos, tmp_path):
    build(tmp_path / "fewer", FAMILIES[1:2], TRAIN, photos=photos, size=SIZE, count=3, train_count=9)
    files = tree(data)
    fewer = {path: file for path, file in tree(tmp_path / "fewer").items() if path != MANIFEST}
    assert all(files[path] == file for path, file in fewer.items())


def test_procedural_photographs(tmp_path):
    options = {"scenes": 4, "size": SIZE, "count": 1, "train_count": 2}
    manifest = build(tmp_path / "a", FAMILIES, TRAIN, **options, workers=1)
    assert manifest["photos"] == "procedural"
    names = [name for group in manifest["photographs"].values() for name in group]
    assert sorted(names) == [f"scene-{i:04d}" for i in range(4)]
    build(tmp_path / "b", FAMILIES, TRAIN, **options, workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_progress_and_thread_count(tmp_path, photos):
    calls = []
    threads = torch.get_num_threads()
    make(tmp_path / "set", photos, progress=calls.append)
    assert torch.get_num_threads() == threads
    assert sum(calls) == 42
    assert len(calls) > 3


def test_existing_folders_are_kept(tmp_path, photos):
    out = tmp_path / "out"
    out.mkdir()
    make(out, photos)  # an empty folder is taken
    before = tree(out)
    with pytest.raises(DataError, match="is not empty; --force replaces"):
        make(out, photos, seed=1)
    assert tree(out) == before
    (out / "extra.txt").touch()
    make(out, photos, seed=1, force=True)
    after = tree(out)
    assert "extra.txt" not in after
    assert after[MANIFEST] != before[MANIFEST]

    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"holds no synth\.json"):
        make(own, photos, force=True)
    with pytest.raises(DataError, match="is a file"):
        make(own / "thesis.tex", photos)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_failure_leaves_nothing_behind(tmp_path, photos, monkeypatch, error):
    make(tmp_path / "set", photos)
    before, threads = tree(tmp_path), threading.active_count()
    calls = itertools.count()

    def fail(self, images):
        if next(calls) == 3:
            raise error
        return images

    monkeypatch.setattr(Generator, "reconstruct", fail)
    expected = DataError if isinstance(error, OSError) else type(error)
    for options in ({"out": tmp_path / "new"}, {"out": tmp_path / "set", "force": True}):
        calls = itertools.count()
        with pytest.raises(expected):
            make(photos=photos, **options)
        assert tree(tmp_path) == before
    assert threading.active_count() <= threads


def test_bad_arguments(tmp_path, photos):
    out = tmp_path / "out"
    for options, error, message in (
        ({"size": 30}, ValueError, "size must be at least 32, got 30"),
        ({"size": 36}, ValueError, "size must be a multiple of 8, got 36"),
        ({"size": 32.0}, TypeError, "size must be an int, got float"),
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"train_count": -1}, ValueError, "train_count must be at least 1, got -1"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"photos": tmp_path / "none"}, DataError, "none does not exist"),
        ({"photos": photos / "README.md"}, DataError, "is not a folder"),
        (
            {"photos": photos / "more", "size": 128},
            DataError,
            r"no photograph of at least 160x160 pixels",
        ),
        ({"photos": photos / "more"}, DataError, "at least 4 photographs are needed, got 1"),
        ({"photos": None, "scenes": 3}, DataError, "at least 4 photographs are needed, got 3"),
    ):
        with pytest.raises(error, match=message):
            make(out, **({"photos": photos} | options))
    with pytest.raises(DataError, match="cannot write"):
        make(photos / "README.md" / "below", photos)
    assert list(tmp_path.iterdir()) == []
