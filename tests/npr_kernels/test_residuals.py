"""npr_kernels/residuals.py and csrc/npr.h, which define the residuals for Python and for C++: the same."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from npr_kernels.residuals import RESIDUALS, Map, taps

CSRC = Path(__file__).parents[2] / "csrc"

# The tables of csrc/npr.h as JSON: by residual, each map's taps as [position, difference, row, column].
PROGRAM = r"""
#include <cstdio>
#include "npr.h"

int main() {
  const char* separator = "{";
  for (const npr::Residual& residual : npr::kResiduals) {
    std::printf("%s\"%s\": {\"taps\": %d, \"largest\": %d, \"maps\": [", separator, residual.name, residual.taps,
                residual.largest);
    for (int m = 0; m < residual.maps; ++m) {
      const npr::Map map = residual.map[m];
      for (int t = 0; t < npr::taps_of(map); ++t) {
        const npr::Tap tap = npr::tap_source(map, t);
        std::printf("%s[%d, %d, %d, %d]", t ? ", " : m ? ", [" : "[", npr::tap_position(map, t), int(tap.difference),
                    tap.row, tap.col);
      }
      std::printf("]");
    }
    std::printf("]}");
    separator = ", ";
  }
  std::printf("}\n");
}
"""

RIGHT, BELOW, CORNER, DIAGONAL = range(4)


def sources(each: Map) -> list[list[int]]:
    """What a 3x3 kernel with padding 1 reads of a map at its positions, going from cell to cell by the map's step."""
    read = []
    for position in each.positions:
        (row, y), (col, x) = (divmod(k - 1, each.step) for k in divmod(position, 3))
        difference = DIAGONAL if each.step == 1 else {(0, 1): RIGHT, (1, 0): BELOW, (1, 1): CORNER}[y, x]
        read.append([position, difference, row, col])
    return read


def test_the_twins_are_equal(tmp_path):
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler {compiler[0]}")
    source, program = tmp_path / "residuals.cpp", tmp_path / "residuals"
    source.write_text(PROGRAM)
    subprocess.run([*compiler, "-std=c++20", f"-I{CSRC}", str(source), "-o", str(program)], check=True)
    twin = json.loads(subprocess.run([str(program)], capture_output=True, check=True).stdout)
    assert twin == {
        name: {
            "taps": taps(name),
            "largest": max(each.largest for each in maps),
            "maps": [sources(each) for each in maps],
        }
        for name, maps in RESIDUALS.items()
    }
    assert list(twin) == list(RESIDUALS)
