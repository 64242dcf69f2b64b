"""The name of a colour profile: its description, by ICC.1:2022 and, for profiles of version 2, ICC.1:2001."""

from __future__ import annotations

from detector.facts.source import Damaged, clean, decode_text

_MOST_TAGS = 200


def profile_name(data: bytes) -> str:
    """The profile's description, made safe to show; "unnamed" where it has none.

    Raises:
        Damaged: it is no profile.
    """
    if len(data) < 132 or data[36:40] != b"acsp":
        raise Damaged("is no profile")
    count = min(int.from_bytes(data[128:132], "big"), _MOST_TAGS)
    for at in range(132, min(132 + 12 * count, len(data) - 11), 12):
        if data[at : at + 4] == b"desc":
            start, size = int.from_bytes(data[at + 4 : at + 8], "big"), int.from_bytes(data[at + 8 : at + 12], "big")
            return clean(_text(data[start : start + size])) or "unnamed"
    return "unnamed"


def _text(data: bytes) -> str:
    """Of a tag, in its first language."""
    if data[:4] == b"desc":
        length = int.from_bytes(data[8:12], "big")
        return decode_text(data[12 : 12 + length])
    if data[:4] == b"mluc" and len(data) >= 28:
        length, start = int.from_bytes(data[20:24], "big"), int.from_bytes(data[24:28], "big")
        return data[start : start + length].decode("utf-16-be", "replace").strip("\0")
    return ""
