"""C2PA manifests: whether there is one, and what it says (C2PA Technical Specification 2.2).

A manifest store is a JUMBF box (ISO/IEC 19566-5) in the file. That it is there is told by its first bytes; who signed
what is read by the optional package c2pa-python, which alone can verify it. A manifest that is merely there proves
nothing: anyone can copy its bytes into another file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, BinaryIO

from detector.facts.source import clean

# Nothing is fetched because a file asks for it.
_SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


@dataclass(frozen=True)
class C2pa:
    """What the active manifest says, made safe to show; with a note, nothing but that there is one.

    Attributes:
        claim_generator: the program that wrote the manifest.
        validation: "Trusted", "Valid" or "Invalid", as c2pa-python calls them: whether signature and content match,
            and whether the signer is one that the package trusts.
        digital_source_types: of the manifest's actions, see :mod:`detector.facts.xmp`.
        note: why the manifest was not read; None where it was.
    """

    claim_generator: str | None = None
    validation: str | None = None
    digital_source_types: tuple[str, ...] = ()
    note: str | None = None


def is_manifest_store(data: bytes) -> bool:
    """Whether a JUMBF box that starts so is a C2PA manifest store: a superbox whose description has its type."""
    extended = data[:4] == b"\0\0\0\1"
    description = data[16 if extended else 8 :]
    return data[4:8] == b"jumb" and description[4:12] == b"jumdc2pa"


def read_manifest(file: BinaryIO, format: str | None) -> C2pa:
    """Reads the manifest of a file that has one. Fetches nothing.

    Args:
        file: can be sought, and is left anywhere.
        format: "JPEG", "PNG", "WebP", "TIFF" or another that makes a media type with "image/"; told by the content.
    """
    try:
        import c2pa
    except ImportError:
        return C2pa(note="needs c2pa-python: pip install 'npr-kernels[c2pa]'")
    try:
        file.seek(0)
        kind = f"image/{(format or '').lower()}"
        with c2pa.Context.from_dict(_SETTINGS) as context, c2pa.Reader(kind, file, context=context) as reader:
            store = json.loads(reader.json())
        return _describe(store)
    except Exception as error:  # the package's own and those of stores that are not as described
        return C2pa(note=clean(f"c2pa-python cannot read it ({error})"))


def _describe(store: dict[str, Any]) -> C2pa:
    manifest = store["manifests"][store["active_manifest"]]
    named = [
        " ".join(str(info[key]) for key in ("name", "version") if info.get(key))
        for info in manifest.get("claim_generator_info") or []
    ]
    generator = ", ".join(named) or manifest.get("claim_generator")
    actions = [
        action
        for assertion in manifest.get("assertions") or []
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    types = dict.fromkeys(clean(action["digitalSourceType"]) for action in actions if "digitalSourceType" in action)
    state = store.get("validation_state")
    return C2pa(clean(generator) if generator else None, clean(state) if state else None, tuple(types))
