"""Readers of a measurement's files, for the tests of both tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qreg_yolo.io import records


def numbers(out: Path) -> dict[tuple[Any, ...], float]:
    """Returns (run, corruption, severity, metric) -> value of the records."""
    rows = records.read(out / "records.csv").to_dicts()
    found = {(r["run_id"], r["corruption"], r["severity"], r["metric"]): r["value"] for r in rows}
    assert len(found) == len(rows), "a condition was recorded twice"
    return found


def files_of(out: Path) -> dict[str, Any]:
    """Returns path -> arrays of all per-image files."""
    return {
        str(p.relative_to(out)): {k: v.tolist() for k, v in np.load(p).items()}
        for p in sorted((out / "per_image").rglob("*.npz"))
    }
