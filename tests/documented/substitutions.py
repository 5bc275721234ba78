"""Differences between a command line on its page and the one that the tests run; everything else is run as written."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRAIN = r"qreg-yolo train (?!.*--resume)"
CLASSIFY_TRAIN = r"(?:qreg-yolo classify train|torchrun \S+ \d+ tools/train_classifier\.py)(?!.*--resume)"


@dataclass(frozen=True)
class Substitution:
    """One difference, and what it is for."""

    pattern: str
    """Regular expression, searched in the line that the substitutions before this one have left."""
    replacement: str
    reason: str

    def apply(self, line: str) -> str:
        return re.sub(self.pattern, self.replacement, line, count=1)


def added(pattern: str, words: str, reason: str) -> Substitution:
    """Returns the substitution that appends words to the lines in which a pattern is found."""
    return Substitution(f"^(?=.*?{pattern})(?P<line>.*)$", rf"\g<line> {words}", reason)


SUBSTITUTIONS = [
    Substitution(r"epochs=50 imgsz=320 batch=16", "epochs=1 imgsz=32 batch=64", "epochs, imgsz: one short epoch"),
    added(TRAIN + r"(?!.* imgsz=)", "epochs=1 imgsz=32 batch=5", "epochs, imgsz: one short epoch"),
    added(TRAIN + r"(?!.*(--data|--per-channel))", "--data voc", "data: ten images instead of the demo set"),
    added(TRAIN + r"(?!--bits 4 --method lsq )", "plots=false", "time: each training draws the same figures"),
    added(r"qreg-yolo val ", "plots=false", "time: figures"),
    Substitution(
        r"--resume runs/yolov5n-lsq-w4a4-s0/",
        "--resume stopped/yolov5n/",
        "path: a run that was stopped, not a finished one",
    ),
    Substitution(
        r"--resume runs/resnet20-cifar10-lsq-w4a4-s0/", "--resume stopped/resnet20/", "path: a run that was stopped"
    ),
    Substitution(r"--epochs 8", "--epochs 1", "epochs"),
    added(CLASSIFY_TRAIN + r"(?!.*--epochs)", "--epochs 1", "epochs"),
    Substitution(r"runs/resnet20-demo-fp32-s0/(\S+)", r"runs/resnet20-cifar10-fp32-s0/\1 --data-dir DIR", "data"),
    added(r"qreg-yolo study demo", "--dry-run", "time: minutes of training"),
    added(
        r"(?<!qreg_cifar10 )--data-dir DIR",
        "--no-verify",
        "data: the files in DIR are synthetic",
    ),
    Substitution(r"--limit (64 --draws 32|16)", "--limit 1 --draws 4", "data, seeds: a pass per draw"),
    added(r"qreg-yolo noise (?!.*--(no-loss|draws))", "--limit 1 --draws 4", "data, seeds"),
    Substitution(r"--bits 1-8,32 --limit", "--bits 32 --limit", "time: each width and method takes seconds"),
    added(r"qreg-yolo noise (?!.*--(bits|no-loss))", "--bits 2", "time: one width"),
    added(r"--against ", "--methods lsq", "time: one method"),
    Substitution(r" \*\.pt ", " detectors/*.pt ", "path: the folder also has detectors of other classes"),
]

NOT_RUN = {
    "make train": "installs packages over the network; its command is run: qreg-yolo train --bits 4 --method lsq",
    "make test": "runs the tests, this one among them",
    "qreg-yolo data voc --devkit VOCdevkit --out VOC --download": "needs a network: 2.9 GB",
    "qreg-yolo val --data": "is a part of a command, in a sentence on data.yaml",
}
"""Command lines that are not run, with the reason."""

FOR_EACH = {"qreg-yolo COMMAND --help": "COMMAND stands for each subcommand"}
"""Command lines that stand for several."""


def substituted(line: str) -> str:
    """Returns the command line to run for one on a page."""
    for substitution in SUBSTITUTIONS:
        line = substitution.apply(line)
    return line
