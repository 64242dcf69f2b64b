"""`npr eval`: accuracy and average precision on each generator of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import UsageError, count_readers, find_device, find_preprocessing, natural_int
from detector.commands.measuring import (
    Named,
    add_measuring,
    find_collection,
    limit_collection,
    load_detectors,
    score_file,
)
from detector.commands.truth import add_delivery_and_reals, run_truth, write_result

if TYPE_CHECKING:
    from detector.data import Collection
    from detector.evaluation import Evaluation, Preset, ScoreFile

_DESCRIPTION = """\
Measure detectors on every generator of a data set: images, accuracy at 0.5 (Acc), average precision (AP), accuracy on
reals and on fakes, AUC, accuracy at the best threshold, expected calibration error (ECE), reals called fake where 95 %
of the fakes are found (FPR95), in percent, and their mean over the generators, as the papers report them; and, in the
files and where a table has room for them, what forensics reports: equal error rate (EER), fakes found where 1 % and
0.1 % of the reals are called fake (TPR), and the cost of the score's logit as a log-likelihood ratio, in bits, as it is
(Cllr) and at its best (Cllr min). Several detectors are compared in one table. A preset is one of the papers' test
sets, with its folders, its treatment of images and the published figures beside. Images that cannot be read are named
and do not count.

With --delivery, --reals or --abstain, what is measured is what reals and fakes that differ in format, size and counts
leave comparable: balanced average precision against each pool of reals, fakes found, and reals called fake by folder,
after each delivery, as `npr truth` shows them."""

_EPILOG = """\
examples:
  npr eval data/test --weights runs/data
  npr eval data/test --weights npr=runs/a cnn=runs/b --bootstrap 1000 --html report.html
  npr eval ForenSynths/test --preset forensynths-8 --weights NPR.pth --csv forensynths.csv
  npr eval data/test --weights runs/data --delivery none jpeg:80 crop:256,webp:75 --reals web=photos,more/photos
  npr eval GenImage --split val --weights NPR.pth --policy native --json results.json
"""


class _ListPresets(argparse.Action):
    """Prints the presets and ends, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from detector.evaluation import PRESETS

        for preset in PRESETS.values():
            folders = ", ".join(folders[0] for folders in preset.generators.values())
            print(f"{preset.name}\n  {preset.title}; {preset.rule}\n  folders: {folders}\n  from {preset.home}")
            for row in preset.published:
                print(f"  published: {row.detector}, {row.source}")
        parser.exit()


def add_parser(subparsers: Any) -> None:
    """Adds `eval` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "eval", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_measuring(parser)
    parser.add_argument("--preset", metavar="NAME", help="DATA is this test set of the papers'")
    parser.add_argument("--list-presets", action=_ListPresets, nargs=0, help="list them and stop")
    parser.add_argument(
        "--bootstrap",
        metavar="N",
        type=natural_int,
        default=0,
        help="resamples that 95%% intervals are computed of, such as 1000 (default: no intervals)",
    )
    parser.add_argument(
        "--by", choices=("generator", "class"), default="generator", help="rows of the table (default: %(default)s)"
    )
    add_delivery_and_reals(parser)
    parser.add_argument("--csv", metavar="FILE", help="write the table, in percent; - for standard output")
    parser.add_argument("--json", metavar="FILE", help="write the results, as fractions; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a report with tables and plots")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where no image could be read."""
    if args.delivery or args.reals or args.abstain:
        return _run_truth(args)
    from detector.console import say
    from detector.evaluation import as_csv, find_preset
    from detector.evaluation.results import as_results
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.report import check_figures, write_report

    keep_freed_memory()
    for target in (args.csv, args.json, args.html):
        if target not in (None, "-"):
            check_writable(target)
    if args.html is not None:
        check_figures()
    preset = None if args.preset is None else find_preset(args.preset)
    detectors = load_detectors(args.weights, find_device(args.device), args.precision)
    collection = _collection(args, preset)
    with score_file(args, detectors) as scores:
        evaluations = [_evaluate(args, detector, collection, preset, scores) for detector in detectors]
    bad = {image.path: image.reason for evaluation in evaluations for image in evaluation.bad}
    for path, reason in bad.items():
        say(f"skipped {path}: {reason}")
    for remark in dict.fromkeys(remark for evaluation in evaluations for remark in evaluation.undefined):
        say(remark)
    if "-" not in (args.csv, args.json):
        _show(evaluations, classes=args.by == "class")
    results = [evaluation.to_dict() for evaluation in evaluations]
    if args.csv is not None:
        write_result(args.csv, as_csv(*evaluations))
    if args.json is not None:
        write_result(args.json, as_results(results))
    if args.html is not None:
        write_report(args.html, f"Evaluation on {args.data}", results)
    return int(not any(evaluation.images for evaluation in evaluations))


def _run_truth(args: argparse.Namespace) -> int:
    from detector.evaluation import parse_pools

    if args.preset is not None or args.bootstrap or args.by == "class":
        raise UsageError(
            "arguments --delivery, --reals and --abstain do not go with --preset, --bootstrap and --by class"
        )
    return run_truth(
        args, deliveries=args.delivery or ["none"], reals=parse_pools(args.reals or []), abstain=args.abstain
    )


def _collection(args: argparse.Namespace, preset: Preset | None) -> Collection:
    """The images to measure on; says what was found, and what of a preset is missing."""
    from detector.console import say

    found = find_collection(args, preset.split if preset else "test")
    missing: list[str] = []
    if preset is not None:
        found, missing = preset.select(found)
    collection = limit_collection(args, found)
    say(collection.describe())
    if preset is not None and missing:
        folders = ", ".join(preset.generators[name][0] for name in missing)
        say(
            f"{preset.title}: {len(missing)} of {len(preset.generators)} generators are missing ({folders}); "
            "published means are taken over those that are here"
        )
    return collection


def _evaluate(
    args: argparse.Namespace,
    detector: Named,
    collection: Collection,
    preset: Preset | None,
    scores: ScoreFile | None,
) -> Evaluation:
    """By the preset's rule, its rows in the order of the paper's table."""
    from dataclasses import replace

    from detector.evaluation import evaluate

    own = detector.model.preprocessing
    evaluation = evaluate(
        detector.model,
        collection,
        preprocessing=find_preprocessing(args, preset.preprocessing(own) if preset else own),
        batch_size=args.batch_size,
        workers=count_readers(args),
        bootstrap=args.bootstrap,
        seed=args.seed,
        name=detector.name,
        weights=str(detector.weights),
        command=args.command_line,
        resume=scores,
        verbose=True,
    )
    if preset is None:
        return evaluation
    return replace(
        evaluation,
        provenance=replace(evaluation.provenance, preset=preset.name, kinds=preset.kinds),
        rows={name: evaluation.rows[name] for name in preset.ordered(evaluation.rows)},
    )


def _show(evaluations: Sequence[Evaluation], *, classes: bool) -> None:
    """Every metric of one detector, or of each where classes are asked for; detectors and published rows compared."""
    from detector.evaluation import as_comparison_table, as_table, compare, fits, print_table

    origin = evaluations[0].provenance
    if len(evaluations) == 1 or classes:
        for evaluation in evaluations:
            title = evaluation.provenance.detector
            wide = as_table(evaluation, title, classes=classes, forensic=True)
            print_table(wide if fits(wide) else as_table(evaluation, title, classes=classes))
    if len(evaluations) > 1 or origin.preset:
        print_table(as_comparison_table(compare(evaluations), origin.simulated))
