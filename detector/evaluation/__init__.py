"""Evaluation of detectors: metrics with intervals, a row for each generator, robustness curves, and tables of them."""

from detector.evaluation.binomial import clopper_pearson
from detector.evaluation.calibration import Calibration, calibrate
from detector.evaluation.calibration_cost import cllr, cllr_min
from detector.evaluation.calibration_curves import ratio_reliability, tippett
from detector.evaluation.calibration_elub import elub
from detector.evaluation.calibration_llr import Llr, fit_llr, llr_of
from detector.evaluation.calibration_tables import as_calibration_tables
from detector.evaluation.calibration_threshold import (
    Certified,
    TooFewError,
    certified_threshold,
    certified_thresholds,
    images_needed,
)
from detector.evaluation.comparison import Comparison, compare
from detector.evaluation.evaluate import Evaluation, Row, evaluate
from detector.evaluation.metrics import (
    THRESHOLD,
    Metrics,
    average_precision,
    balanced_average_precision,
    compute_metrics,
    roc_auc,
)
from detector.evaluation.pools import (
    Pool,
    draw_pool,
    find_folders,
    find_pool,
    parse_pools,
    pools_by_encoding,
    with_pools,
)
from detector.evaluation.presets import PRESETS, Preset, find_preset
from detector.evaluation.results import read_results, write_results
from detector.evaluation.risk_coverage import RiskCoverage, aurc, balanced_weights, risk_coverage
from detector.evaluation.robustness import SWEEPS, Condition, Robustness, robustness
from detector.evaluation.running import RunningMetrics
from detector.evaluation.score_file import ScoreFile
from detector.evaluation.scoring import Scores, score_collection
from detector.evaluation.subset import draw_subset
from detector.evaluation.tables import (
    as_comparison_table,
    as_csv,
    as_json,
    as_robustness_table,
    as_table,
    fits,
    print_table,
)
from detector.evaluation.threshold import threshold_of
from detector.evaluation.truth import Measurement, Separation, Share, Source, Truth, measure_truth
from detector.evaluation.truth_tables import as_truth_csv, as_truth_tables

__all__ = [
    "PRESETS",
    "SWEEPS",
    "THRESHOLD",
    "Calibration",
    "Certified",
    "Comparison",
    "Condition",
    "Evaluation",
    "Llr",
    "Measurement",
    "Metrics",
    "Pool",
    "Preset",
    "RiskCoverage",
    "Robustness",
    "Row",
    "RunningMetrics",
    "ScoreFile",
    "Scores",
    "Separation",
    "Share",
    "Source",
    "TooFewError",
    "Truth",
    "as_calibration_tables",
    "as_comparison_table",
    "as_csv",
    "as_json",
    "as_robustness_table",
    "as_table",
    "as_truth_csv",
    "as_truth_tables",
    "aurc",
    "average_precision",
    "balanced_average_precision",
    "balanced_weights",
    "calibrate",
    "certified_threshold",
    "certified_thresholds",
    "cllr",
    "cllr_min",
    "clopper_pearson",
    "compare",
    "compute_metrics",
    "draw_pool",
    "draw_subset",
    "elub",
    "evaluate",
    "find_folders",
    "find_pool",
    "find_preset",
    "fit_llr",
    "fits",
    "images_needed",
    "llr_of",
    "measure_truth",
    "parse_pools",
    "pools_by_encoding",
    "print_table",
    "ratio_reliability",
    "read_results",
    "risk_coverage",
    "robustness",
    "roc_auc",
    "score_collection",
    "threshold_of",
    "tippett",
    "with_pools",
    "write_results",
]
