"""Measures intermediate features as signs of doubt, beside p(1 - p): a table of choices.md.

    python docs/measure_features.py REAL [--photographs FOLDER] [--delivery TEXT ...]

How far an image's features are from those of photographs that a detector was calibrated on: by Mahalanobis's distance
(Lee et al., NeurIPS 2018) and by that to the k-th nearest of them in direction (Sun et al., ICML 2022), of the means
over the image of what the stem and each layer give; and how much the local logits differ within the image. The
photographs of calibration are those of --photographs and one random half of each folder of reals in REAL; what is
measured are the other half's reals and all fakes, and then the halves change places. A fake counts with the mean of its
two doubts. Photographs of which both halves have crops make the features look better than they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from detector.box import DEFAULT, find
from detector.data import FAKE, REAL, Collection, Delivery, ImageDataset, find_images
from detector.data.layouts import Sample
from detector.evaluation import find_folders, threshold_of
from detector.evaluation.abstention import YARDSTICK, compare_signs
from detector.evaluation.truth import Deliver
from detector.models import NPRDetector, load_checkpoint
from npr_kernels.bottleneck import FoldedBottleneck

Array = NDArray[np.float64]
NEIGHBOUR = 10
BELOW = "distance to a logit of 1 below the threshold"
"""What a sign that costs more must beat as well."""


def ranks(values: Array) -> Array:
    """In 0..1, so that two signs can be added."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / len(values)


def mahalanobis(reference: Array, features: Array) -> Array:
    """[M, D], [N, D] -> [N]; the covariance shrunk after Ledoit and Wolf: features are nearly as many as images."""
    from sklearn.covariance import LedoitWolf

    return np.sqrt(LedoitWolf().fit(reference).mahalanobis(features))


def nearest(reference: Array, features: Array) -> Array:
    """[M, D], [N, D] -> [N]: the distance in direction to the NEIGHBOUR-th nearest."""
    reference, features = (of / np.linalg.norm(of, axis=1, keepdims=True) for of in (reference, features))
    distances = np.sqrt(np.maximum(2 - 2 * features @ reference.T, 0))
    return np.partition(distances, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1]


def features_of(model: NPRDetector, collection: Collection, delivery: Delivery, seed: int = 0) -> dict[str, Array]:
    """By layer [N, D], and "local", [N, 2]: mean and standard deviation of the local logits."""
    found: dict[str, list[Array]] = {"stem": [], "layer1": [], "layer2": [], "local": []}
    blocks = [FoldedBottleneck.of(block) for block in model.blocks]
    dataset = ImageDataset(collection, model.preprocessing, training=False, transform=Deliver(delivery, seed))
    with torch.inference_mode():
        for index in range(len(dataset)):
            item = dataset.load(index)
            assert isinstance(item, tuple), item
            maps = model.stem(item[0][None])
            found["stem"].append(_mean(maps))
            for number, block in enumerate(blocks, start=1):
                maps = block(maps)
                if number in (len(model.layer1), len(blocks)):
                    found["layer1" if number < len(blocks) else "layer2"].append(_mean(maps))
            logits = torch.einsum("nchw,oc->nhw", maps, model.fc1.weight) + model.fc1.bias
            found["local"].append(np.array([logits.mean().item(), logits.std().item()]))
    return {name: np.stack(rows) for name, rows in found.items()}


def _mean(maps: torch.Tensor) -> Array:
    return maps.mean(dim=(0, 2, 3)).double().numpy()


def signs_of(features: dict[str, Array], samples: Sequence[Sample], split: Array, threshold: float) -> dict[str, Array]:
    """Doubts [N] of all images, those of the reference among them, which are in neither half.

    Args:
        split: [N], 0 or 1 for the halves of reals, 2 for fakes, 3 for photographs that are only a reference.
    """
    logit, spread = features["local"].T
    score = 1 / (1 + np.exp(-logit))
    offset = logit - np.log(threshold / (1 - threshold))
    signs = {
        YARDSTICK: score * (1 - score),
        BELOW: -np.abs(offset + 1),
        "standard deviation of the local logits": spread,
        "distance to the threshold in these standard deviations": -np.abs(offset) / spread,
    }
    known = (YARDSTICK, BELOW)
    distances: dict[str, Callable[[Array, Array], Array]] = {"Mahalanobis": mahalanobis, "nearest": nearest}
    for layer in ("stem", "layer1", "layer2"):
        values = features[layer]
        for name, distance in distances.items():
            doubts = np.zeros(len(samples))
            for half in (0, 1):
                reference = values[(split == 1 - half) | (split == 3)]
                found = distance(reference, values)
                doubts += np.where(split == 2, found / 2, np.where(split == half, found, 0))
            signs[f"{name}, {layer}"] = doubts
            for other in known:
                both = np.zeros(len(samples))
                both[split < 3] = ranks(doubts[split < 3]) + ranks(signs[other][split < 3])
                signs[f"{name}, {layer}, and {other}, by ranks"] = both
    return signs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", metavar="REAL")
    parser.add_argument("--photographs", metavar="FOLDER")
    parser.add_argument("--delivery", metavar="TEXT", nargs="+", default=["crop:256", "crop:256,jpeg:80"])
    parser.add_argument("--weights", default=DEFAULT)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load_checkpoint(find(args.weights)).eval()
    assert isinstance(model, NPRDetector)
    found = find_images(args.real)
    paths = find_folders("photographs", [args.photographs], REAL).images if args.photographs else []
    samples = (*found.samples, *(Sample(path, REAL, "photographs", "") for path in paths))
    collection = Collection(found.root, found.layout, None, samples)

    rng = np.random.default_rng(args.seed)
    split = np.full(len(samples), 3)
    labels = np.array([sample.label for sample in samples])
    split[: len(found.samples)] = np.where(labels[: len(found.samples)] == FAKE, 2, 0)
    for generator in found.generators:
        here = [i for i, of in enumerate(found.samples) if (of.generator, of.label) == (generator, REAL)]
        split[rng.permutation(np.array(here, dtype=int))[::2]] = 1
    threshold = threshold_of(model)
    judged = split < 3
    for text in args.delivery:
        features = features_of(model, collection, Delivery.parse(text), args.seed)
        signs = {name: of[judged] for name, of in signs_of(features, samples, split, threshold).items()}
        score = 1 / (1 + np.exp(-features["local"][judged, 0]))
        errors = (score > threshold) != (labels[judged] == FAKE)
        print(f"\n{text}: {judged.sum()} images, {int((split == 3).sum())} photographs beside\n")
        print("| doubted first | AURC | less than p(1 - p), 95 % |\n|---|---:|---:|")
        for name, sign in compare_signs(labels[judged], errors, signs, args.seed).items():
            gain = "" if name == YARDSTICK else f"{100 * sign.gain[0]:+.1f} to {100 * sign.gain[1]:+.1f}"
            print(f"| {name} | {100 * sign.aurc:.1f} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
