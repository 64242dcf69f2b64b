import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from detector.tensors import write_tensors


@pytest.fixture
def tensors(rng):
    shapes = {"a": (3, 5), "empty": (0, 4), "scalar": (), "größe": (7,)}
    tensors = {name: torch.from_numpy(np.asarray(rng.standard_normal(shape))) for name, shape in shapes.items()}
    return tensors | {
        "half": torch.from_numpy(rng.standard_normal(9)).bfloat16(),
        "bytes": torch.arange(11, dtype=torch.uint8),
        "counter": torch.tensor(2**40),
    }


METADATA = {name: json.dumps({"text": f'"{name}"\n\N{SNOWMAN}'}) for name in "zyxabc"} | {"plain": "größe"}


def test_the_library_reads_what_was_written(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, METADATA)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == METADATA
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_same_content_gives_the_same_bytes(tmp_path, tensors):
    paths = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for number, path in enumerate(paths):
        metadata = list(METADATA.items())
        write_tensors(path, tensors, dict(metadata[number:] + metadata[:number]))
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_who_may_read_it_is_the_users_choice(tmp_path, tensors):
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", tensors, METADATA)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640
