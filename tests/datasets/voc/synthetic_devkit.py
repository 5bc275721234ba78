"""Small VOCdevkits for the tests: 2007 with train, val and test, 2012 with train and val, real JPEG images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qreg_yolo.datasets.voc.convert import convert_voc
from qreg_yolo.errors import DataError

WIDTH, HEIGHT = 40, 30
LISTS = {
    "2007": {"train": ["000001", "000002"], "val": ["000003"], "test": ["000004", "000005"]},
    "2012": {"train": ["2008_000001"], "val": ["2008_000002"]},
}


def box(name: str = "dog", corners: Sequence[object] = (3, 4, 20, 25), difficult: object = 0) -> str:
    """Returns an <object>; corners are xmin, ymin, xmax, ymax."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    bndbox = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{bndbox}</bndbox></object>"


def size_of(width: int, height: int) -> str:
    return f"<width>{width}</width><height>{height}</height>"


def annotation(*objects: str, size: str = size_of(WIDTH, HEIGHT)) -> str:
    return f"<annotation><filename>x.jpg</filename><size>{size}</size>{''.join(objects)}</annotation>"


@lru_cache
def jpeg(shade: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 80, 160)).save(file, "jpeg")
    return file.getvalue()


def write_kit(
    folder: Path, lists: dict[str, dict[str, list[str]]] = LISTS, width: int = WIDTH, height: int = HEIGHT
) -> Path:
    """Writes a devkit in which each image has a dog and a difficult person; returns its folder."""
    for year, sets in lists.items():
        base = folder / f"VOC{year}"
        for kind in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (base / kind).mkdir(parents=True, exist_ok=True)
        for name, stems in sets.items():
            (base / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
            for stem in stems:
                shade = sum(map(ord, stem)) * 37 % 250
                (base / "JPEGImages" / f"{stem}.jpg").write_bytes(jpeg(shade, width, height))
                objects = box(), box("person", (1, 1, width, height), difficult=1)
                text = annotation(*objects, size=size_of(width, height))
                (base / "Annotations" / f"{stem}.xml").write_text(text)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Returns what lies in a folder: relative path -> inode, time of change and content (or a link's target)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder).as_posix()] = (state.st_ino, state.st_mtime_ns, content)
    return found


def contents(folder: Path) -> dict[str, object]:
    """Returns the content of each file of a folder by its relative path."""
    return {name: state[2] for name, state in snapshot(folder).items()}


def refusal(kit: Path, out: Path, **options: Any) -> str:
    """Returns the text of the error that converting the devkit raises."""
    with pytest.raises(DataError) as error:
        convert_voc(kit, out, **options)
    return str(error.value)


def annotate(kit: Path, text: str) -> None:
    """Gives image 000002 of 2007 another annotation."""
    (kit / "VOC2007/Annotations/000002.xml").write_text(text)


def list_also(kit: Path, line: str) -> None:
    """Adds a line to the training list of 2007."""
    with (kit / "VOC2007/ImageSets/Main/train.txt").open("a") as file:
        file.write(f"{line}\n")
