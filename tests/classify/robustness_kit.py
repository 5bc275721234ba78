"""What the tests of robustness share: a call, and what it left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qreg_yolo import records
from qreg_yolo.classify.robustness import RobustnessRequest

from .networks import NORMED

NAMES = ("gaussian_noise", "brightness")
BATCH = 10
"""Three batches of the 24 test images."""


def request(weights: list[Path], out: Path, **more: Any) -> RobustnessRequest:
    """Returns a measurement of two corruptions at severity 5 on the data of the checkpoints' training."""
    options: dict[str, Any] = {"corruptions": NAMES, "severities": (5,), "batch": BATCH, "model": NORMED, "threads": 1}
    return RobustnessRequest(weights=weights, project=out.parent, name=out.name, **{**options, **more})


def numbers(out: Path) -> dict[tuple[Any, ...], float]:
    rows = records.read(out / "records.csv").to_dicts()
    found = {(r["run_id"], r["corruption"] or "clean", r["severity"] or 0): r["value"] for r in rows}
    assert len(found) == len(rows), "a cell was recorded twice"
    return found


def files_of(out: Path) -> dict[str, Any]:
    """Returns path -> arrays of all per-image files."""
    return {
        str(p.relative_to(out)): {k: v.tolist() for k, v in np.load(p).items()}
        for p in sorted((out / "per_image").rglob("*.npz"))
    }
