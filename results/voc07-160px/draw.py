"""Draws predictions beside the true boxes on a few test images of the converted set.

    python results/voc07-160px/draw.py voc07.yaml OUT.png W4A4/best.pt FP32/best.pt [--conf 0.1]

Rows: truth, then one per checkpoint. The pictures are photographs of PASCAL VOC: look at them, do not commit them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import yaml
from ultralytics.engine.results import Results

from qreg_yolo import QuantYOLO

SIDE = 240


def tile(image: np.ndarray, boxes_xyxy_abs: np.ndarray, labels: list[str], color: tuple[int, int, int]) -> np.ndarray:
    """Returns the image with boxes, in a square of `SIDE` pixels."""
    image = image.copy()
    for (x1, y1, x2, y2), label in zip(boxes_xyxy_abs.astype(int), labels, strict=True):
        cv2.rectangle(image, (x1, y1), (x2, y2), color, 2)
        cv2.putText(image, label, (x1, max(y1 - 3, 10)), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
    scale = SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale)
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas


def truth(path: Path, names: dict[int, str]) -> tuple[np.ndarray, list[str]]:
    """Returns the labelled boxes, pixels, and their class names."""
    label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
    rows = np.array([[float(v) for v in line.split()] for line in label.read_text().splitlines()]).reshape(-1, 5)
    height, width = cv2.imread(str(path)).shape[:2]
    centre, half = rows[:, 1:3] * (width, height), rows[:, 3:5] * (width, height) / 2
    return np.hstack([centre - half, centre + half]), [names[int(c)] for c in rows[:, 0]]


def predicted(result: Results) -> np.ndarray:
    """Returns the tile of one prediction, with class names and confidences."""
    labels = [f"{result.names[int(c)]} {s:.2f}" for c, s in zip(result.boxes.cls, result.boxes.conf, strict=True)]
    return tile(result.orig_img, result.boxes.xyxy.numpy(), labels, (0, 120, 255))


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--conf", type=float, default=0.1)
    parser.add_argument("--imgsz", type=int, default=160)
    arguments = parser.parse_args()
    description = yaml.safe_load(arguments.data.read_text())
    images = sorted((Path(description["path"]) / description["val"]).glob("*.jpg"))[::112][:6]
    rows = [[tile(cv2.imread(str(p)), *truth(p, description["names"]), (0, 200, 0)) for p in images]]
    for weights in arguments.weights:
        model = QuantYOLO(weights)
        found = [model.predict(p, imgsz=arguments.imgsz, conf=arguments.conf, verbose=False)[0] for p in images]
        rows.append([predicted(result) for result in found])
    cv2.imwrite(str(arguments.out), np.vstack([np.hstack(row) for row in rows]))


if __name__ == "__main__":
    main()
