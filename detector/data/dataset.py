"""Images for a torch DataLoader: what to draw, in which order, and how to put a batch together.

Nothing here depends on the number of workers: each sample's crop, flip and degradation follow from (seed, epoch, index)
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from detector.data.augment import Augmentation
from detector.data.decode import Admit, ImageError, decode
from detector.data.layouts import FAKE, REAL, Collection, DataError
from detector.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class BadImage:
    """An image of the collection that cannot be decoded; it stands in its item's place and is skipped."""

    index: int
    path: Path
    reason: str


Item = tuple[Tensor, int, int] | BadImage

Transform = Callable[[Tensor, int], Tensor]
"""uint8 [3, H, W] and the image's index in the collection -> uint8 [3, H', W'], on several threads at once."""


class Batch(NamedTuple):
    """One batch.

    Attributes:
        images: uint8 [N, 3, H, W] with channels_last strides; a list of [3, H, W] where sizes differ. With no good
            image at all, [0, 3, 0, 0].
        labels: int64 [N], 0 real, 1 fake.
        indices: int64 [N], positions in the collection.
        bad: the images that could not be decoded; they are not among the N.
    """

    images: Tensor | list[Tensor]
    labels: Tensor
    indices: Tensor
    bad: list[BadImage]


class ImageDataset(Dataset[Item]):
    """Decoded and cropped images of a collection.

    `dataset[i]` is (uint8 [3, H, W], label, i), or a BadImage where the file cannot be decoded.

    Args:
        collection: the images.
        preprocessing: its training_view or test_view is applied.
        training: which of the two views.
        seed: seeds every sample's crop, flip and degradation, together with the epoch and the index.
        augmentation: degrades the images of the training view.
        transform: changes decoded images before the test view.
    """

    def __init__(
        self,
        collection: Collection,
        preprocessing: Preprocessing,
        *,
        training: bool,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.collection = collection
        self.preprocessing = preprocessing
        self.training = training
        self.augmentation = augmentation
        self.transform = transform
        self.seed = _check_seed(seed)
        # Shared memory: persistent workers hold a copy of the dataset and must see set_epoch too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draws other crops and flips, the same ones for the same epoch. To be called between epochs."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.collection)

    def __getitem__(self, index: int) -> Item:
        return self.load(index)

    def load(self, index: int, admit: Admit | None = None) -> Item:
        """The item, on whatever thread; `admit` is asked as :func:`detector.data.decode` does."""
        sample = self.collection.samples[index]
        try:
            image = decode(sample.path, admit=admit)
        except ImageError as error:
            return BadImage(index, sample.path, error.reason)
        if self.training:
            generator = seeded_generator(self.seed, int(self._epoch), index)
            image = self.preprocessing.training_view(image, generator, self.augmentation)
        else:
            image = self.preprocessing.test_view(image if self.transform is None else self.transform(image, index))
        return image, sample.label, index


class EpochSampler(Sampler[int]):
    """A random order of a collection's indices, the same for the same seed and epoch.

    Args:
        labels: 0 real, 1 fake, of every sample.
        seed: of the order.
        balanced: equal numbers of reals and fakes. The larger class is drawn without replacement anew each epoch,
            so that no image is repeated within an epoch and all take part over the epochs.

    Raises:
        DataError: balanced, and a class has no image.
    """

    def __init__(self, labels: Sequence[int], *, seed: int, balanced: bool = False) -> None:
        self._labels = np.asarray(labels, dtype=np.int64)
        if not np.isin(self._labels, (REAL, FAKE)).all():
            raise ValueError("labels must be 0 (real) or 1 (fake)")
        self._classes = [np.flatnonzero(self._labels == label) for label in (REAL, FAKE)]
        if balanced and min(map(len, self._classes)) == 0:
            reals, fakes = map(len, self._classes)
            raise DataError(f"balanced sampling needs reals and fakes, got {reals} reals and {fakes} fakes")
        self.seed = _check_seed(seed)
        self.balanced = balanced
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draws another order, the same one for the same epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return 2 * min(map(len, self._classes)) if self.balanced else len(self._labels)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self._epoch])
        if self.balanced:
            half = len(self) // 2
            chosen = np.concatenate([rng.permutation(members)[:half] for members in self._classes])
        else:
            chosen = np.arange(len(self._labels))
        return iter(rng.permutation(chosen).tolist())


def collate(items: Sequence[Item]) -> Batch:
    """Puts the items of an ImageDataset together; images are stacked where all have one size."""
    good = [item for item in items if not isinstance(item, BadImage)]
    bad = [item for item in items if isinstance(item, BadImage)]
    labels = torch.tensor([label for _, label, _ in good], dtype=torch.int64)
    indices = torch.tensor([index for _, _, index in good], dtype=torch.int64)
    return Batch(_stack([image for image, _, _ in good]), labels, indices, bad)


def _stack(images: list[Tensor]) -> Tensor | list[Tensor]:
    if not images:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    if len({image.shape for image in images}) > 1:
        return images
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def seeded_generator(*entropy: int) -> torch.Generator:
    """A generator whose stream depends on all the numbers, unrelated for neighbouring ones."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return seed
