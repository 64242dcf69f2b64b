"""find_images: which folders hold what, from whichever folder one starts."""

import os
from pathlib import Path

import pytest

from detector.data import FAKE, REAL, DataError, find_images, has_split, iterate_images, list_images


def make(root, *paths):
    """Files at the given places; what they hold is not looked at here."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.fixture
def forensynths(tmp_path):
    return make(
        tmp_path / "data",
        "train/car/0_real/b.png",
        "train/car/0_real/a.png",
        "train/car/1_fake/a.png",
        "train/cat/0_real/a.JPEG",
        "train/cat/1_fake/a.png",
        "val/car/0_real/a.png",
        "val/car/1_fake/a.png",
        "test/progan/car/0_real/a.png",
        "test/progan/car/1_fake/a.png",
        "test/progan/cat/1_fake/a.png",
        "test/biggan/0_real/a.png",
        "test/biggan/1_fake/a.png",
        "test/biggan/1_fake/b.png",
    )


@pytest.fixture
def genimage(tmp_path):
    return make(
        tmp_path / "genimage",
        *(
            f"{generator}/{split}/{label}/{i}.png"
            for generator in ("adm", "glide")
            for split in ("train", "val")
            for label in ("ai", "nature")
            for i in range(2)
        ),
    )


def found(collection):
    return [
        (sample.path.relative_to(collection.root).as_posix(), sample.label, sample.generator, sample.category)
        for sample in collection.samples
    ]


def test_forensynths_train(forensynths):
    collection = find_images(forensynths, "train")
    assert found(collection) == [
        ("train/car/0_real/a.png", REAL, "data", "car"),
        ("train/car/0_real/b.png", REAL, "data", "car"),
        ("train/car/1_fake/a.png", FAKE, "data", "car"),
        ("train/cat/0_real/a.JPEG", REAL, "data", "cat"),
        ("train/cat/1_fake/a.png", FAKE, "data", "cat"),
    ]
    assert collection.layout == "ForenSynths"
    assert collection.labels == [0, 0, 1, 0, 1]
    assert collection.categories == ("car", "cat")
    assert len(collection) == 5


def test_forensynths_test(forensynths):
    collection = find_images(forensynths, "test")
    assert found(collection) == [
        ("test/biggan/0_real/a.png", REAL, "biggan", ""),
        ("test/biggan/1_fake/a.png", FAKE, "biggan", ""),
        ("test/biggan/1_fake/b.png", FAKE, "biggan", ""),
        ("test/progan/car/0_real/a.png", REAL, "progan", "car"),
        ("test/progan/car/1_fake/a.png", FAKE, "progan", "car"),
        ("test/progan/cat/1_fake/a.png", FAKE, "progan", "cat"),
    ]
    assert collection.generators == ("biggan", "progan")
    assert {name: len(part) for name, part in collection.by_generator().items()} == {"biggan": 3, "progan": 3}


def test_forensynths_from_inside(forensynths):
    for split in (None, "test"):
        inside = find_images(forensynths / "test", split)
        assert [sample.generator for sample in inside.samples] == ["biggan"] * 3 + ["progan"] * 3
        progan = find_images(forensynths / "test" / "progan", split)
        assert progan.generators == ("progan",)
        assert progan.categories == ("car", "cat")
    biggan = find_images(forensynths / "test" / "biggan")
    assert (biggan.generators, biggan.categories) == (("biggan",), ())
    train = find_images(forensynths / "train", "train")
    assert (train.generators, train.categories) == (("data",), ("car", "cat"))


def test_a_test_folder_of_another_name(forensynths):
    (forensynths / "test").rename(forensynths / "CNN_synth_testset")
    collection = find_images(forensynths / "CNN_synth_testset")
    assert collection.generators == ("biggan", "progan")
    assert collection.categories == ("car", "cat")


def test_relative_root(forensynths, monkeypatch):
    monkeypatch.chdir(forensynths / "test" / "biggan")
    assert find_images(".").generators == ("biggan",)
    monkeypatch.chdir(forensynths / "test")
    assert find_images(".", "test").generators == ("biggan", "progan")


def test_genimage(genimage):
    for split in ("train", "val"):
        collection = find_images(genimage, split)
        assert collection.layout == "GenImage"
        assert collection.generators == ("adm", "glide")
        assert collection.categories == ()
        assert found(collection)[:4] == [
            (f"adm/{split}/ai/0.png", FAKE, "adm", ""),
            (f"adm/{split}/ai/1.png", FAKE, "adm", ""),
            (f"adm/{split}/nature/0.png", REAL, "adm", ""),
            (f"adm/{split}/nature/1.png", REAL, "adm", ""),
        ]
    assert len(find_images(genimage)) == 16
    assert find_images(genimage / "adm", "val").generators == ("adm",)
    assert find_images(genimage / "adm" / "val", "val").generators == ("adm",)
    assert not has_split(genimage, "test")


def test_genimage_as_downloaded(tmp_path):
    make(tmp_path / "g", "sdv4/imagenet_ai_0419/val/ai/a.png", "sdv4/imagenet_ai_0419/val/nature/a.png")
    collection = find_images(tmp_path / "g", "val")
    assert (collection.generators, collection.categories) == (("sdv4",), ())


def test_plain(tmp_path):
    root = make(tmp_path / "mine", "real/a.png", "real/deeper/b.webp", "fake/c.PNG", "Fake/d.png")
    collection = find_images(root)
    assert collection.layout == "plain"
    assert sorted(collection.labels) == [0, 0, 1, 1]
    assert collection.generators == ("mine",)
    assert not has_split(root, "train")


def test_a_parent_folder_named_test_is_not_the_split_of_a_whole_data_set(tmp_path):
    root = make(tmp_path / "test" / "mine", "train/car/0_real/a.png", "train/car/1_fake/a.png")
    assert find_images(root, "train").categories == ("car",)
    assert not has_split(root, "test")


def test_has_split(forensynths):
    assert all(has_split(forensynths, split) for split in ("train", "val", "test"))
    assert has_split(forensynths / "test", "test")
    assert not has_split(forensynths / "test", "train")
    with pytest.raises(ValueError, match="split must be one of train, val, test"):
        has_split(forensynths, "dev")


def test_other_files_hidden_ones_and_links(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "x.png", "y.png")
    root = make(
        tmp_path / "data",
        "real/a.PNG",
        "real/Thumbs.db",
        "real/readme",
        "real/.hidden.png",
        "real/.cache/b.png",
        "fake/__MACOSX/c.png",
        ".git/real/d.png",
    )
    (root / "fake" / "linked").symlink_to(elsewhere)
    (root / "fake" / "one.png").symlink_to(elsewhere / "x.png")
    (root / "fake" / "loop").symlink_to(root / "fake")
    (root / "fake" / "broken").symlink_to(tmp_path / "nowhere")
    collection = find_images(root)
    assert [path for path, *_ in found(collection)] == [
        "fake/linked/x.png",
        "fake/linked/y.png",
        "fake/one.png",
        "real/a.PNG",
    ]
    assert collection.ignored == 3  # Thumbs.db, readme and the broken link


def test_select(forensynths):
    train = find_images(forensynths, "train")
    assert train.select(categories=["cat"]).labels == [0, 1]
    test = find_images(forensynths, "test")
    assert len(test.select(categories=["car"], generators=["progan"])) == 2
    assert test.select() == test
    with pytest.raises(DataError, match=r"no class dog, emu in .*; there are car, cat"):
        train.select(categories=["emu", "cat", "dog"])
    with pytest.raises(DataError, match=r"no generator stylegan in .*; there are biggan, progan"):
        test.select(generators=["stylegan"])


def test_describe(forensynths):
    make(forensynths, "test/biggan/0_real/notes.txt")
    text = find_images(forensynths, "test").describe()
    assert "ForenSynths layout, split test, 6 images (2 real, 4 fake)" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}
    assert lines["biggan"] == ["1", "real", "2", "fake"]
    assert lines["progan/car"] == ["1", "real", "1", "fake"]
    assert lines["progan/cat"] == ["0", "real", "1", "fake"]
    assert text.endswith("1 other files ignored")


def test_errors_say_what_is_there(tmp_path, forensynths):
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "nowhere")
    file = make(tmp_path, "file.png") / "file.png"
    with pytest.raises(DataError, match="is not a folder"):
        find_images(file)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"looked for .*0_real.*there are no files"):
        find_images(empty)
    with pytest.raises(DataError, match=r"there are cats/, dogs/, x.png"):
        find_images(make(tmp_path / "other", "cats/a.png", "dogs/b.png", "x.png"))
    with pytest.raises(DataError, match=r"no train split in .*; there are test"):
        find_images(forensynths / "test", "train")
    with pytest.raises(DataError, match=r"no test split in .*; there are no split folders"):
        find_images(make(tmp_path / "plain", "real/a.png", "fake/b.png"), "test")
    with pytest.raises(DataError, match="no image in"):
        find_images(make(tmp_path / "texts", "real/a.txt", "fake/b.txt"))


def test_list_images(tmp_path):
    root = make(tmp_path / "photos", "b.JPG", "a.png", "sub/c.tiff", "notes.md", ".d.png")
    paths, others = list_images(root)
    assert [path.relative_to(root).as_posix() for path in paths] == ["a.png", "b.JPG", "sub/c.tiff"]
    assert others == 1


def test_iterate_images_in_the_order_of_sorted_paths(tmp_path, rng):
    """Folders among files, whatever stands before their slash in the alphabet; one with links in a circle."""
    names = ["a", "a.png", "a-b", "a b", "B", "b", "0", "ä", "z"]
    root = tmp_path / "root"
    for _ in range(40):
        folder = root.joinpath(*rng.choice([name for name in names if "." not in name], rng.integers(0, 4)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{rng.choice(names)}{rng.integers(3)}.png").touch()
    (root / "z").mkdir(exist_ok=True)
    (root / "z" / "circle").symlink_to(root)
    (root / "z" / "itself.png").symlink_to("itself.png")
    (root / "z" / ".hidden").mkdir()
    (root / "z" / ".hidden" / "x.png").touch()
    expected = [path for path in root.rglob("*.png") if ".hidden" not in path.parts and "circle" not in path.parts]
    found = list(iterate_images(root))
    assert found == sorted({*expected, root / "z" / "itself.png"})
    assert list_images(root) == (found, 0)


def test_iterate_images_looks_no_further_than_it_is_asked(tmp_path, monkeypatch):
    root = make(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    looked = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: looked.append(Path(path).name) or scandir(path))
    images = iterate_images(root)
    assert next(images) == root / "a/1.png"
    assert looked == [root.name, "a"]
    assert next(images) == root / "b/2.png"
    assert looked == [root.name, "a", "b"]


def test_a_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(iterate_images(tmp_path / "gone"))
