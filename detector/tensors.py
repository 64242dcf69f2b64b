"""Writes safetensors files."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from detector.files import whole_file


def write_tensors(target: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes the file whole or not at all; the same content gives the same bytes.

    The library's own `save_file` goes by way of a temporary file with a name of its own, which a killed process leaves
    behind, and writes metadata in an order that no two files share.

    Args:
        tensors: by name, contiguous, on the CPU.
        metadata: strings by name.

    Raises:
        OSError: the file cannot be written.
    """
    content = memoryview(save(dict(tensors), dict(metadata)))
    # The format: the header's length as a uint64, little-endian; the header, JSON; the tensors' bytes.
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(bytes(content[8 : 8 + length]))
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    with whole_file(target) as part, open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.write(content[8 + length :])
