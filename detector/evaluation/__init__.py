"""Evaluation of detectors: metrics, a row for each generator, and tables of them."""

from detector.evaluation.evaluate import Evaluation, Scores, evaluate, score_collection
from detector.evaluation.metrics import THRESHOLD, Metrics, average_precision, compute_metrics, roc_auc
from detector.evaluation.report import as_csv, as_json, as_table

__all__ = [
    "THRESHOLD",
    "Evaluation",
    "Metrics",
    "Scores",
    "as_csv",
    "as_json",
    "as_table",
    "average_precision",
    "compute_metrics",
    "evaluate",
    "roc_auc",
    "score_collection",
]
