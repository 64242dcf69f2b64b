"""XMP packets: what an image says of its origin.

`Iptc4xmpExt:DigitalSourceType` (IPTC Photo Metadata Standard 2025.1) names a term of IPTC's vocabulary
http://cv.iptc.org/newscodes/digitalsourcetype/, which Google, Adobe, Midjourney and others set to
`trainedAlgorithmicMedia` in what their models make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.parsers import expat

from detector.facts.contents import Contents
from detector.facts.source import Damaged, clean

VOCABULARY = "://cv.iptc.org/newscodes/digitalsourcetype/"

TERMS = {
    "trainedAlgorithmicMedia": "made by a trained model",
    "compositeWithTrainedAlgorithmicMedia": "a composite with parts made by a trained model",
    "compositeSynthetic": "a composite with synthetic parts",
    "algorithmicMedia": "made by an algorithm without training data",
    "algorithmicallyEnhanced": "enhanced by an algorithm",
    "compositeCapture": "a composite of captured parts",
    "composite": "a composite",
    "computationalCapture": "captured, several frames combined",
    "digitalCapture": "captured by a digital camera",
    "negativeFilm": "digitised from a negative",
    "positiveFilm": "digitised from a positive",
    "print": "digitised from a print",
    "humanEdits": "edited by a human",
    "minorHumanEdits": "edited slightly by a human",
    "digitalCreation": "created by a human with digital tools",
    "digitalArt": "digital art",
    "dataDrivenMedia": "made from data",
    "virtualRecording": "a recording of a virtual scene",
    "screenCapture": "a capture of a screen",
}
"""The vocabulary's terms, in a few words each."""

# Local names are told by their namespace, whatever the packet calls it.
_WANTED = {
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourceType": "digital_source_type",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/ DigitalSourcefileType": "digital_source_type",  # its older name
    "http://ns.adobe.com/xap/1.0/ CreatorTool": "creator_tool",
    "http://ns.adobe.com/photoshop/1.0/ Credit": "credit",
}
_RESOURCE = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"

# Characters of an element's text that are kept.
_MOST_TEXT = 2**12

_DEEPEST = 100


@dataclass(frozen=True)
class Xmp:
    """Texts as the packet has them, made safe to show; None where it says nothing.

    Attributes:
        digital_source_type: an address in IPTC's vocabulary, as a rule.
        creator_tool: the program that the image comes from.
        credit: whom the image is to be credited to.
    """

    digital_source_type: str | None = None
    creator_tool: str | None = None
    credit: str | None = None

    @property
    def term(self) -> str | None:
        """The digital source type's term, without the vocabulary's address."""
        return source_term(self.digital_source_type)


def source_term(address: str | None) -> str | None:
    """The term of a digital source type; the whole text where it is no address in the vocabulary."""
    return None if address is None else address.partition(VOCABULARY)[2] or address


def read_xmp(packet: bytes, contents: Contents) -> Xmp:
    """What the packet says up to its end or its first error, which becomes a problem of the contents."""
    found: dict[str, str] = {}
    inside: list[str | None] = []
    text: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(inside) == _DEEPEST:
            raise Damaged(f"is more than {_DEEPEST} elements deep")
        for attribute, value in attributes.items():
            if field := _WANTED.get(attribute):
                found.setdefault(field, value)
        field = _WANTED.get(name)
        if field and _RESOURCE in attributes:
            found.setdefault(field, attributes[_RESOURCE])
        inside.append(field)
        text.clear()

    def end(name: str) -> None:
        # An item of a list says what the element around it means.
        field = inside.pop() or next((outer for outer in reversed(inside) if outer), None)
        if field and (value := "".join(text).strip()):
            found.setdefault(field, value)
        text.clear()

    def characters(data: str) -> None:
        if sum(map(len, text)) < _MOST_TEXT:
            text.append(data)

    def document_type(*_: Any) -> None:
        # No packet has one, and it can define entities without end.
        raise Damaged("has a document type, which is not read")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = document_type
    try:
        parser.Parse(packet.rstrip(b"\0 \r\n\t"), True)
    except expat.ExpatError as error:
        contents.problems.append(f"XMP is no XML ({error})")
    except Damaged as error:
        contents.problems.append(f"XMP {error}")
    return Xmp(**{field: clean(value) for field, value in found.items()})
