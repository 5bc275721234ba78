"""The full list of commands and options; help is cheap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from qreg_yolo import __version__
from qreg_yolo.cli import app
from tests import ROOT
from tests.cli.conftest import qreg_yolo

COMPARING = [
    "--metric", "--severities", "--runs", "--baseline", "--data", "--split", "--preset", "--per-image",
    "--no-intervals",
]  # fmt: skip
HOLDING = ["--freeze-codes", "--dampen", "--transition-rate", "--transition-eta"]
CLASSIFY_DATA = ["--data", "--data-dir", "--no-verify", "--download"]
SURFACE = {
    "train": {
        "arguments": ["overrides"],
        "options": [
            "--bits", "--weight-bits", "--act-bits", "--method", "--weight-only", "--per-channel",
            "--first-last-bits", "--edge-bits", "--signed", "--init", "--offset", "--stages", "--activation", "--head",
            "--autoanchor", "--model", "--data", "--weights", "--from-baseline",
            "--teacher", "--distill", "--hyp", "--seed", "--threads",
            "--amp", "--average", *HOLDING, "--log-noise", "--val-every", "--no-epoch0", "--resume", "--online",
        ],
    },
    "ptq": {
        "arguments": ["weights", "overrides"],
        "options": [
            "--bits", "--weight-bits", "--act-bits", "--method", "--weight-only", "--per-channel",
            "--first-last-bits", "--edge-bits", "--signed", "--init", "--offset", "--images", "--data", "--split",
            "--class-map", "--head", "--data-dir", "--no-verify", "--model", "--device", "--threads", "--online",
        ],
    },
    "correct": {
        "arguments": ["weights", "overrides"],
        "options": [
            "--epochs", "--lr0", "--bn-batches", "--data", "--data-dir", "--no-verify", "--model", "--device",
            "--threads", "--online",
        ],
    },
    "val": {
        "arguments": ["checkpoint", "overrides"],
        "options": ["--weights", "--head", "--class-map", "--data", "--threads", "--online"],
    },
    "predict": {"arguments": ["weights", "source", "overrides"], "options": ["--threads", "--online"]},
    "inspect": {"arguments": ["weights"], "options": ["--json", "--model"]},
    "noise": {
        "arguments": ["weights"],
        "options": [
            "--bits", "--methods", "--first-last-bits", "--edge-bits", "--per-channel", "--data",
            "--data-dir", "--no-verify", "--split", "--limit", "--imgsz", "--class-map", "--draws",
            "--seed", "--no-loss", "--model", "--device", "--threads", "--against", "--json", "--out",
        ],
    },
    "corrupt": {
        "arguments": ["source", "out"],
        "options": [
            "--corruptions", "--severities", "--format", "--quality", "--preset", "--seed", "--split",
            "--limit", "--frost-dir", "--workers", "--skip-bad", "--yes", "--sheet",
        ],
    },
    "robustness": {
        "arguments": ["arguments"],
        "options": [
            "--data", "--corruptions", "--severities", "--split", "--limit", "--batch", "--imgsz",
            "--seed", "--preset", "--frost-dir", "--workers", "--device", "--threads", "--class-map",
            "--skip-bad", "--coco-eval", "--out",
        ],
    },
    "study": {
        "arguments": ["file"],
        "options": ["--out", "--data-dir", "--jobs", "--threads", "--only", "--dry-run"],
    },
    "table": {"arguments": ["records"], "options": ["--kind", "--reference", "--format", "--out", *COMPARING]},
    "plot heatmap": {"arguments": ["records"], "options": ["--out", "--layout", "--palette", *COMPARING]},
    "plot severity": {"arguments": ["records"], "options": ["--out", "--corruption", *COMPARING]},
    "plot curves": {"arguments": ["sources"], "options": ["--out", "--column", "--x", "--smoothing", "--format"]},
    "plot legend": {"arguments": [], "options": ["--out", "--layout"]},
    "classify train": {
        "arguments": ["overrides"],
        "options": [
            "--model", *CLASSIFY_DATA, "--bits", "--weight-bits", "--act-bits", "--method",
            "--weight-only", "--per-channel", "--first-last-bits", "--edge-bits", "--signed", "--init", "--offset",
            "--stages", "--weights", "--teacher", "--hyp", "--train-images", "--epochs", "--val-every", "--no-epoch0",
            "--milestones", "--gamma", "--lr0", "--momentum", "--nesterov", "--weight-decay", "--batch", "--aug",
            "--amp", "--compile", *HOLDING, "--log-noise", "--seed", "--seeds",
            "--threads", "--device", "--project", "--name",
            "--resume",
        ],
    },
    "classify val": {
        "arguments": ["weights"],
        "options": [*CLASSIFY_DATA, "--split", "--model", "--threads", "--device", "--project"],
    },
    "classify robustness": {
        "arguments": ["arguments"],
        "options": [
            *CLASSIFY_DATA, "--corruptions", "--severities", "--limit", "--preset", "--published",
            "--seed", "--frost-dir", "--batch", "--model", "--workers", "--device", "--threads", "--out",
        ],
    },
    "data voc": {
        "arguments": [],
        "options": ["--devkit", "--out", "--keep-difficult", "--skip-bad", "--download"],
    },
}  # fmt: skip
COMMANDS = sorted(SURFACE)


def test_the_subcommands_and_their_options() -> None:
    group = typer.main.get_command(app)
    found = {}
    commands = dict(group.commands)  # type: ignore[attr-defined]
    for group_name in ("classify", "data", "plot"):
        commands |= {f"{group_name} {name}": command for name, command in commands.pop(group_name).commands.items()}
    for name, command in commands.items():
        arguments = [p.name for p in command.params if p.param_type_name == "argument"]
        options = [o for p in command.params if p.param_type_name == "option" for o in p.opts + p.secondary_opts]
        found[name] = {"arguments": arguments, "options": options}
    assert found == SURFACE
    assert [p.opts for p in group.params] == [["--version"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_each_option_and_examples_line_by_line(command: str) -> None:
    outcome = qreg_yolo(*command.split(), "--help")
    assert (outcome.code, outcome.err) == (0, "")
    for option in SURFACE[command]["options"]:
        assert re.search(rf"\W{option}[ ,]", outcome.out)
    examples = outcome.out.partition("Examples:\n")[2].splitlines()
    assert len(examples) >= 2
    assert all(
        line.startswith(f"    qreg-yolo {command} ") or line.startswith(f"  qreg-yolo {command} ") for line in examples
    )


def test_general_help_names_the_subcommands_and_so_does_a_call_without_arguments() -> None:
    outcome = qreg_yolo("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"  {command.split()[0]} " in outcome.out for command in COMMANDS)
    assert "..." not in outcome.out.partition("Commands:")[2], "a description is cut short"
    assert qreg_yolo().code == 2


def test_version() -> None:
    outcome = qreg_yolo("--version")
    assert (outcome.code, outcome.out) == (0, f"qreg-yolo {__version__}\n")


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from qreg_yolo.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = [m for m in ("torch", "ultralytics", "cv2", "polars", "matplotlib") if m in sys.modules]
    print("heavy:", *heavy, "seconds:", time.process_time(), file=sys.stderr)
"""


def fresh_help(command: str, root: Path) -> tuple[list[str], float]:
    """Returns the heavy modules that ``--help`` loads in a fresh interpreter, and its CPU time in seconds."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), *command.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert run.returncode == 0, run.stderr
    heavy, _, seconds = run.stderr.strip().partition(" seconds: ")
    return heavy.split()[1:], float(seconds)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_fast_and_loads_nothing_heavy(command: str) -> None:
    for _attempt in range(3):  # CPU time, but a neighbour on the same core makes that longer too
        heavy, seconds = fresh_help(command, ROOT)
        assert heavy == []
        if seconds < 0.5:
            return
    pytest.fail(f"help took {seconds:.2f} s of CPU time in the last of three attempts")


def test_the_check_of_help_can_fail(tmp_path: Path) -> None:
    (tmp_path / "qreg_yolo" / "cli").mkdir(parents=True)
    (tmp_path / "qreg_yolo" / "__init__.py").touch()
    (tmp_path / "torch.py").touch()
    slow = "import torch, time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\n"
    (tmp_path / "qreg_yolo" / "cli" / "__init__.py").write_text(slow + "def main(arguments): print('help')\n")
    heavy, seconds = fresh_help("train", tmp_path)
    assert heavy == ["torch"]
    assert seconds > 0.5
