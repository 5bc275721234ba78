"""A call of the measurement, for the tests of robustness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qreg_yolo.classify.robustness import ClassifierRobustnessRequest
from tests.classify.synthetic_networks import NORMED

NAMES = ("gaussian_noise", "brightness")
BATCH = 10
"""Three batches of the 24 test images."""


def request(weights: list[Path], out: Path, **more: Any) -> ClassifierRobustnessRequest:
    """Returns a measurement of two corruptions at severity 5 on the data of the checkpoints' training."""
    options: dict[str, Any] = {"corruptions": NAMES, "severities": (5,), "batch": BATCH, "model": NORMED, "threads": 1}
    return ClassifierRobustnessRequest(weights=weights, project=out.parent, name=out.name, **{**options, **more})
