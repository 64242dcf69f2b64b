"""docker/Dockerfile, as far as can be told without Docker: what it names is there, pinned and the same as elsewhere."""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.build.conftest import ROOT, build_wheel

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python before 3.11 cannot read pyproject.toml by itself")

DOCKERFILE = ROOT / "docker" / "Dockerfile"
IGNORED = ROOT / "docker" / "Dockerfile.dockerignore"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Each instruction's word and the rest of it."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    return [tuple(line.split(None, 1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def arguments() -> dict[str, str]:
    """Of the build, with what they are by default."""
    return dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG" and "=" in rest)


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """By name: what each starts from, and its instructions."""
    found = {}
    for word, rest in instructions():
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            rest = found[name] = re.sub(r"\$\{(\w+)\}", lambda match: arguments()[match[1]], base), []
        elif found:
            found[name][1].append((word, rest))
    return found


TARGETS = ("cpu", "cuda")


def all_of(stage: str, word: str) -> list[str]:
    return [rest for found, rest in stages()[stage][1] if found == word]


def is_sent(path: Path) -> bool:
    """Whether a file of the repository is sent to the build: the last of the ignoring lines that fits it decides."""
    sent = True
    for line in IGNORED.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern, above = line.removeprefix("!"), [path, *path.parents]
            if any(fnmatch.fnmatch(str(part), pattern) for part in above if str(part) != ".") or (
                pattern.startswith("**/") and any(fnmatch.fnmatch(part, pattern[3:]) for part in path.parts)
            ):
                sent = line.startswith("!")
    return sent


def test_targets_are_built_from_pinned_images_and_earlier_stages():
    names = list(stages())
    assert set(TARGETS) <= set(names)
    for number, name in enumerate(names):
        base, inner = stages()[name]
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base), base
        for rest in all_of(name, "COPY"):
            if rest.startswith("--from="):
                stage, source, target = re.fullmatch(r"--from=(\S+) (\S+) (\S+)", rest).groups()
                assert stage in names[:number]
                assert any(f"venv {source}" in command for command in all_of(stage, "RUN"))
                assert source == target  # environments cannot be moved
            else:
                assert rest == ". ."
        used = {match for _, rest in inner for match in re.findall(r"\$\{(\w+)\}", rest)}
        assert used <= {rest.split("=")[0] for rest in all_of(name, "ARG")}


def test_versions_are_those_of_the_project():
    (torch,) = (need for need in PROJECT["build-system"]["requires"] if need.startswith("torch=="))
    assert torch == f"torch=={arguments()['TORCH']}"
    assert arguments()["TORCH_CUDA"] == "cu" + "".join(arguments()["CUDA"].split(".")[:2])
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["project"]["requires-python"])[1]
    assert int(arguments()["PYTHON"].split(".")[1]) >= int(least)
    needed = {need for need in PROJECT["build-system"]["requires"] if not need.startswith("torch")}
    for stage in ("build-cpu", "build-cuda"):
        said = " ".join(all_of(stage, "RUN"))
        assert needed <= set(shlex.split(said))
        assert "--no-build-isolation '.[serve]'" in said.replace('"', "'")
        assert f"NPR_CUDA={int('cuda' in stage)} " in said


@pytest.mark.parametrize("target", TARGETS)
def test_it_serves_as_nobody_in_particular(target):
    from detector.commands.serve import TOKEN, add_parser

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command"))
    assert all_of(target, "USER")[-1].isdigit()
    assert int(all_of(target, "USER")[-1]) > 0
    assert f"--uid {all_of(target, 'USER')[-1]} " in " ".join(all_of(target, "RUN"))
    assert all_of(target, "STOPSIGNAL") == ["SIGTERM"]
    command = json.loads(all_of(target, "ENTRYPOINT")[0]) + json.loads(all_of(target, "CMD")[0])
    assert command[0] == "npr"
    args = parser.parse_args(command[1:])
    assert (args.command, args.host) == ("serve", "0.0.0.0")
    assert all_of(target, "EXPOSE") == [str(args.port)]
    program = json.loads(all_of(target, "HEALTHCHECK")[0].split("CMD ", 1)[1])
    compile(program[2], "HEALTHCHECK", "exec")
    assert program[:2] == ["python", "-c"]
    assert f"http://127.0.0.1:{args.port}/livez" in program[2]
    assert f"-e {TOKEN}" in DOCKERFILE.read_text(encoding="utf-8")


def test_what_is_sent_to_the_build():
    for path in ("csrc/bindings.cpp", "detector/weights/default.safetensors", "detector/serve/page/page.html"):
        assert (ROOT / path).is_file()
        assert is_sent(Path(path))
    for path in ("tests/conftest.py", ".git/config", "npr_kernels/libnpr_kernels.so", "detector/__pycache__/a.pyc"):
        assert not is_sent(Path(path))


@pytest.mark.slow
@pytest.mark.xdist_group("build")
def test_the_wheel_can_be_made_of_what_is_sent(source, tmp_path):
    """All but what is compiled: the wheel has every file of the packages, and the compiler would have every source."""
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    for path in filter(is_sent, files):
        (tmp_path / "sent" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, tmp_path / "sent" / path)
    assert {path for path in files if path.parts[0] == "csrc"} == {
        path.relative_to(tmp_path / "sent") for path in (tmp_path / "sent" / "csrc").rglob("*") if path.is_file()
    }
    wheel, said = build_wheel(tmp_path / "sent", tmp_path / "wheel", CXX="/nonexistent/c++")
    assert "no C++ compiler found" in said
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.as_posix() for path in files if path.parts[0] in ("detector", "npr_kernels")}
