"""Results as one self-contained HTML page."""

from detector.report.page import write_report

__all__ = ["write_report"]
