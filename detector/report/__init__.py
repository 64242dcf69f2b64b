"""Results as one self-contained HTML page."""

from detector.report.page import write_report
from detector.report.plots import check_figures

__all__ = ["check_figures", "write_report"]
