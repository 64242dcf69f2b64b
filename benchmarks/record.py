"""Results files: one for each machine and day, in sections that different steps write."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import torch

from detector.bench import machine
from detector.files import write_text

FOLDER = Path(__file__).with_name("results")


def path(device: torch.device) -> Path:
    """The results file of a device today."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_name()
    return FOLDER / f"{machine.slug(name)}-{datetime.date.today().isoformat()}.json"


def update(path: Path, sections: dict[str, Any]) -> None:
    """Replaces sections of a results file, which need not exist; others stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps(before | sections, indent=1) + "\n")
