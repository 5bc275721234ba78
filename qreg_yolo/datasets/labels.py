"""YOLO label files: their place, their faults and their classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def label_path(image: Path) -> Path:
    """Returns the label file of an image: Ultralytics replaces the last folder ``images`` by ``labels``.

    Images of one folder that differ only in their suffix share it.

    >>> label_path(Path("/voc/images/test2007/1.jpg")).as_posix()
    '/voc/labels/test2007/1.txt'
    """
    inside, above = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(above.join(str(image).rsplit(inside, 1)).rsplit(".", 1)[0] + ".txt")


def count_classes(labels: Iterable[Path]) -> int:
    """Returns the highest class in some label files plus 1, at least 1; rows that are not numbers are skipped."""
    highest = 0.0
    for path in labels:
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            first = line.split(maxsplit=1)[0] if line.strip() else ""
            highest = max(highest, float(first) if first.replace(".", "", 1).isdecimal() else 0)
    return int(highest) + 1


def label_fault(path: Path, n_classes: int, single_cls: bool = False) -> str | None:
    """Returns the first fault of a label file that keeps Ultralytics from using it, None if it is valid."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return "not a text file"
    rows = {number: line.split() for number, line in enumerate(lines, start=1) if line.strip()}
    for number, fields in rows.items():
        if fault := _row_fault(fields, n_classes, single_cls):
            return f"line {number}: {fault}"
    boxes = [number for number, fields in rows.items() if len(fields) == 5]
    if boxes and len(boxes) < len(rows):
        polygon = next(number for number in rows if number not in boxes)
        return f"line {boxes[0]} is a box and line {polygon} a polygon; a file may hold one kind"
    return None


def _row_fault(fields: Sequence[str], n_classes: int, single_cls: bool) -> str | None:
    line = " ".join(fields)[:60]
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return f"'{line}' is not numbers"
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        return f"{len(values)} values, not 'class x y width height'"
    if not values[0].is_integer() or values[0] < 0 or (values[0] >= n_classes and not single_cls):
        return f"class {fields[0]}, but the data YAML names {n_classes} (0 to {n_classes - 1})"
    if any(not -0.01 <= value <= 1.01 for value in values[1:]):
        return f"'{line}' is not in fractions of the image (0 to 1)"
    return None
