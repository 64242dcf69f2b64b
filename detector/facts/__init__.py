"""What a file itself shows of its making, read without any detector."""

from detector.facts.facts import Facts, read_compression, read_facts
from detector.facts.lines import as_lines

__all__ = ["Facts", "as_lines", "read_compression", "read_facts"]
