"""Text of files, such as their names, as one line that a terminal or a picture shows and does not obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with bytes that are no characters, which file names may hold, and control characters escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
