"""Every `qreg-yolo` command that a page shows is one that the command line takes: its subcommand and its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from qreg_yolo.cli import app

from .conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").rglob("*.md"))]


def commands(text: str) -> Iterator[list[str]]:
    """Yields the words after `qreg-yolo` of each command in the fenced blocks of a page."""
    for block in re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|do |then |; )\s*qreg-yolo (.*?)(?:; done.*)?$", line):
                first = found[1].split(" | ")[0]  # of "--kind a | b"
                yield shlex.split(re.sub(r"\$\w+", "4", first), comments=True)


def check(words: list[str]) -> None:
    """Parses a command without running it, and raises what the command line would."""
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        context = command.make_context(command.name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_parse(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        if words and words[0] not in {"--help", "--version"}:
            check(words)


def test_a_wrong_option_on_a_page_would_be_found() -> None:
    (words,) = commands("```\nfor b in 8 4; do\n  qreg-yolo classify train --bits $b \\\n    --mehtod lsq\ndone\n```\n")
    assert words == ["classify", "train", "--bits", "4", "--mehtod", "lsq"]
    with pytest.raises(Exception, match="mehtod"):
        check(words)
