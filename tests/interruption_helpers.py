"""Trainings of detectors that get Ctrl-C in the second batch of the second epoch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import ROOT

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
from qreg_yolo.cli import main
from qreg_yolo.cli.process import prepare_ultralytics
prepare_ultralytics(online=False)
from qreg_yolo.detect import QuantDetectionTrainer

original, seen = QuantDetectionTrainer.preprocess_batch, []

def preprocess_batch(self, batch):
    if getattr(self, "epoch", None) == 1:
        seen.append(1)
        if len(seen) == 2:  # the second batch
            os.kill(os.getpid(), signal.SIGINT)
    return original(self, batch)

QuantDetectionTrainer.preprocess_batch = preprocess_batch
main(sys.argv[1:])
"""


def train_interrupted(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ``qreg-yolo train`` with these arguments in a process that interrupts itself."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
