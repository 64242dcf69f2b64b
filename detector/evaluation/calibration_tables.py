"""A calibration as tables on screen: groups of reals, sources of fakes, and measures."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from detector.evaluation.calibration import Calibration
from detector.evaluation.formats import bits, percent
from detector.evaluation.truth import Share
from detector.verdicts import threshold_text


def as_calibration_tables(calibration: Calibration) -> list[Table]:
    """Reals by group; and, where there are fakes, these by source, and the measures. Rates in percent."""
    tables = [_reals_table(calibration)]
    if calibration.measures is not None:
        tables += [_fakes_table(calibration), _measures_table(calibration)]
    return tables


def measure_rows(calibration: Calibration) -> list[tuple[str, str, str]]:
    """Name, value and remark of each measure; none without fakes."""
    measures, llr = calibration.measures, calibration.llr
    if measures is None or llr is None:
        return []
    rows = [("equal error rate, %", percent(measures.eer), "")]
    for rate, share in measures.found.items():
        rows.append((f"fakes found at {100 * rate:g} % FPR, %", percent(share.rate), interval_text(share)))
    return [
        *rows,
        ("Cllr of the logit, bits", bits(measures.cllr), "the score as it is"),
        ("Cllr min, bits", bits(measures.cllr_min), "what separation alone costs"),
        ("Cllr of the learnt ratio, bits", bits(measures.cllr_learnt), "on the images it was learnt from"),
        ("Cllr, cross-validated, bits", bits(measures.cllr_cross_validated), "on images it was not learnt from"),
        ("log10 LR, bounds", f"{llr.bounds[0]:.2f}..{llr.bounds[1]:.2f}", f"{llr.method}, clipped by ELUB"),
    ]


def interval_text(share: Share) -> str:
    interval = share.interval
    return "-" if interval is None else f"{percent(interval[0])}..{percent(interval[1])}"


def guarantee_text(calibration: Calibration) -> str:
    """The result in a sentence."""
    return (
        f"above a score of {threshold_text(calibration.threshold)} lie at most {100 * calibration.alpha:g} % of the "
        f"reals of each group, with {100 * calibration.confidence:g} % confidence"
    )


def _reals_table(calibration: Calibration) -> Table:
    title = f"{calibration.provenance.detector}: {guarantee_text(calibration)}"
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("reals", no_wrap=True)
    for head in ("images", "own threshold", "called fake", "certified, at most"):
        table.add_column(head, justify="right")
    for name, part in calibration.reals.items():
        own = calibration.certified[name]
        table.add_row(
            Text(name),
            str(part.share.images),
            threshold_text(own.threshold),
            f"{part.share.called} ({100 * (part.share.rate or 0):.2f} %)",
            f"{100 * own.bound:.2f} %",
        )
    return table


def _fakes_table(calibration: Calibration) -> Table:
    title = "\n".join(filter(None, ("fakes found at that threshold, in percent", calibration.provenance.simulated)))
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("fakes", no_wrap=True)
    for head in ("images", "found", "95 %"):
        table.add_column(head, justify="right")
    for name, part in calibration.fakes.items():
        table.add_row(Text(name), str(part.share.images), percent(part.share.rate), interval_text(part.share))
    return table


def _measures_table(calibration: Calibration) -> Table:
    table = Table(title=Text("all reals and fakes together"), title_justify="left", padding=(0, 1))
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("95 %, or remark")
    for row in measure_rows(calibration):
        table.add_row(*map(Text, row))
    return table
