"""The process that measures: `python -m benchmarks.gpu.worker --device DEVICE --batch N --size N`."""

from __future__ import annotations

import argparse
import warnings

import torch

from benchmarks.gpu.device import TorchDevice
from benchmarks.gpu.serve import serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    serve(TorchDevice(args.device, args.batch, args.size))


if __name__ == "__main__":
    main()
