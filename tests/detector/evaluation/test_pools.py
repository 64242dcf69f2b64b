import os

import numpy as np
import pytest
from PIL import Image

from detector.data import FAKE, REAL, DataError, find_images
from detector.evaluation import find_folders, find_pool, parse_pools, pools_by_encoding, with_pools


def save(path, count=1, suffix="png"):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((4, 4, 3), i, dtype=np.uint8)).save(path / f"{path.parent.name}_{i}.{suffix}")


@pytest.fixture
def root(tmp_path):
    """DATA with both labels, one label and mixed formats, and photographs beside it."""
    data = tmp_path / "data"
    save(data / "both/0_real", 2)
    save(data / "both/1_fake", 3)
    save(data / "fakes/1_fake", 2)
    save(data / "film/0_real", 3, "tif")
    save(data / "web/0_real", 2, "jpg")
    save(data / "mixed/0_real", 1, "jpg")
    save(data / "mixed/0_real", 2, "png")
    save(data / "soft/0_real", 2, "webp")
    save(tmp_path / "photos/deep", 2)
    save(tmp_path / "other/gan/0_real", 2)
    save(tmp_path / "other/gan/1_fake", 2)
    return data


def names(paths):
    return [path.name for path in paths]


def test_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    texts = ["web=a, b/c", "kodak24", "/x/y/0_real/", "sets/p*/0_real/*,q", "web=d", "a=b"]
    assert parse_pools(texts) == {
        "web": ["a", "b/c", "d"],
        "kodak24": ["kodak24"],
        "y": ["/x/y/0_real/"],
        "p*": ["sets/p*/0_real/*", "q"],
        "a=b": ["a=b"],
    }
    for text in ("web=", "web=a,,b", ""):
        with pytest.raises(ValueError, match="reals must be NAME=FOLDER"):
            parse_pools([text])


def test_items(root, tmp_path, monkeypatch):
    """Generators, folders and patterns in DATA, then in the working directory, then anywhere."""
    monkeypatch.chdir(tmp_path)
    collection = find_images(root)
    items = ["both", "film/0_real", "mixed/0_real/*.png", "photos", "other", str(tmp_path / "photos/deep")]
    pool = find_pool("p", items, collection)
    assert list(pool.parts) == items
    assert [names(paths) for paths in pool.parts.values()] == [
        ["both_0.png", "both_1.png"],
        ["film_0.tif", "film_1.tif", "film_2.tif"],
        ["mixed_0.png", "mixed_1.png"],
        ["photos_0.png", "photos_1.png"],
        ["gan_0.png", "gan_1.png"],
        ["photos_0.png", "photos_1.png"],
    ]
    assert all("0_real" in str(path) for path in pool.parts["other"])
    assert pool.images == [path for paths in pool.parts.values() for path in paths]
    everything = find_pool("p", ["**/*"], collection)
    assert set(everything.images) == {s.path for s in collection.samples if s.label == REAL}


def test_folders_above_label_nothing(tmp_path):
    """A data set below a folder called ai, which is GenImage's name of fakes."""
    save(tmp_path / "ai/data/film/0_real", 2)
    save(tmp_path / "ai/data/loose", 2)
    collection = find_images(tmp_path / "ai/data")
    assert len(find_pool("p", ["film", "loose"], collection).images) == 4


def test_folders_below_count_before_those_above(tmp_path, monkeypatch):
    """A collection of sets in a folder called real, given from elsewhere."""
    save(tmp_path / "real/gan/1_fake", 3)
    save(tmp_path / "real/gan/0_real", 2)
    save(tmp_path / "real/photos", 4)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for base in ("../real", str(tmp_path / "real")):
        assert len(find_folders("p", [f"{base}/gan"], FAKE).images) == 3
        assert len(find_folders("p", [f"{base}/gan"], REAL).images) == 2
        assert len(find_folders("p", [f"{base}/photos"], REAL).images) == 4
        for item in (f"{base}/photos", f"{base}/gan/0_real", f"{base}/photos/*.png"):
            with pytest.raises(DataError, match="p: no generated image in"):
                find_folders("p", [item], FAKE)


def test_fakes_are_no_reals(root):
    collection = find_images(root)
    for item in ("fakes", "both/1_fake", "both/1_fake/both_0.png", "both/1_fake/*", str(root / "fakes")):
        with pytest.raises(DataError, match="no real image in"):
            find_pool("p", [item], collection)
    os.symlink(root / "fakes/1_fake/fakes_0.png", root / "film/0_real/z.png")
    with pytest.raises(DataError, match=r"z.png is a fake of"):
        find_pool("p", ["film"], collection=find_images(root))


@pytest.mark.parametrize(
    ("name", "item", "message"),
    [
        ("own", "film", "may not be called 'own'"),
        ("web", "nowhere", r"pool web: no nowhere in .*data or here; folders of reals there are both, film, mixed"),
        ("web", "film/0_real/*.jpg", r"pool web: no film/0_real/\*.jpg in"),
        ("web", "empty", "pool web: no real image in empty"),
    ],
)
def test_bad_items(name, item, message, root):
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_pool(name, [item], find_images(root))


def test_by_encoding(root):
    pools = pools_by_encoding(find_images(root))
    assert {pool.name: list(pool.parts) for pool in pools} == {"lossless": ["both", "film"], "jpeg": ["mixed", "web"]}
    assert len(pools[1].images) == 5
    assert pools_by_encoding(find_images(root).select(generators=["fakes", "soft"])) == []


def test_each_image_is_there_once(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    collection = find_images(root).select(generators=["both"])
    os.symlink(root / "both/0_real", tmp_path / "again")
    pools = [
        find_pool("a", [str(tmp_path / "again"), "film/0_real/*0*", str(tmp_path / "photos")], collection),
        find_pool("b", ["film"], collection),
    ]
    together = with_pools(collection, pools)
    assert together.samples[: len(collection)] == collection.samples
    added = together.samples[len(collection) :]
    assert names(sample.path for sample in added) == [
        "film_0.tif", "photos_0.png", "photos_1.png", "film_1.tif", "film_2.tif",
    ]  # fmt: skip
    assert {sample.label for sample in added} == {REAL}
    assert [sample.label for sample in together.samples].count(FAKE) == 3
    assert added[0].generator == "film/0_real/*0*"
