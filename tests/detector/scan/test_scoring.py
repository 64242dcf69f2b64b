"""What an actor makes of a block: files by URI beside the same files by path, and machines that differ."""

from dataclasses import replace
from urllib.parse import quote

import pytest
import torch

from detector.data import find_decoder
from detector.files import sha256_of
from detector.models import load_checkpoint
from detector.versions import find_versions
from tests.detector.scan.packages import needed

pa, scoring = needed("pyarrow", "detector.scan.scoring")


@pytest.fixture
def judging(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return scoring.Judging(
        weights=weights,
        model=sha256_of(weights),
        decoder=str(find_decoder()),
        versions=find_versions(),
        folder=str(tmp_path),
        device="cpu",
        precision="float32",
        preprocessing=load_checkpoint(weights).preprocessing,
        threshold=0.5,
        unsure=True,
        exact=False,
        confidence=0.99,
        batch_size=16,
        cores=torch.get_num_threads(),
    )


def test_by_uri_and_by_path(judging, pictures):
    paths = sorted(str(path.relative_to(pictures.parent)) for path in pictures.rglob("*.*"))
    uris = [f"file://{quote(str(pictures.parent / path))}" for path in paths]
    asked = [*paths, *uris, "not opened", f"file://{pictures}/none"]
    errors = [None] * (2 * len(paths)) + ["is wrong", None]
    rows = pa.table({"path": asked, "error": pa.array(errors, pa.string()), "key": list(range(len(asked)))})
    results = scoring.Scorer(judging)(rows)
    assert results.schema == scoring.RESULTS.append(pa.field("key", pa.int64()))
    assert results["path"].to_pylist() == asked
    assert results["key"].to_pylist() == rows["key"].to_pylist()
    *found, wrong, none = (list(row.values()) for row in results.drop_columns(["path", "key"]).to_pylist())
    assert found[: len(paths)] == found[len(paths) :]
    assert {row[4] is None for row in found} == {True, False}
    at = scoring.RESULTS.names.index("error") - 1
    assert wrong[at] == "is wrong"
    assert none[at].startswith("cannot be read (")


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("the model", {"model": "another"}),
        ("the decoder", {"decoder": "another"}),
        ("npr-kernels", {"versions": find_versions() | {"npr-kernels": "another"}}),
        ("torch", {"versions": find_versions() | {"torch": "another"}}),
    ],
)
def test_a_machine_that_would_score_otherwise_is_refused(judging, what, other):
    with pytest.raises(ValueError, match=f": {what} is .* there, and not another"):
        scoring.Scorer(replace(judging, **other))
