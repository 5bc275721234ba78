"""Every `qreg-yolo` command of a page or a help text has a subcommand and options that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import ROOT
from tests.documented.documents import PAGES, help_commands, parse, subcommands, words_to_parse


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_parse(page: Path) -> None:
    for words in words_to_parse(page.read_text(encoding="utf-8")):
        if words and words[0] not in {"--help", "--version"}:
            parse(words)


@pytest.mark.parametrize("name", subcommands())
def test_the_examples_of_a_help_text_parse(name: str) -> None:
    for line in help_commands(subcommands()[name].epilog):
        (words,) = words_to_parse(f"```\n{line}\n```\n")
        parse(words)


def test_a_wrong_option_on_a_page_is_refused() -> None:
    (words,) = words_to_parse(
        "```\nfor b in 8 4; do\n  qreg-yolo classify train --bits $b \\\n    --mehtod lsq\ndone\n```\n"
    )
    assert words == ["classify", "train", "--bits", "4", "--mehtod", "lsq"]
    with pytest.raises(Exception, match="mehtod"):
        parse(words)
