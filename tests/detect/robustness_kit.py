"""What the tests of robustness share: a call, and what it left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qreg_yolo import records
from qreg_yolo.detect.robustness import RobustnessRequest

CELLS = (("gaussian_noise", 1), ("brightness", 1))
BATCH = 3


def listing(yaml: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(yaml.parent.rglob("*")) if p.is_file()}


def request(weights: list[Path], data: Path, out: Path, **more: Any) -> RobustnessRequest:
    options: dict[str, Any] = {"corruptions": tuple(name for name, _ in CELLS), "severities": (1,), "batch": BATCH}
    options |= {"threads": 1, "workers": 0}
    return RobustnessRequest(weights=weights, data=str(data), out=out, split="val", **{**options, **more})


def numbers(out: Path) -> dict[tuple[Any, ...], float]:
    rows = records.read(out / "records.csv").to_dicts()
    found = {(r["run_id"], r["corruption"], r["severity"], r["metric"]): r["value"] for r in rows}
    assert len(found) == len(rows), "a cell was recorded twice"
    return found


def files_of(out: Path) -> dict[str, Any]:
    return {
        str(p.relative_to(out)): {k: v.tolist() for k, v in np.load(p).items()}
        for p in sorted((out / "per_image").rglob("*.npz"))
    }
