"""Audits of data sets: leaks of the labels, duplicates, and detectors' biases."""

from detector.audit.audit import Audit, audit
from detector.audit.bias import Bias, Following, measure_bias
from detector.audit.duplicates import Duplicates, Group, find_duplicates
from detector.audit.leaks import Finding, columns, find_leaks
from detector.audit.reading import Record, read_records
from detector.audit.table import FACTS, Fact

__all__ = [
    "FACTS",
    "Audit",
    "Bias",
    "Duplicates",
    "Fact",
    "Finding",
    "Following",
    "Group",
    "Record",
    "audit",
    "columns",
    "find_duplicates",
    "find_leaks",
    "measure_bias",
    "read_records",
]
