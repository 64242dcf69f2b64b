"""Audits as tables on screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from detector.audit.audit import Audit
from detector.audit.bias import Bias, Following
from detector.audit.duplicates import EXACT, NEAR, Duplicates, Group
from detector.audit.leaks import DIFFERS, LEAK, Finding
from detector.data import FAKE, REAL
from detector.evaluation.formats import percent

ORDER = (LEAK, DIFFERS)
"""Verdicts that come first."""

# Groups of duplicates that are named.
_NAMED = 5

# Categories that are told in a cell.
_CATEGORIES = 2


def as_audit_tables(audit: Audit) -> list[Table]:
    """Facts, duplicates, and for each detector what it follows and how deliveries change its scores."""
    tables = [_findings_table(audit), _duplicates_table(audit.duplicates)]
    for detector in audit.detectors:
        tables += [_following_table(detector), _delivered_table(detector)]
    return tables


def summary(audit: Audit) -> list[str]:
    """The verdict in sentences."""
    lines = []
    if audit.leaks:
        names = ", ".join(f"{finding.name} (AUC {percent(finding.auc)})" for finding in audit.leaks)
        lines.append(f"labels leak through {names}")
    else:
        lines.append("no fact of the files gives the labels away")
    lines += [f"duplicates: {_crossing(group)}: {_members(group)}" for group in audit.duplicates.leaks[:_NAMED]]
    if (more := len(audit.duplicates.leaks) - _NAMED) > 0:
        lines.append(f"duplicates: {more} more group{'s' * (more > 1)} like these, see --json")
    return lines


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Leaks first, then what differs, then the rest; within each the most telling first."""

    def place(finding: Finding) -> tuple[int, float]:
        rank = ORDER.index(finding.verdict) if finding.verdict in ORDER else len(ORDER)
        return rank + (finding.auc is None), -(finding.auc or 0)

    return sorted(findings, key=place)


def typical_text(finding: Finding, value: float | Mapping[str, int] | None, images: int) -> str:
    """A median, or the most telling categories with their share of the images."""
    if isinstance(value, Mapping):
        shares = (
            f"{name} {100 * count / images:.0f}\N{NO-BREAK SPACE}%" for name, count in list(value.items())[:_CATEGORIES]
        )
        return ", ".join(shares)
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"  # no exponents of large numbers


def p_text(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"


def strength_text(following: Following | None) -> str:
    """Signed for numbers, plain for categories; a dash where it was not tested."""
    if following is None:
        return "-"
    return f"{following.strength:{'.2f' if following.means else '+.2f'}}"


def by_fact(detector: Bias) -> dict[str, dict[int, Following]]:
    """What was tested, by fact and label; facts that the score follows first, the strongest first."""
    facts: dict[str, dict[int, Following]] = {}
    for following in detector.following:
        facts.setdefault(following.fact, {})[following.label] = following

    def place(item: tuple[str, dict[int, Following]]) -> float:
        return -max((abs(each.strength) for each in item[1].values() if each.found), default=0)

    return dict(sorted(facts.items(), key=place))


def duplicate_rows(duplicates: Duplicates) -> list[tuple[str, int, int, int, int]]:
    """For each kind: groups, images in them, groups across labels, groups across splits."""
    rows = []
    for kind in (EXACT, NEAR):
        groups = duplicates.of_kind(kind)
        rows.append(
            (
                kind,
                len(groups),
                sum(len(group.members) for group in groups),
                sum(group.crosses_labels for group in groups),
                sum(group.crosses_splits for group in groups),
            )
        )
    return rows


def _findings_table(audit: Audit) -> Table:
    title = f"{audit.data}: {audit.reals} real, {audit.fakes} fake; what each fact alone tells of the label"
    table = Table(title=Text("\n".join(filter(None, (title, audit.simulated)))), title_justify="left", padding=(0, 1))
    table.add_column("fact", no_wrap=True)
    table.add_column("reals")
    table.add_column("fakes")
    for head in ("AUC", "95 %", "p"):
        table.add_column(head, justify="right")
    table.add_column("verdict", no_wrap=True)
    for finding in in_order(audit.findings):
        interval = finding.interval
        table.add_row(
            Text(finding.name),
            Text(typical_text(finding, finding.real, finding.reals)),
            Text(typical_text(finding, finding.fake, finding.fakes)),
            percent(finding.auc),
            "-" if interval is None else f"{percent(interval[0])}..{percent(interval[1])}",
            p_text(finding.p),
            finding.verdict,
        )
    return table


def _duplicates_table(duplicates: Duplicates) -> Table:
    table = Table(title="images that are there more than once", title_justify="left", padding=(0, 1))
    table.add_column("duplicates")
    for head in ("groups", "images", "across labels", "across splits"):
        table.add_column(head, justify="right")
    for kind, *counts in duplicate_rows(duplicates):
        table.add_row(kind, *map(str, counts))
    return table


def _following_table(detector: Bias) -> Table:
    table = Table(
        title=Text(f"{detector.name}: how far its score follows each fact within each label"),
        title_justify="left",
        padding=(0, 1),
    )
    table.add_column("fact", no_wrap=True)
    for head in ("reals", "fakes"):
        table.add_column(head, justify="right")
        table.add_column("p", justify="right")
    table.add_column("verdict")
    for fact, of in by_fact(detector).items():
        cells = []
        for label in (REAL, FAKE):
            following = of.get(label)
            cells += [strength_text(following), p_text(following.p if following else None)]
        table.add_row(Text(fact), *cells, "follows" if any(each.found for each in of.values()) else "none found")
    return table


def _delivered_table(detector: Bias) -> Table:
    title = f"{detector.name}: how deliveries change its scores; fake above {detector.threshold:g}"
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("delivery")
    for head in ("AUC", "mean score,\nreals", "mean score,\nfakes", "reals\ncalled fake", "fakes\nfound"):
        table.add_column(head, justify="right")
    for after in detector.delivered:
        scores = ("-" if score is None else f"{score:.3f}" for score in (after.real_score, after.fake_score))
        table.add_row(
            Text(after.delivery), percent(after.auc), *scores, percent(after.false_alarms), percent(after.found)
        )
    return table


def _crossing(group: Group) -> str:
    crossed = [f"splits {', '.join(group.splits)}"] * group.crosses_splits + ["both labels"] * group.crosses_labels
    return f"{'equal files' if group.kind == EXACT else 'near images'} in {' and '.join(crossed)}"


def _members(group: Group) -> str:
    shown = ", ".join(group.members[:3])
    return shown + (f" and {len(group.members) - 3} more" if len(group.members) > 3 else "")
