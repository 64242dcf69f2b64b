"""The packages whose photographs the detector in the box is trained on, each with its licences.

All are part of Debian 12's main archive, which takes only what may be used, changed and passed on. `apt-get download`
fetches them without installing, `dpkg-deb` unpacks them.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from detector.console import say


@dataclass(frozen=True)
class Package:
    """A package and what is taken from it.

    Attributes:
        name: in Debian's archive.
        licences: of the files taken, as the package's copyright file gives them.
        photographs, drawings, textures: globs below the unpacked package; the largest of several sizes of one picture
            is named.
        history: what its textures are called, see :mod:`detector.weights.photographs`.
    """

    name: str
    licences: str
    photographs: tuple[str, ...] = ()
    drawings: tuple[str, ...] = ()
    textures: tuple[str, ...] = ()
    history: str = "texture"


_BACKGROUNDS = "usr/share/backgrounds"
_WALLPAPERS = "usr/share/wallpapers/{}/contents/images/{}"


def _mate(*names: str) -> tuple[str, ...]:
    return tuple(f"{_BACKGROUNDS}/mate/nature/{name}.jpg" for name in names)


def _plasma(size: str, *names: str) -> tuple[str, ...]:
    return tuple(_WALLPAPERS.format(name, size) for name in names)


PACKAGES: tuple[Package, ...] = (
    Package(
        "lomiri-wallpapers-16.04",
        "CC-BY-4.0, CC-BY-SA-4.0, CC0-1.0",
        tuple(
            f"{_BACKGROUNDS}/{name}.jpg"
            for name in (
                "Bridge_by_Sander_Klootwijk",
                "Dragonfly_by_Bolly",
                "Picture_0B_by_freespace",
                "Picture_1A_by_freespace",
                "Wine_by_Jakkub_Mede",
                "aitzgorri_by_Aitzol_Berasategi",
                "free_by_Peter_Nerlich",
                "friends_by_Aitzol_Berasategi",
                "greentock_by_Peter_Nerlich",
                "life_by_Aitzol_Berasategi",
                "picosdeeuropa_by_Aitzol_Berasategi",
                "seeding_by_Clements_Engelhardt",
                "sunset_by_Aitzol_Berasategi",
            )
        ),
        drawings=(f"{_BACKGROUNDS}/analogpattern_by_Peter_Nerlich.jpg",),
    ),
    Package(
        "lomiri-wallpapers-20.04",
        "CC-BY-SA-3.0",
        (f"{_BACKGROUNDS}/Kleiber_by_Lukas_Baubkus.jpg",),
        (f"{_BACKGROUNDS}/Infinite-Sea_by_Aury88.jpg", f"{_BACKGROUNDS}/Painting-Colors_by__herobrine7gamer.jpg"),
    ),
    Package(
        "mate-backgrounds",
        "GPL-2.0-or-later",
        (
            *_mate("Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow"),
            *_mate("LadyBird", "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"),
        ),
    ),
    Package(
        "palapeli-data",
        "GPL-2.0-or-later",
        tuple(
            f"usr/share/palapeli/collection/{name}.jpg"
            for name in (
                "castle-maintenon",
                "cincinnati-bridge",
                "citrus-fruits",
                "european-honey-bee",
                "panther-chameleon-female",
            )
        ),
        tuple(
            f"usr/share/palapeli/backgrounds/{name}.jpg"
            for name in (
                "Eliminator-Funk-2",
                "Rear-Admiral-Diplomat-1",
                "Time-For-Lunch-2",
                "gon-defends-the-critters-1",
                "mahogany-handjob-1",
            )
        ),
    ),
    Package(
        "plasma-workspace-wallpapers",
        "CC-BY-SA-4.0, LGPL-3.0",
        (
            *_plasma("2560x1600.jpg", "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow"),
            *_plasma("2560x1600.jpg", "FallenLeaf", "Grey", "Kite", "OneStandsOut", "Path", "summer_1am"),
            *_plasma("5120x2880.jpg", "Shell", "Volna"),
        ),
        (
            *_plasma("5120x2880.png", "Altai", "IceCold", "Kay", "MilkyWay", "Patak"),
            *_plasma("3840x2160.png", "Canopee", "Cascade", "Cluster", "Kokkini", "Opal"),
            *_plasma("5120x2880.jpg", "Flow", "Honeywave", "SafeLanding"),
            *_plasma("2560x1600.jpg", "Autumn"),
            *_plasma("3200x2000.jpg", "PastelHills"),
            *_plasma("2560x1600.png", "Elarun"),
        ),
    ),
    Package(
        "ufoai-textures",
        "GPL-2.0-or-later, CC-BY-SA-3.0, CC-BY-3.0, public domain",
        textures=("usr/share/games/ufoai/base/*.content/textures/**/*.jpg",),
    ),
    Package(
        "supertuxkart-data",
        "CC-BY-SA-3.0, CC-BY-SA-4.0, CC-BY-3.0, CC0-1.0, GPL-2.0-or-later, public domain",
        textures=tuple(
            f"usr/share/games/supertuxkart/data/{pattern}"
            for pattern in ("textures/*.jpg", "textures/*.png", "tracks/*/*.jpg", "tracks/*/*.png")
        ),
        history="game",
    ),
    Package(
        "openarena-081-textures",
        "GPL-2.0-or-later",
        textures=("usr/share/games/openarena/baseoa/*.content/textures/**/*.jpg",),
        history="game",
    ),
)


def fetch(folder: Path) -> dict[str, Path]:
    """Downloads and unpacks the packages, those that are not there yet.

    Args:
        folder: a package NAME is unpacked into folder/NAME, whole or not at all.

    Returns:
        The unpacked packages by name.

    Raises:
        FileNotFoundError: apt-get or dpkg-deb is missing. OSError: a package cannot be downloaded or unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {package.name: _unpacked(package.name, folder) for package in PACKAGES}


def files_of(root: Path, package: Package, patterns: tuple[str, ...]) -> list[Path]:
    """The files of an unpacked package that patterns name, in the patterns' order.

    Raises:
        FileNotFoundError: a pattern names none: another release of the package.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(root.glob(pattern))
        if not matches:
            raise FileNotFoundError(f"the package {package.name} has no {pattern}: not the release of Debian 12")
        found += matches
    return found


def _unpacked(name: str, folder: Path) -> Path:
    target = folder / name
    if target.is_dir():
        return target
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is missing: the photographs are fetched as packages, on a Debian system")
    say(f"fetching {name}")
    part = folder / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    _run(["apt-get", "-q", "download", name], part)
    (archive,) = part.glob("*.deb")
    _run(["dpkg-deb", "-x", archive.name, "content"], part)
    for packed in sorted((part / "content").rglob("*.pk3")):  # games pack their textures as zip archives
        shutil.unpack_archive(packed, packed.with_suffix(".content"), "zip")
    (part / "content").rename(target)
    shutil.rmtree(part)
    return target


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"{' '.join(command)} failed: {reason}")
