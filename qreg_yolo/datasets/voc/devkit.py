"""An official VOCdevkit on disk: the images of its lists, and the labels of each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qreg_yolo.datasets.voc.annotations import Fault, read_annotation
from qreg_yolo.errors import DataError
from qreg_yolo.terminal import Progress, no_progress

MISSING_IMAGE = "missing image"
WRONG_NAME = "wrong name in a list"
TWICE = "image listed twice"

_STEM = re.compile(r"\w[\w.-]*")
"""The name of an image in a list: no folder, no hidden file."""
LISTS = "ImageSets/Main"


@dataclass(frozen=True)
class Problem:
    """One thing that cannot be used."""

    kind: str
    file: str
    """Relative to the devkit."""
    found: str


@dataclass
class Split:
    """The images of one list."""

    name: str
    """Such as ``train2012``."""
    images: Path
    """Folder that holds them."""
    labels: dict[str, str] = field(default_factory=dict)
    """Stem of an image -> the text of its label file."""
    n_objects: int = 0
    n_difficult: int = 0
    """Objects left out because they are marked difficult."""


@dataclass
class Devkit:
    """The content of a devkit."""

    splits: list[Split] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Missing image sets, and those that replace them."""


def read_devkit(
    folder: Path,
    wanted: Sequence[tuple[str, str]],
    class_ids: Mapping[str, int],
    *,
    keep_difficult: bool = False,
    progress: Progress = no_progress,
) -> Devkit:
    """Returns the splits that a devkit has, with their labels and every problem met on the way.

    Args:
        folder: The devkit, which holds ``VOC2007`` and the like.
        wanted: (list, year) of each split, such as ("train", "2012").
        class_ids: Class name -> number.
        keep_difficult: Keep the objects marked difficult.
        progress: Reports progress.

    Raises:
        DataError: None of the wanted lists is there.
    """
    devkit = Devkit()
    present = _present(folder, wanted, devkit.notes)
    if not present:
        raise DataError(_nothing_there(folder))
    reader = _Reader(folder, class_ids, keep_difficult, devkit.problems)
    devkit.splits += [reader.split(name, year, progress) for name, year in present]
    return devkit


def _present(folder: Path, wanted: Sequence[tuple[str, str]], notes: list[str]) -> list[tuple[str, str]]:
    """Returns the lists to read; trainval replaces train and val if one of them is missing."""
    found: list[tuple[str, str]] = []
    for name, year in wanted:
        lists = folder / f"VOC{year}" / LISTS
        halves = ("train", "val")
        if name in halves and not all((lists / f"{half}.txt").is_file() for half in halves):
            whole = ("trainval", year)
            if whole in found:
                continue
            if (lists / "trainval.txt").is_file():
                found.append(whole)
                notes.append(f"VOC{year}/{LISTS} has not both train.txt and val.txt: trainval.txt is one split.")
                continue
        if (lists / f"{name}.txt").is_file():
            found.append((name, year))
        else:
            notes.append(f"VOC{year}/{LISTS}/{name}.txt is not there: no {name}{year}.")
    return found


def _nothing_there(folder: Path) -> str:
    inner = folder / "VOCdevkit"
    hint = f" Did you mean '{inner}'?" if inner.is_dir() else ""
    return (
        f"'{folder}' is not a VOCdevkit: it has no image lists.{hint} Expected: VOC2007/, VOC2012/ or both, "
        f"each with Annotations/*.xml, {LISTS}/*.txt and JPEGImages/*.jpg. --download fetches the official archives."
    )


@dataclass
class _Reader:
    """Reads the splits of a devkit one after the other."""

    folder: Path
    class_ids: Mapping[str, int]
    keep_difficult: bool
    problems: list[Problem]
    seen: set[str] = field(default_factory=set)
    """The images listed so far."""

    def split(self, name: str, year: str, progress: Progress) -> Split:
        """Returns the images that a list names."""
        base, list_file = f"VOC{year}", f"VOC{year}/{LISTS}/{name}.txt"
        split = Split(f"{name}{year}", self.folder / base / "JPEGImages")
        images = _files(split.images)
        lines = (self.folder / list_file).read_text(encoding="utf-8-sig", errors="replace").splitlines()
        with progress(split.name, len(lines)) as advance:
            for number, stem in enumerate(map(str.strip, lines), start=1):
                advance(1)
                key = f"{base}/{stem}"
                if not stem:
                    continue
                if not _STEM.fullmatch(stem):
                    self._problem(WRONG_NAME, list_file, f"line {number}: {stem!r:.60} names no image")
                elif key in self.seen:
                    self._problem(TWICE, list_file, f"line {number}: {stem}, also in this or another list of {base}")
                elif f"{stem}.jpg" not in images:
                    self._problem(MISSING_IMAGE, f"{base}/JPEGImages/{stem}.jpg", f"named in {list_file}")
                else:
                    self._image(split, stem, f"{base}/Annotations/{stem}.xml")
                self.seen.add(key)
        return split

    def _image(self, split: Split, stem: str, file: str) -> None:
        try:
            annotation = read_annotation(self.folder / file, self.class_ids, keep_difficult=self.keep_difficult)
        except Fault as fault:
            self._problem(fault.kind, file, fault.found)
            return
        for wrong in annotation.faults:
            self._problem(wrong.kind, file, wrong.found)
        split.labels[stem] = "".join(f"{line}\n" for line in annotation.lines)
        split.n_objects += len(annotation.lines)
        split.n_difficult += annotation.n_difficult

    def _problem(self, kind: str, file: str, found: str) -> None:
        self.problems.append(Problem(kind, file, found))


def _files(folder: Path) -> set[str]:
    """Returns the names of the files in a folder (one look at the folder, not one per file); empty without folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()
