"""Records and per-image files of runs that never were: simulated detectors on simulated photographs."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from qreg_yolo.io import records
from qreg_yolo.io.records import Record
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.conditions import CLEAN, CONDITIONS
from tests.metrics.synthetic_detections import simulated

SOURCE = {"commit": "c", "command": "kit", "versions": "numpy=2", "time": "2026-01-01T00:00:00+00:00"}


def record(
    name: str = CLEAN, severity: int = 0, value: float = 0.5, bits: int = 32, seed: int = 0, **given: Any
) -> Record:
    """Returns one row; fp32 at 32 bits, else LSQ."""
    method = "fp32" if bits == 32 else "lsq"
    fields: dict[str, Any] = {
        "run_id": f"yolov5n-{method}-w{bits}-s{seed}", "track": "detect", "model": "yolov5n.yaml", "method": method,
        "weight_bits": bits, "act_bits": bits, "precision": "fp32", "seed": seed, "weights_sha256": "0" * 64,
        "data": "voc", "split": "test", "n_images": 40, "metric": "map50_95", "value": value, "unit": "fraction",
        "preset": None if name == CLEAN else "imagenet224", "corruption": None if name == CLEAN else name,
        "severity": severity or None,
    }  # fmt: skip
    return Record(**{**fields, **SOURCE, **given})


def run_records(
    value: float = 0.5, *, severities: Iterable[int] = (3,), conditions: Iterable[str] = CONDITIONS, **given: Any
) -> list[Record]:
    """Returns the rows of one run: ``value`` when clean, 0.1 less per severity."""
    rows = []
    for name in conditions:
        for severity in [0] if name == CLEAN else severities:
            rows.append(record(name, severity, value - 0.05 * severity, **given))
    return rows


def write(path: Path, rows: Iterable[Record]) -> Path:
    """Returns the path of the table with these rows."""
    records.append(path, rows)
    return path


def write_study(
    folder: Path, *, bits: Iterable[int] = (32, 8, 4, 2), seeds: Iterable[int] = (0,), severities: Iterable[int] = (3,),
    n_images: int = 40, leave_out: Iterable[str] = (), **given: Any,
) -> Path:  # fmt: skip
    """Returns ``records.csv`` of a grid of runs, with per-image files that agree with it."""
    rows = []
    targets = np.random.default_rng(0).poisson(1.0, (n_images, 3))
    difficulty = np.random.default_rng(1).normal(size=n_images)
    for seed in seeds:
        for width in bits:
            for name in (name for name in CONDITIONS if name not in tuple(leave_out)):
                for severity in [0] if name == CLEAN else severities:
                    rng = np.random.default_rng([seed, width, zlib.crc32(name.encode()), severity])
                    hard = 0.3 * severity * (zlib.crc32(name.encode()) % 7) / 3
                    skill = 1.5 - hard - {32: 0.0, 8: -0.15, 4: 0.1, 2: 0.8}.get(width, 0.0)
                    found = simulated(rng, n_images, 3, skill, 2.0, difficulty, targets)
                    row = record(
                        name, severity, mean_average_precision(found)[0].item(), width, seed, n_images=n_images, **given
                    )
                    rows.append(row)
                    path = image_statistics.path_of(folder / "per_image", row.run_id, name, severity)
                    image_statistics.write(path, found)
    return write(folder / "records.csv", rows)
