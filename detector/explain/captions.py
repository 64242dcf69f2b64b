"""File names as text in pictures."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with bytes that are no characters, which file names may hold, and control characters escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
