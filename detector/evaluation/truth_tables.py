"""Truths as tables on screen and as CSV, in percent: sources of fakes, then folders of reals, for each delivery."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from detector.evaluation.abstention import YARDSTICK, Abstention, Withheld
from detector.evaluation.formats import percent, percent_cell
from detector.evaluation.pools import OWN
from detector.evaluation.truth import SUMMARIES, Measurement, Share, Truth
from detector.verdicts import threshold_text

HEADERS_NOTE = "Pools are told by the files' headers, which do not say what an image was before it was stored."


def as_truth_tables(truth: Truth) -> list[Table]:
    """Two tables for each delivery, in percent, a dash where a figure is undefined; and two on verdicts that are
    withheld, where that was asked for."""
    tables = [
        table
        for measurement in truth.measurements
        for table in (_sources_table(truth, measurement), _reals_table(truth, measurement))
    ]
    if truth.told_by_headers:
        tables[-1].caption = Text(HEADERS_NOTE)
        tables[-1].caption_justify = "left"
    for measurement in truth.measurements:
        if measurement.abstention is not None:
            tables += [_withheld_table(truth, measurement), _signs_table(truth, measurement)]
    return tables


def as_truth_csv(*truths: Truth) -> str:
    """Figures in percent, empty where undefined: a row for each source, folder of reals and pool of each delivery.

    Columns: detector, delivery, rows ("source", "mean of sources", "worst of sources", "reals", "pool", "worst of
    reals"), name, images, encodings, called_fake (recall of fakes, false alarms of reals), the ends of its interval,
    and for OWN and every pool the balanced average precision and the AUC of sources against it.

    Where withheld verdicts were measured, there are more rows, "fakes withheld" and "reals withheld" of each folder,
    "all fakes withheld" and "all reals withheld", "both labels" with both weighing the same, and "sign" of doubt; and
    at the end of all more columns: the numbers wrong (withheld or not), unsure and unsure_wrong; coverage, the share
    that is judged, and risk, what is wrong of that; reasons with their numbers; aurc and the ends of its interval,
    gain_low and gain_high, by which YARDSTICK's is larger.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pools = list(dict.fromkeys(pool for truth in truths for pool in truth.columns))
    heads = [f"{metric}_{pool}" for pool in pools for metric in ("balanced_ap", "auc")]
    names = ["detector", "delivery", "rows", "name", "images", "encodings"]
    names += ["called_fake", "called_fake_low", "called_fake_high", *heads]
    withheld = any(part.abstention is not None for truth in truths for part in truth.measurements)
    names += _WITHHELD_COLUMNS * withheld
    writer.writerow(names)
    for truth in truths:
        for part in truth.measurements:
            rows = _csv_rows(truth, part, pools) + _withheld_rows(part.abstention, 4 + 2 * len(pools))
            for row in rows:
                row = [truth.provenance.detector, part.delivery, *row]
                writer.writerow([*row, *[""] * (len(names) - len(row))])
    return text.getvalue()


def encodings_text(counts: Mapping[str, int]) -> str:
    """ "PNG", or with numbers where there are several; "" for none."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {encoding}" for encoding, count in counts.items())


def _sources_table(truth: Truth, part: Measurement) -> Table:
    title = f"{truth.provenance.detector}, after {part.delivery}: fakes found, and balanced AP against reals"
    table = Table(title=_title(title, truth.provenance.simulated), title_justify="left", padding=(0, 1))
    table.add_column("source of fakes", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("files")
    table.add_column("AP,\nown reals", justify="right")
    columns = [OWN, *truth.pools]
    for pool in truth.pools:
        table.add_column(Text(f"AP,\n{pool}"), justify="right")
    table.add_column("found", justify="right")
    for name, source in part.sources.items():
        separations = [source.against.get(pool) for pool in columns]
        table.add_row(
            Text(name),
            str(source.recall.images),
            encodings_text(truth.fake_encodings[name]),
            *(percent(found.balanced_average_precision if found else None) for found in separations),
            percent(source.recall.rate),
        )
    table.add_section()
    precisions = [part.precisions(pool) for pool in columns]
    for name, summary in SUMMARIES.items():
        table.add_row(
            name, "", "", *(percent(summary(values)) for values in precisions), percent(summary(part.recalls))
        )
    return table


def _reals_table(truth: Truth, part: Measurement) -> Table:
    above = threshold_text(truth.threshold)
    title = f"{truth.provenance.detector}, after {part.delivery}: reals called fake, above a score of {above}"
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("folder of reals", no_wrap=True)
    table.add_column("images", justify="right")
    table.add_column("files")
    table.add_column("pool")
    table.add_column("called fake", justify="right")
    table.add_column("95 %", justify="right")
    for name, share in part.reals.items():
        pools = ", ".join(pool for pool, parts in truth.pools.items() if name in parts)
        files = encodings_text(truth.real_encodings[name])
        table.add_row(Text(name), str(share.images), files, Text(pools), *_share(share))
    table.add_section()
    for name, share in part.pools.items():
        table.add_row(Text(f"pool {name}"), str(share.images), "", "", *_share(share))
    table.add_row("worst folder", "", "", "", percent(part.worst_false_alarms), "")
    return table


def _withheld_table(truth: Truth, part: Measurement) -> Table:
    assert part.abstention is not None
    title = f"{truth.provenance.detector}, after {part.delivery}: verdicts withheld, and what is wrong"
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("folder", no_wrap=True)
    for head in ("images", "wrong", "unsure", "wrong\nof unsure", "wrong\nof the rest"):
        table.add_column(head, justify="right")
    table.add_column("why (images)")

    def add(name: str, withheld: Withheld) -> None:
        images = withheld.images
        table.add_row(
            Text(name),
            str(images),
            percent(withheld.wrong / images if images else None),
            percent(withheld.unsure / images if images else None),
            percent(withheld.wrong_of_unsure),
            percent(withheld.wrong_of_rest),
            withheld.why,
        )

    for kind, name, withheld in part.abstention.folders():
        if name is not None:
            add(f"{kind}: {name}", withheld)
        else:
            add(f"all {kind}", withheld)
            table.add_section()
    return table


def _signs_table(truth: Truth, part: Measurement) -> Table:
    assert part.abstention is not None
    title = (
        f"{truth.provenance.detector}, after {part.delivery}: signs of doubt, by the area under the risk-coverage curve"
    )
    table = Table(title=Text(title), title_justify="left", padding=(0, 1))
    table.add_column("doubted first", no_wrap=True)
    table.add_column("AURC", justify="right")
    table.add_column(f"less than {YARDSTICK}, 95 %", justify="right")
    for name, sign in part.abstention.signs.items():
        gain = "" if name == YARDSTICK else f"{100 * sign.gain[0]:+.2f}..{100 * sign.gain[1]:+.2f}"
        table.add_row(Text(name), f"{100 * sign.aurc:.2f}", gain)
    return table


def _share(share: Share) -> tuple[str, str]:
    interval = share.interval
    return percent(share.rate), "-" if interval is None else f"{percent(interval[0])}..{percent(interval[1])}"


def _csv_rows(truth: Truth, part: Measurement, pools: Sequence[str]) -> list[list[str]]:
    """From the column "rows" on."""
    rows = []
    for name, source in part.sources.items():
        files = encodings_text(truth.fake_encodings[name])
        row = ["source", name, str(source.recall.images), files, *_share_cells(source.recall)]
        for pool in pools:
            found = source.against.get(pool)
            row += (
                ["", ""] if found is None else [percent_cell(found.balanced_average_precision), percent_cell(found.auc)]
            )
        rows.append(row)
    for kind, summary in SUMMARIES.items():
        row = [f"{kind} of sources", "", "", "", percent_cell(summary(part.recalls)), "", ""]
        for pool in pools:
            row += [percent_cell(summary(part.precisions(pool))), ""]
        rows.append(row)
    empty = [""] * (2 * len(pools))
    for name, share in part.reals.items():
        files = encodings_text(truth.real_encodings[name])
        rows.append(["reals", name, str(share.images), files, *_share_cells(share), *empty])
    for name, share in part.pools.items():
        rows.append(["pool", name, str(share.images), "", *_share_cells(share), *empty])
    rows.append(["worst of reals", "", "", "", percent_cell(part.worst_false_alarms), "", "", *empty])
    return rows


_WITHHELD_COLUMNS = [
    "wrong", "unsure", "unsure_wrong", "coverage", "risk", "reasons", "aurc", "gain_low", "gain_high",
]  # fmt: skip


def _withheld_rows(of: Abstention | None, between: int) -> list[list[str]]:
    """From the column "rows" on; so many columns between that of images and _WITHHELD_COLUMNS stay empty."""
    if of is None:
        return []
    rows, empty = [], [""] * between
    for kind, name, part in of.folders():
        counts = [str(count) for count in (part.wrong, part.unsure, part.unsure_wrong)]
        shares = [percent_cell(part.coverage), percent_cell(part.wrong_of_rest)]
        first = [f"{kind} withheld", name] if name is not None else [f"all {kind} withheld", ""]
        rows.append([*first, str(part.images), *empty, *counts, *shares, part.why])
    rows.append(["both labels", "", "", *empty, "", "", "", percent_cell(of.coverage), percent_cell(of.risk)])
    for name, sign in of.signs.items():
        rows.append(["sign", name, "", *empty, *[""] * 6, *map(percent_cell, (sign.aurc, *sign.gain))])
    return rows


def _share_cells(share: Share) -> list[str]:
    low, high = share.interval or (None, None)
    return [percent_cell(share.rate), percent_cell(low), percent_cell(high)]


def _title(title: str, simulated: str) -> Text:
    return Text("\n".join(filter(None, (title, simulated))))
