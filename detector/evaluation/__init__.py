"""Evaluation of detectors: metrics with intervals, a row for each generator, robustness curves, and tables of them."""

from detector.evaluation.evaluate import Evaluation, Row, evaluate
from detector.evaluation.metrics import THRESHOLD, Metrics, average_precision, compute_metrics, roc_auc
from detector.evaluation.robustness import SWEEPS, Condition, Robustness, robustness
from detector.evaluation.scoring import Scores, score_collection
from detector.evaluation.tables import as_csv, as_json, as_table

__all__ = [
    "SWEEPS",
    "THRESHOLD",
    "Condition",
    "Evaluation",
    "Metrics",
    "Robustness",
    "Row",
    "Scores",
    "as_csv",
    "as_json",
    "as_table",
    "average_precision",
    "compute_metrics",
    "evaluate",
    "robustness",
    "roc_auc",
    "score_collection",
]
