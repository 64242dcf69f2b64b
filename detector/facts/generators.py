"""What programs that generate images write beside the pixels: prompts and settings, as text.

- Stable Diffusion web UI and what writes its format: PNG text `parameters`, or an EXIF UserComment;
- ComfyUI: PNG text `prompt` and `workflow`, JSON; in WebP and JPEG in EXIF fields that start with these words;
- InvokeAI: PNG text `invokeai_metadata`, formerly `sd-metadata` and `Dream`;
- NovelAI: PNG text `Software` and `Source`, with the settings in `Comment`.

Anyone can write or remove such text: it is a hint, never a proof.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from detector.facts.source import clean


@dataclass(frozen=True)
class GeneratorText:
    """A text that a generator wrote.

    Attributes:
        tool: the program whose format it is.
        place: where it stands: a PNG text's keyword, "comment" of a JPEG, or an EXIF field.
        text: its beginning, made safe to show.
    """

    tool: str
    place: str
    text: str


# A line of settings. Anchored and bounded, so that no text takes longer than its length: files may be hostile.
_WEB_UI = re.compile(r"^Steps: \d+, [^\n]{0,200}?\b(?:Sampler|CFG scale|Seed|Size): ", re.MULTILINE)
_COMFY_FIELD = re.compile(r"(?:prompt|workflow): ?\{", re.IGNORECASE)
_INVOKE = frozenset({"invokeai_metadata", "invokeai_graph", "invokeai_workflow", "sd-metadata", "Dream"})


def _is_web_ui(place: str, text: str) -> bool:
    return place in ("parameters", "EXIF UserComment", "comment") and _WEB_UI.search(text) is not None


def _is_comfy(place: str, text: str) -> bool:
    if place in ("prompt", "workflow"):
        return text.lstrip().startswith("{")
    return place.startswith("EXIF ") and _COMFY_FIELD.match(text) is not None


def _is_invoke(place: str, text: str) -> bool:
    return place in _INVOKE


def _is_novel(place: str, text: str) -> bool:
    return place == "Software" and text.startswith("NovelAI")


_TOOLS: dict[str, Callable[[str, str], bool]] = {
    "Stable Diffusion web UI": _is_web_ui,
    "ComfyUI": _is_comfy,
    "InvokeAI": _is_invoke,
    "NovelAI": _is_novel,
}


def generator_texts(texts: Iterable[tuple[str, str]]) -> tuple[GeneratorText, ...]:
    """The first text of each program that wrote any, of a file's texts by their place."""
    texts = list(texts)
    found = []
    for tool, wrote in _TOOLS.items():
        if written := next(((place, text) for place, text in texts if wrote(place, text)), None):
            if tool == "NovelAI":  # the settings tell more than its name
                written = next(((place, text) for place, text in texts if place == "Comment"), written)
            found.append(GeneratorText(tool, written[0], clean(written[1])))
    return tuple(found)
