"""Runs of a few steps, in this process and in others."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qreg_yolo.classify import runs
from qreg_yolo.classify.checkpoint import Progress
from qreg_yolo.classify.datasets import load_training
from qreg_yolo.classify.network import calibrate_network
from qreg_yolo.classify.processes import Processes
from qreg_yolo.classify.setup import built
from qreg_yolo.classify.train import Run
from qreg_yolo.config.classification import ClassifyConfig, resolve
from tests.classify.synthetic_networks import NORMED
from tests.process_helpers import run_forked

TINY: dict[str, Any] = {"model": NORMED, "data": "cifar10", "verify": False, "bits": 4, "epochs": 4, "batch": 16}
"""Five steps per epoch on the tiny files, milestones scaled."""


def config(data_dir: Path, **options: Any) -> ClassifyConfig:
    return resolve(None, {**TINY, "data_dir": str(data_dir), **options}, {})[0]


def prepared(data_dir: Path, **options: Any) -> Run:
    """Returns a run that is ready to train."""
    asked = config(data_dir, **options)
    train, val = load_training(asked.run)
    model, description = built(asked, train.classes, torch.device("cpu"))
    run = Run(
        config=asked, model=model, train=train, val=val, precision=description.precision, processes=Processes(),
        progress=Progress(),
    )  # fmt: skip
    calibrate_network(model, train, asked, run.batch)
    return run


def train(data_dir: Path, project: Path, **options: Any) -> Path:
    """Trains and returns the run's folder."""
    runs.train(config(data_dir, **{"project": str(project), "name": "run", **options}))
    return project / "run"


def command_line(
    *arguments: object, patch: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own; ``patch`` is executed before it."""
    program = f"import sys\nfrom qreg_yolo.cli import main\n{patch}\nmain(sys.argv[1:])\n"
    return run_forked(program, *arguments, env={"QREG_YOLO_THREADS": "1", **(env or {})})


AT_STEP = """
import os, signal
from qreg_yolo.classify import outputs
original, seen = outputs.ProgressLine.__call__, []
def step(self, *arguments):
    original(self, *arguments)
    seen.append(1)
    if len(seen) == {step}:
        {action}
outputs.ProgressLine.__call__ = step
"""


def at_step(step: int, action: str) -> str:
    """Returns the patch that does something after so many training steps."""
    return AT_STEP.format(step=step, action=action)


def same_results(one: Path, two: Path) -> bool:
    """Returns whether two ``results.csv`` agree but for the time."""

    def rows(folder: Path) -> list[list[str]]:
        lines = (folder / "results.csv").read_text().splitlines()
        return [[cell for number, cell in enumerate(line.split(",")) if number != 1] for line in lines]

    return rows(one) == rows(two)
