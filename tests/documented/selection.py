"""Division of the documented command lines into tests."""

from __future__ import annotations

import re

from tests.documented.documents import documented_commands
from tests.documented.substitutions import FOR_EACH, NOT_RUN

_RUN = ("qreg-yolo ", "python tools/", "torchrun ")
"""Beginnings of what is run; anything else (pip, make, git) may change more than the working folder."""
_DETECTORS = re.compile(r"^(?!.*(yolov5nu?\.pt|anchor|--resume)).*(qreg-yolo train |\.pt\b|yolov5|voc)", re.IGNORECASE)


def runnable() -> list[str]:
    """Returns the documented command lines that are run one by one."""
    return [line for line in documented_commands() if line.startswith(_RUN) and line not in {*NOT_RUN, *FOR_EACH}]


def of_detectors(lines: list[str], wanted: bool = True) -> list[str]:
    """Returns the command lines on detectors that were trained from scratch, or the others.

    The halves take about as long, and each has a test file: two processes, each with a folder of its own.
    """
    return [line for line in lines if bool(_DETECTORS.search(line)) is wanted]
