"""Command lines that pages, helps and the Makefile show are understood by the commands as they are; none is run."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from detector.cli import COMMANDS, _parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])


@functools.cache
def parser_of(command):
    """A command's own parser."""
    (subparsers,) = (each for each in _parser(command)._actions if isinstance(each, argparse._SubParsersAction))
    return subparsers.choices[command]


def examples_in(text):
    """Lines of shell: indented or fenced, their continuations joined, without what is said of them to the right."""
    fenced: str | None = None  # the block's language
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            fenced = line[3:] if fenced is None else None
        elif line.startswith(("  ", "\t")) or fenced in ("", "sh", "bash", "console"):
            yield re.split(r"\s+# | {2,}", line.strip())[0]


def npr_lines(text):
    """The arguments of each `npr` in lines of shell, however it is started."""
    for line in examples_in(text):
        found = re.search(r"^(?:.*\| |.*/bin/|\$\(BIN\)/)?npr (.*)$|^.* -m detector\.cli (.*)$", line)
        if found:
            words = shlex.split(found[1] or found[2])
            yield words[: next((i for i, word in enumerate(words) if word in (">", "|", "&&")), len(words))]


def sources():
    """Each text that shows command lines, with its name."""
    yield from ((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in PAGES)
    yield "Makefile", (ROOT / "Makefile").read_text(encoding="utf-8")
    yield "npr --help", _parser(None).epilog
    yield from ((f"npr {command} --help", parser_of(command).epilog or "") for command in COMMANDS)


SHOWN = [(name, line) for name, text in sources() for line in npr_lines(text)]


@pytest.mark.parametrize(
    ("name", "words"), SHOWN, ids=lambda value: value if isinstance(value, str) else shlex.join(value)
)
def test_commands_are_understood(name, words, capsys):
    assert status_of(words) == 0, f"{name}: {capsys.readouterr().err}"


def status_of(words):
    """0 where the command's parser takes the words, as for --help and its like, which end it."""
    try:
        _parser(words[0]).parse_args(words)
    except SystemExit as end:
        return end.code
    return 0


def test_commands_are_found_where_they_are_shown():
    shown = {name for name, _ in SHOWN}
    assert shown >= {"README.md", "docs/export.md", "docs/serve.md", "docs/choices.md", "Makefile", "npr --help"}
    assert {command for command in COMMANDS if f"npr {command} --help" not in shown} <= {"info"}
    torchrun = [
        words for _, words in SHOWN if words[0] == "train" and "ForenSynths" in words and "--classes" not in words
    ]
    assert len(torchrun) >= 2, "the lines of torchrun, one of which goes over two"


def mentions(page):
    """What the page has in its text between back-quotes."""
    blocks = re.compile(r"```.*?```|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
    text = blocks.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_in_the_text_exist(page):
    known = {command: set(parser_of(command)._option_string_actions) for command in COMMANDS}
    wrong = []
    for mention in mentions(page):
        words = re.findall(r"[^\s,;()]+", mention)
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if words[0] == "npr" and len(words) > 1 and words[1] != "COMMAND" and not words[1].startswith("-"):
            if options - known.get(words[1], set()) or words[1] not in COMMANDS:
                wrong.append(mention)
        elif words[0].startswith("--") and options - set().union(*known.values()):
            wrong.append(mention)
    assert wrong == []


def test_modules_and_targets_that_are_shown_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = []
    for page in PAGES:
        lines = [*examples_in(page.read_text(encoding="utf-8")), *mentions(page)]
        for line in lines:
            made = re.match(r"make ([a-z-]+)", line)
            run = re.match(r"(?:python3? -m |torchrun .*-m )([\w.]+)", line)
            if made and made[1] not in targets:
                wrong.append((page.name, line))
            if run and importlib.util.find_spec(run[1]) is None and run[1] != "build":
                wrong.append((page.name, line))
    assert wrong == []
