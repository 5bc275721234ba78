"""No documented command line is forgotten, no entry of the tables is left over, and a wrong line is caught."""

from __future__ import annotations

import pytest

from tests.documented.documents import documented_commands, help_commands, page_commands
from tests.documented.selection import of_detectors, runnable
from tests.documented.substitutions import FOR_EACH, NOT_RUN, SUBSTITUTIONS, substituted
from tests.documented.workspace import SCRIPT, SOURCES, Workspace, assert_as_documented, needed


def test_every_command_line_is_run_or_has_a_reason() -> None:
    assert set(documented_commands()) == {*runnable(), *NOT_RUN, *FOR_EACH}
    assert all(reason for reason in [*NOT_RUN.values(), *FOR_EACH.values()])


def test_every_command_line_is_in_one_half() -> None:
    detectors, others = of_detectors(runnable()), of_detectors(runnable(), False)
    assert sorted([*detectors, *others]) == sorted(runnable())
    assert detectors
    assert others


def test_every_substitution_changes_a_command_line() -> None:
    lines = runnable()
    for substitution in SUBSTITUTIONS:
        changed = [substitution.apply(line) for line in lines]
        assert changed != lines, substitution
        assert substitution.reason
        lines = changed


def test_every_input_is_needed() -> None:
    lines = [*runnable(), *(source for source in SOURCES.values() if isinstance(source, str))]
    assert set(SOURCES) == {path for line in lines for path in needed(substituted(line))}


def test_the_inputs_of_a_command_line_are_those_that_it_names() -> None:
    assert needed("qreg-yolo val --data voc w4a4/last.pt name=best") == ["VOC", "w4a4"]


PAGE = """
Any `qreg-yolo` or `qreg-yolo train` is a name, `qreg-yolo val x.pt` a command.

```
make test    # a comment
qreg-yolo train --bits 4 \\
    --mehtod lsq
Results: /home/you/qreg-yolo/runs
```

```python
qreg-yolo is not run here
```
"""


def test_a_command_line_on_a_page_is_found() -> None:
    assert list(page_commands(PAGE)) == ["make test", "qreg-yolo train --bits 4 --mehtod lsq", "qreg-yolo val x.pt"]


def test_a_help_text_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="heading"):
        help_commands("\b\nExamples:\n  qreg-yolo train\n\n  more")


def test_the_installed_console_script_runs(workspace: Workspace) -> None:
    assert SCRIPT.is_file()
    assert workspace.execute("command -v qreg-yolo").stdout == f"{SCRIPT}\n"


@pytest.mark.parametrize(
    "line",
    [
        "qreg-yolo train --bits 4 --mehtod lsq",
        "qreg-yolo predictions best.pt photo.jpg",
        "qreg-yolo table nowhere.csv",
        "echo 'Traceback (most recent call last):'",
        "echo 'Set QREG_YOLO_DEBUG=1'",
    ],
)
def test_a_wrong_command_line_is_caught(line: str, workspace: Workspace) -> None:
    with pytest.raises(AssertionError):
        assert_as_documented(line, workspace.execute(line))
