"""Data sets without downloads: photographs, real or procedural, and simulated generators' versions of them."""

from detector.synth.build import MANIFEST, NOTE, build
from detector.synth.families import FAMILIES, SUITE_28, SUITES, find_families
from detector.synth.generators import Generator, GeneratorSpec

__all__ = ["FAMILIES", "MANIFEST", "NOTE", "SUITES", "SUITE_28", "Generator", "GeneratorSpec", "build", "find_families"]
