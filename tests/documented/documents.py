"""Command lines of the pages and of the help texts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from qreg_yolo.cli import app
from tests import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").rglob("*.md"))]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|.*\b(?:do|then) |.*[;&|] *)(?:qreg-yolo|torchrun|python3?|pip|make|yolo) ")
_QUOTED = re.compile(r"`(qreg-yolo [^`]+)`")


@cache
def command_line() -> Any:
    """Returns the command line as a click group."""
    return typer.main.get_command(app)


@cache
def subcommands() -> dict[str, Any]:
    """Returns the subcommands by their full names, such as ``plot curves``, in the order of the help."""
    return dict(_leaves("", command_line()))


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for child, below in command.commands.items():
        yield from _leaves(f"{name} {child}".lstrip(), below)


def fenced_lines(text: str) -> Iterator[str]:
    """Yields the lines of the fenced blocks of a page, but for Python; continued lines are joined."""
    for language, block in _FENCED.findall(text):
        if language != "python":
            yield from (line.rstrip() for line in re.sub(r" *\\\n *", " ", block).splitlines())


def page_commands(text: str) -> Iterator[str]:
    """Yields the command lines of a page: those in fenced blocks, and whole ones in a sentence."""
    for line in fenced_lines(text):
        if _COMMAND.match(line):
            yield re.sub(r"\s+#.*", "", line)
    names = subcommands()
    groups = {name.partition(" ")[0] for name in names}
    for quoted in _QUOTED.findall(_FENCED.sub("", text)):
        if quoted.removeprefix("qreg-yolo ") not in {*names, *groups}:  # more than a name
            yield quoted


def help_commands(epilog: str) -> list[str]:
    """Returns the command lines of the end of a help text; raises ValueError where it is not laid out as examples."""
    start, *lines = [line.strip() for line in epilog.splitlines() if line.strip() != "\b"]
    if start != "Examples:" or not all(lines):
        raise ValueError(f"not a heading and a command per line: {epilog!r}")
    return lines


def documented_commands() -> dict[str, list[str]]:
    """Returns every command line of README and of the help texts, each with the places where it stands."""
    found: dict[str, list[str]] = {}
    for line in page_commands(README.read_text(encoding="utf-8")):
        found.setdefault(line, []).append(README.name)
    for name, command in subcommands().items():
        for line in help_commands(command.epilog):
            found.setdefault(line, []).append(f"qreg-yolo {name} --help")
    return found


def words_to_parse(text: str) -> Iterator[list[str]]:
    """Yields the words after ``qreg-yolo`` of each command in the fenced blocks of a page."""
    for line in fenced_lines(text):
        if found := re.search(r"(?:^|do |then |; )\s*qreg-yolo (.*?)(?:; done.*)?$", line):
            first = re.split(r" [|>] ", found[1])[0]  # of "--kind a | b", of "--json > file"
            yield shlex.split(re.sub(r"\$\w+", "4", first), comments=True)


def parse(words: list[str]) -> None:
    """Parses a command without running it, and raises what the command line would."""
    command, context = command_line(), None
    while True:
        context = command.make_context(command.name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
