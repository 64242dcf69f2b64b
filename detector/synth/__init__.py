"""Data sets without downloads: photographs, real or procedural, and simulated generators' versions of them."""

from detector.synth.build import MANIFEST, NOTE, build
from detector.synth.families import FAMILIES, find_families
from detector.synth.generators import Generator, GeneratorSpec

__all__ = ["FAMILIES", "MANIFEST", "NOTE", "Generator", "GeneratorSpec", "build", "find_families"]
