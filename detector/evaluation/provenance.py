"""What a result was measured on, and with what: enough to tell two results apart and to measure one again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from detector.data import Collection, Preprocessing
from detector.models import Detector
from detector.versions import find_versions

_MANIFEST = "synth.json"


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from; JSON-able field by field.

    Attributes:
        detector: its name in tables.
        architecture: class and arguments of the model.
        weights: the checkpoint's path, "" for a model that was not loaded from one.
        digest: SHA-256 of the weights, whatever file they came from.
        data: the folder of images.
        split: of it, None for all that is there.
        images: how many were to be scored.
        preprocessing: of the images, as `Preprocessing.to_dict` gives it.
        simulated: what to say about the images' generators where these are simulated; "" where they are not.
        kinds: what kind of generator each is, by name, where the data set says so.
        preset: name of the papers' test set that this is, see `detector.evaluation.presets`; "" for none.
        command: the command that measured it, "" where a program did.
        versions: of this package and of torch.
    """

    detector: str
    architecture: dict[str, Any]
    weights: str
    digest: str
    data: str
    split: str | None
    images: int
    preprocessing: dict[str, Any]
    simulated: str = ""
    kinds: dict[str, str] = field(default_factory=dict)
    preset: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse is from_dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """From a dictionary that may hold more.

        Raises:
            ValueError: a field is missing.
        """
        known = cls.__dataclass_fields__
        try:
            return cls(**{name: values[name] for name in known})
        except KeyError as error:
            raise ValueError(f"the result does not say its {error.args[0]}") from None


def provenance(
    model: Detector,
    collection: Collection,
    preprocessing: Preprocessing,
    *,
    name: str | None,
    weights: str,
    command: str,
) -> Provenance:
    """Of a result of this model on these images; arguments as in :func:`detector.evaluation.evaluate`."""
    return Provenance(
        detector=name or type(model).__name__,
        architecture={"name": type(model).__name__, **model.architecture},
        weights=weights,
        digest=weights_digest(model),
        data=str(collection.root),
        split=collection.split,
        images=len(collection),
        preprocessing=preprocessing.to_dict(),
        simulated=simulation_note(collection),
        kinds=_generator_kinds(collection),
        command=command,
        versions=find_versions(),
    )


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of the state dict: equal weights in files of different kinds agree."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def data_digest(collection: Collection) -> str:
    """SHA-256 over the images' bytes, names and labels, wherever the folder lies."""
    digest = hashlib.sha256()
    for sample in collection.samples:
        name = str(sample.path.relative_to(collection.root))
        try:
            content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        except OSError:
            content = "unreadable"
        digest.update(json.dumps([name, sample.label, sample.generator, sample.category, content]).encode())
    return digest.hexdigest()


def simulation_note(collection: Collection) -> str:
    """What `npr synth` wrote to be said of its generators, where the images are its; else ""."""
    return str(_synth_manifest(collection).get("note", ""))


def _generator_kinds(collection: Collection) -> dict[str, str]:
    listed = {spec["name"]: spec["kind"] for spec in _synth_manifest(collection).get("generators", [])}
    return {name: str(listed[name]) for name in collection.generators if name in listed}


def _synth_manifest(collection: Collection) -> dict[str, Any]:
    """It lies in the data set's folder, which is the collection's or, for a split or a generator, one above."""
    root = collection.root.resolve()
    for folder in (root, *root.parents[:2]):
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if isinstance(manifest["note"], str) and all(
                {"name", "kind"} <= set(spec) for spec in manifest["generators"]
            ):
                return manifest
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}
