"""A call of the measurement, for the tests of robustness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qreg_yolo.detect.robustness import DetectorRobustnessRequest

CONDITIONS = (("gaussian_noise", 1), ("brightness", 1))
BATCH = 3


def listing(yaml: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(yaml.parent.rglob("*")) if p.is_file()}


def request(weights: list[Path], data: Path, out: Path, **more: Any) -> DetectorRobustnessRequest:
    options: dict[str, Any] = {"corruptions": tuple(name for name, _ in CONDITIONS), "severities": (1,), "batch": BATCH}
    options |= {"threads": 1, "workers": 0}
    return DetectorRobustnessRequest(weights=weights, data=str(data), out=out, split="val", **{**options, **more})
