"""Measures checkpoints on the VOC07 test sample: over all classes, and over those with at least ten test objects.

    python results/voc-sample-256px/accuracy.py runs/voc256/*/weights/last.pt

Writes ``per_class.csv`` and ``accuracy.md`` beside this file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polars as pl

from qreg_yolo import QuantYOLO
from qreg_yolo.io.files import sha256

HERE = Path(__file__).parent
ENOUGH = 10
"""Test objects that a class must have for its average precision to say something."""


def per_class(weights: Path, data: str, imgsz: int) -> pl.DataFrame:
    """Returns one row per class: its test objects, AP50 and AP50-95 (0 to 1)."""
    metrics = QuantYOLO(str(weights)).val(data=data, split="test", imgsz=imgsz, batch=16, plots=False, verbose=False)
    return pl.DataFrame(
        [
            {
                "run": weights.parent.parent.name,
                "checkpoint": weights.name,
                "sha256": sha256(weights),
                "class": metrics.names[index],
                "objects": int(metrics.nt_per_class[index]),
                "ap50": float(metrics.box.ap50[place]),
                "ap50_95": float(metrics.box.ap[place]),
            }
            for place, index in enumerate(metrics.ap_class_index)
        ]
    )


def markdown(frame: pl.DataFrame) -> str:
    """Returns mean average precision per checkpoint."""
    enough = frame.filter(pl.col("objects") >= ENOUGH)
    lines = [
        f"| run | checkpoint | mAP50 | mAP50-95 | mAP50, {ENOUGH}+ objects | mAP50-95, {ENOUGH}+ objects |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (run, checkpoint), rows in frame.group_by("run", "checkpoint", maintain_order=True):
        some = enough.filter(run=run, checkpoint=checkpoint)
        cells: list[Any] = [part[column].mean() for part in (rows, some) for column in ("ap50", "ap50_95")]
        lines.append(f"| {run} | {checkpoint} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    total, counted = frame["class"].n_unique(), enough["class"].n_unique()
    lines.append(f"\n{total} classes, {counted} of them with {ENOUGH} or more test objects.")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--data", default="runs/VOC/voc.yaml")
    parser.add_argument("--imgsz", type=int, default=256)
    arguments = parser.parse_args()
    frame = pl.concat([per_class(path, arguments.data, arguments.imgsz) for path in arguments.weights])
    frame.write_csv(HERE / "per_class.csv", float_precision=4)
    text = markdown(frame)
    (HERE / "accuracy.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
