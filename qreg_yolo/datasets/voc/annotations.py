"""Conversion of one PASCAL VOC annotation (XML) to YOLO label lines; each fault is named."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 1 << 20
"""Size limit of an annotation; official ones have a few kilobytes."""

MISSING_ANNOTATION = "missing annotation"
MALFORMED_XML = "malformed XML"
MISSING_SIZE = "missing size"
UNKNOWN_CLASS = "unknown class"
WRONG_FLAG = "wrong difficult flag"
NOT_A_NUMBER = "box that is not numbers"
OUTSIDE = "box outside the image"
NO_AREA = "box without area"


class Fault(Exception):
    """Something that cannot be used.

    Args:
        kind: One of the kinds above.
        found: The text that was found, for the user.
    """

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(kind, found)
        self.kind, self.found = kind, found


@dataclass(frozen=True)
class Annotation:
    """The content of an annotation."""

    lines: tuple[str, ...]
    """``class x y width height`` per object, in shares of the image."""
    n_difficult: int
    """Objects left out because they are marked difficult."""
    faults: tuple[Fault, ...]
    """Objects that cannot be used; they are not in ``lines``."""


def read_annotation(path: Path, class_ids: Mapping[str, int], *, keep_difficult: bool = False) -> Annotation:
    """Returns the label lines of an annotation, text and numbers as YOLOv5's own script writes them.

    An object without a difficult flag is not difficult. A difficult object that is left out may have any box. The
    names of files in the annotation are not looked at.

    Args:
        path: The XML file.
        class_ids: Class name -> number.
        keep_difficult: Keep the objects marked difficult.

    Raises:
        Fault: The file as a whole cannot be used.
    """
    root = _parse(path)
    width, height = (_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if not (width >= 1 and height >= 1):
        found = ", ".join(f"{side} {root.findtext(f'size/{side}')!r:.40}" for side in ("width", "height"))
        raise Fault(MISSING_SIZE, f"no size of the image in pixels, but {found}")
    lines, faults, n_difficult = [], [], 0
    for number, item in enumerate(root.iter("object"), start=1):
        name = _text(item, "name")
        try:
            if name not in class_ids:
                raise Fault(UNKNOWN_CLASS, f"not one of the {len(class_ids)} classes")
            if _is_difficult(item) and not keep_difficult:
                n_difficult += 1
                continue
            lines.append(f"{class_ids[name]} {_box(item, width, height)}")
        except Fault as fault:
            faults.append(Fault(fault.kind, f"object {number} ({name!r:.40}): {fault.found}"))
    return Annotation(tuple(lines), n_difficult, tuple(faults))


class _Tree(ET.TreeBuilder):
    """Builds the tree of a document; refuses a document type, whose entities may expand without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuses the document as soon as the declaration begins, whatever the encoding."""
        raise Fault(MALFORMED_XML, f"a document type ({name!r:.40}), which VOC does not use and which can be harmful")


def _parse(path: Path) -> ET.Element:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Fault(MISSING_ANNOTATION, error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise Fault(MALFORMED_XML, f"more than {MAX_BYTES} bytes")
    try:
        root = ET.fromstring(data, ET.XMLParser(target=_Tree()))
    except (ET.ParseError, ValueError, LookupError) as error:  # the last two: encodings that Python lacks
        raise Fault(MALFORMED_XML, str(error)) from error
    if root.tag != "annotation":
        raise Fault(MALFORMED_XML, f"<{root.tag:.40}> instead of <annotation>")
    return root


def _text(item: ET.Element, path: str) -> str:
    return (item.findtext(path) or "").strip()


def _number(text: str | None) -> float:
    """Returns a finite number; NaN for everything else."""
    try:
        value = float(text or "")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _is_difficult(item: ET.Element) -> bool:
    flag = _text(item, "difficult") or "0"
    if flag not in ("0", "1"):
        raise Fault(WRONG_FLAG, f"{flag!r:.40}, not 0 or 1")
    return flag == "1"


def _box(item: ET.Element, width: float, height: float) -> str:
    """Returns ``x y width height`` as YOLOv5 converts VOC's corners, which count pixels from 1."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (_number(item.findtext(f"bndbox/{side}")) for side in sides)
    if any(math.isnan(value) for value in (x1, y1, x2, y2)):
        raise Fault(NOT_A_NUMBER, ", ".join(f"{side} {item.findtext(f'bndbox/{side}')!r:.40}" for side in sides))
    corners = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
    if x2 <= x1 or y2 <= y1:
        raise Fault(NO_AREA, corners)
    if min(x1, y1) < 1 or x2 > width or y2 > height:
        raise Fault(OUTSIDE, f"{corners}; the pixels count from (1, 1) to ({width:g}, {height:g})")
    across, down = 1.0 / width, 1.0 / height
    x, y = (x1 + x2) / 2.0 - 1, (y1 + y2) / 2.0 - 1
    return f"{x * across} {y * down} {(x2 - x1) * across} {(y2 - y1) * down}"
