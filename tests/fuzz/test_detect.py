"""A few mutated files through `npr detect`, and that what is planted is found."""

import sys

import pytest

from tests.fuzz import detect as target
from tests.fuzz.corpus import corpus, mutations


@pytest.mark.slow
def test_every_file_gets_its_line(tmp_path, capsys, seed):
    assert target.run(60, seed, tmp_path, files=30) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"60 files from seed {seed}: ")
    assert last.endswith("0 folders failed")


@pytest.fixture
def folder(tmp_path):
    """Two files, of which the first has a score."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(corpus(1)[0])
    (folder / "1.jpg").write_bytes(next(mutations(corpus(1), 1))[:20])
    return folder


HEAD = " score  verdict         size  path"
SCORED = "0.2500  real           13x17  {0}/0.jpg"
REFUSED = "     -  error              -  {0}/1.jpg: is damaged"


@pytest.mark.parametrize(
    ("out", "errors", "status", "message"),
    [
        ([HEAD, SCORED, REFUSED], "", 1, None),
        ([HEAD, SCORED, REFUSED], "npr: warning: another decoder\n", 1, None),
        ([HEAD, SCORED, REFUSED], "Corrupt JPEG data\n", 1, "beside: [b'Corrupt"),
        ([HEAD, SCORED, REFUSED], "", 0, "exit status 0"),
        ([HEAD, SCORED], "", 1, "1 lines for 2 files"),
        ([HEAD, REFUSED, SCORED], "", 1, "0.jpg: '     -"),
        ([HEAD, SCORED, REFUSED.removesuffix("is damaged")], "", 1, "1.jpg: '     -"),
        ([HEAD, SCORED, REFUSED + "\x1b[2J"], "", 1, "1.jpg: not one line"),
    ],
)
def test_other_lines_are_told(out, errors, status, message, folder, monkeypatch):
    text = "".join(f"{line.format(folder)}\n" for line in out)
    program = f"import sys; sys.stdout.write({text!r}); sys.stderr.write({errors!r}); sys.exit({status})"
    monkeypatch.setattr(target, "COMMAND", [sys.executable, "-c", program])
    if message is None:
        assert target.check_folder(folder, as_json=False) == 1
        return
    with pytest.raises(target.Unexplained) as error:
        target.check_folder(folder, as_json=False)
    assert message in str(error.value)
