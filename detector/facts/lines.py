"""Facts in a few lines for people."""

from __future__ import annotations

from detector.facts.c2pa import C2pa
from detector.facts.facts import Facts
from detector.facts.xmp import TERMS, source_term


def as_lines(facts: Facts) -> list[str]:
    """What is known, a subject on each line; what could not be read comes last."""
    lines = [_first_line(facts)] if facts.format else []
    if facts.jpeg is not None:
        lines.append(_compression(facts))
    if facts.icc_profile:
        lines.append(f"colour profile: {facts.icc_profile}")
    if facts.exif is not None:
        exif = facts.exif
        camera = " ".join(filter(None, (exif.make, exif.model)))
        named = {"camera": camera, "software": exif.software, "date": exif.date}
        said = [f"{name} {value}" for name, value in named.items() if value]
        if exif.orientation not in (None, 1):
            said.append(f"orientation {exif.orientation}")
        lines.append(f"EXIF: {', '.join(said) or 'names neither camera nor software'}")
    if facts.xmp is not None:
        if facts.xmp.digital_source_type:
            lines.append(f"digital source type: {_meaning(facts.xmp.digital_source_type)}")
        said = [value for value in (facts.xmp.creator_tool, facts.xmp.credit) if value]
        lines += [f"XMP: {', '.join(said)}"] if said else []
    if facts.c2pa is not None:
        lines.append(f"C2PA: {_credentials(facts.c2pa)}")
    lines += [f"text of {found.tool} in {found.place}: {found.text}" for found in facts.generators]
    if facts.texts and not facts.generators:
        lines.append(f"texts: {', '.join(facts.texts)}")
    return lines + [f"not read: {problem}" for problem in facts.problems]


def _first_line(facts: Facts) -> str:
    said = [" ".join(filter(None, (facts.webp, facts.format)))]
    if facts.width and facts.height:
        said.append(f"{facts.width}x{facts.height}")
    if facts.mode:
        said.append(facts.mode + (f" of {facts.depth} bits" if facts.depth not in (None, 8) else ""))
    if facts.bytes is not None:
        said.append(f"{facts.bytes} bytes")
    return ", ".join(said)


def _compression(facts: Facts) -> str:
    jpeg = facts.jpeg
    assert jpeg is not None
    said = []
    if jpeg.quality is not None:
        said.append(f"quality {jpeg.quality}" if jpeg.exact else f"quality about {jpeg.quality}, tables not libjpeg's")
    if jpeg.subsampling:
        said.append(f"chroma {jpeg.subsampling}")
    said.append("progressive" if jpeg.progressive else "baseline")
    if jpeg.tables:
        said.append(f"tables {jpeg.tables}")
    return f"compression: {', '.join(said)}"


def _credentials(c2pa: C2pa) -> str:
    if c2pa.note is not None:
        return f"a manifest; {c2pa.note}"
    said = [f"a manifest of {c2pa.claim_generator or 'an unnamed program'}"]
    if c2pa.validation:
        said.append(f"validation {c2pa.validation}")
    return "; ".join(said + [_meaning(address) for address in c2pa.digital_source_types])


def _meaning(address: str) -> str:
    term = source_term(address) or address
    return f"{term} ({TERMS[term]})" if term in TERMS else term
