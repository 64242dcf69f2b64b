"""ImageDataset, EpochSampler and collate: the same draw for the same (seed, epoch, index), whoever loads it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from detector.data import (
    BadImage,
    BlurJpeg,
    DataError,
    EpochSampler,
    ImageDataset,
    Preprocessing,
    RandomDelivery,
    collate,
    decode,
    find_images,
)

PREPROCESSING = Preprocessing(crop=8)


@pytest.fixture
def collection(tmp_path):
    """Nine images of different sizes, the third of which is damaged."""
    rng = np.random.default_rng()
    for i in range(9):
        folder = tmp_path / ("real" if i < 5 else "fake")
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "real" / "2.png").write_bytes(b"broken")
    return find_images(tmp_path)


def load(dataset, workers, epochs=(0,), **options):
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
        **options,
    )
    result = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        result.append(list(loader))
    return result


def test_items(collection):
    dataset = ImageDataset(collection, PREPROCESSING, training=False)
    assert len(dataset) == 9
    for i, sample in enumerate(collection.samples):
        if sample.path.name == "2.png":
            bad = dataset[i]
            assert bad == BadImage(i, sample.path, bad.reason)
            assert bad.reason.startswith("is not an image in one of the formats JPEG, PNG, ")
            continue
        image, label, index = dataset[i]
        assert (label, index) == (sample.label, i)
        assert torch.equal(image, decode(sample.path))


def test_training_items_depend_on_seed_epoch_and_index_alone(collection):
    def draw(seed, epoch, order):
        dataset = ImageDataset(collection, PREPROCESSING, training=True, seed=seed)
        dataset.set_epoch(epoch)
        return {i: dataset[i][0] for i in order}

    good = [i for i, sample in enumerate(collection.samples) if sample.path.name != "2.png"]
    reference = draw(3, 5, good)
    torch.manual_seed(99)  # global state plays no part
    again = draw(3, 5, reversed(good))
    assert all(torch.equal(reference[i], again[i]) for i in good)
    for other in (draw(4, 5, good), draw(3, 6, good)):
        assert sum(torch.equal(reference[i], other[i]) for i in good) <= 2


PILLOW = ("pillow",)


@pytest.mark.parametrize(
    "augmentation",
    [None, BlurJpeg(0.5, jpeg_probability=0.5, jpeg_encoders=PILLOW), RandomDelivery(jpeg_encoders=PILLOW)],
)
def test_workers_change_nothing_and_see_the_epoch(collection, augmentation):
    def dataset():
        return ImageDataset(collection, PREPROCESSING, training=True, seed=1, augmentation=augmentation)

    alone, shared = load(dataset(), 0, epochs=(0, 1)), load(dataset(), 2, epochs=(0, 1))
    for epoch in (0, 1):
        for a, b in zip(alone[epoch], shared[epoch], strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.indices, b.indices)
            assert a.bad == b.bad
    assert not torch.equal(alone[0][0].images, alone[1][0].images)


@pytest.mark.parametrize(
    "heavy",
    [
        BlurJpeg(jpeg_probability=1, jpeg_quality=(30, 60), jpeg_encoders=PILLOW),
        RandomDelivery(1, (30, 60), jpeg_encoders=PILLOW),
    ],
)
def test_augmentation_is_seeded_and_for_training_alone(collection, heavy):
    def items(training, augmentation, epoch=0):
        dataset = ImageDataset(collection, PREPROCESSING, training=training, augmentation=augmentation)
        dataset.set_epoch(epoch)
        return [dataset[i][0] for i in range(9) if collection.samples[i].path.name != "2.png"]

    def equal(a, b):
        return sum(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert equal(items(True, heavy), items(True, heavy)) == 8
    assert equal(items(True, heavy), items(True, None)) == 0
    assert equal(items(True, heavy), items(True, heavy, epoch=1)) == 0
    assert equal(items(False, heavy), items(False, None)) == 8


def test_collate(collection):
    dataset = ImageDataset(collection, PREPROCESSING, training=True)
    batch = collate([dataset[i] for i in range(9)])
    bad = next(i for i in range(9) if isinstance(dataset[i], BadImage))
    assert batch.images.shape == (8, 3, 8, 8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.indices.tolist() == [i for i in range(9) if i != bad]
    assert batch.labels.tolist() == [label for i, label in enumerate(collection.labels) if i != bad]
    assert [item.index for item in batch.bad] == [bad]
    for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
        assert torch.equal(image, dataset[index][0])


def test_collate_mixed_sizes_and_nothing_good(collection):
    dataset = ImageDataset(collection, PREPROCESSING, training=False)
    batch = collate([dataset[i] for i in range(4)])
    assert isinstance(batch.images, list)
    assert all(torch.equal(image, dataset[i][0]) for image, i in zip(batch.images, batch.indices.tolist(), strict=True))
    bad = BadImage(0, collection.samples[0].path, "is empty")
    empty = collate([bad, bad])
    assert (empty.images.shape, empty.images.dtype) == ((0, 3, 0, 0), torch.uint8)
    assert empty.labels.shape == (0,)
    assert empty.bad == [bad, bad]


def test_sampler_orders():
    labels = np.random.default_rng().integers(0, 2, 101).tolist()
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        sampler = EpochSampler(labels, seed=seed)
        sampler.set_epoch(epoch)
        orders[seed, epoch] = tuple(sampler)
        assert sorted(orders[seed, epoch]) == list(range(101))
        assert tuple(sampler) == orders[seed, epoch]
        assert len(sampler) == 101
    assert len(set(orders.values())) == 4


def test_balanced_sampler():
    labels = [0] * 30 + [1] * 7
    sampler = EpochSampler(labels, seed=0, balanced=True)
    assert len(sampler) == 14
    seen = set()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(set(order)) == 14
        assert sum(labels[i] for i in order) == 7
        seen |= set(order)
    assert seen == set(range(37))


def test_wrong_arguments(collection):
    with pytest.raises(DataError, match="balanced sampling needs reals and fakes, got 3 reals and 0 fakes"):
        EpochSampler([0, 0, 0], seed=0, balanced=True)
    with pytest.raises(ValueError, match="labels must be 0"):
        EpochSampler([0, 2], seed=0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        EpochSampler([0, 1], seed=-1)
    with pytest.raises(TypeError, match="seed must be an int, got float"):
        ImageDataset(collection, PREPROCESSING, training=True, seed=0.5)
    assert list(EpochSampler([], seed=0)) == []
