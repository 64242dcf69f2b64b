import io

import numpy as np
import pytest
from PIL import Image
from scipy import fft

from detector.audit.hashing import BITS, NEAR, SIDE, distance, image_hash, near_pairs


def scene(rng, height=210, width=333):
    """A picture with structure at all scales."""
    image = np.zeros((height, width, 3))
    for side in (4, 9, 20, 60):
        noise = rng.normal(0, 60 / np.sqrt(side), (side, side, 3))
        layers = [
            np.asarray(
                Image.fromarray(noise[..., i].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            )
            for i in range(3)
        ]
        image += np.stack(layers, axis=2)
    return Image.fromarray(np.clip(128 + image, 0, 255).astype(np.uint8))


def hash_of(image):
    return image_hash(np.asarray(image.convert("RGB")))


def bits_apart(a, b):
    return bin(a ^ b).count("1")


def zigzag(side):
    """Places of a square in the order in which one walks its diagonals to and fro, right first."""
    row = column = 0
    up = True
    for _ in range(side * side):
        yield row, column
        if up and column == side - 1:
            row, up = row + 1, False
        elif up and row == 0:
            column, up = column + 1, False
        elif not up and row == side - 1:
            column, up = column + 1, True
        elif not up and column == 0:
            row, up = row + 1, True
        else:
            row, column = (row - 1, column + 1) if up else (row + 1, column - 1)


def test_the_hash_is_of_the_cosine_transform(rng):
    """Against SciPy's transform, of an image that needs no shrinking."""
    grey = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    spectrum = fft.dctn(grey.astype(float), norm="ortho")
    low = np.array([spectrum[place] for place in list(zigzag(SIDE))[1 : BITS + 1]])
    expected = "".join(str(int(high)) for high in low > np.median(low))
    value = image_hash(np.repeat(grey[..., None], 3, axis=2))
    assert f"{value:064b}" == expected
    assert expected.count("1") == BITS // 2


@pytest.mark.parametrize("change", ["jpeg", "webp", "half", "third", "gamma", "noise"])
def test_copies_are_near(change, rng):
    for _ in range(6):
        image = scene(rng)
        if change in ("jpeg", "webp"):
            file = io.BytesIO()
            image.save(file, change.upper(), quality=40)
            copy = Image.open(file)
        elif change in ("half", "third"):
            by = 2 if change == "half" else 3
            copy = image.resize((image.width // by, image.height // by), Image.Resampling.LANCZOS)
        elif change == "gamma":
            copy = image.point(lambda value: int(255 * (value / 255) ** 1.1))
        else:
            noise = rng.normal(0, 6, (*image.size[::-1], 3))
            copy = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        assert bits_apart(hash_of(image), hash_of(copy)) <= NEAR


def test_different_pictures_are_far(rng):
    hashes = [hash_of(scene(rng)) for _ in range(30)]
    apart = [bits_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > NEAR
    assert np.mean(apart) == pytest.approx(BITS / 2, abs=3)


def test_flat_images_have_no_hash(rng):
    assert image_hash(np.full((50, 60, 3), 77, np.uint8)) is None
    assert image_hash(rng.integers(100, 103, (500, 600, 3), dtype=np.uint8)) is None


@pytest.mark.parametrize("size", [(2, 2), (2, 999), (31, 33), (1501, 1203)])
def test_every_size_has_one(size, rng):
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels[: size[0] // 2] //= 8
    value = image_hash(pixels)
    assert value is not None
    assert 0 <= value < 2**64


def clustered(rng, count):
    """Random hashes, and neighbours of some at distances around the threshold."""
    hashes = set(rng.integers(0, 2**64, count, dtype=np.uint64).tolist())
    for value in list(hashes)[: count // 2]:
        for bit in rng.choice(64, rng.integers(1, NEAR + 4), replace=False).tolist():
            value ^= 1 << bit
        hashes.add(value)
    return np.array(list(hashes), dtype=np.uint64)


@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_near_pairs_are_all_pairs(count, rng):
    """Against all comparisons; some keys are shared by many, so that pieces of work are cut."""
    hashes = clustered(rng, count)
    hashes[: len(hashes) // 4] &= np.uint64(0xFFFFFFFFFFFF0000)
    hashes = np.unique(hashes)
    rng.shuffle(hashes)
    expected = [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if bits_apart(int(hashes[i]), int(hashes[j])) <= NEAR
    ]
    assert near_pairs(hashes).tolist() == expected
    assert near_pairs(hashes).shape == (len(expected), 2)


def test_near_pairs_in_pieces(rng, monkeypatch):
    hashes = clustered(rng, 300)
    expected = near_pairs(hashes).tolist()
    monkeypatch.setattr("detector.audit.hashing._CHUNK", 3)
    assert expected
    assert near_pairs(hashes).tolist() == expected


def test_most_pairs_are_never_compared(rng, monkeypatch):
    compared = []

    def counted(a, b):
        compared.append(len(a))
        return distance(a, b)

    monkeypatch.setattr("detector.audit.hashing.distance", counted)
    near_pairs(rng.integers(0, 2**64, 20_000, dtype=np.uint64))
    assert sum(compared) < 20_000**2 / 2 / 500
