"""Conversion of an official PASCAL VOCdevkit to the layout of ``data/voc.yaml``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from qreg_yolo.datasets.voc.devkit import Devkit, Problem, Split, read_devkit
from qreg_yolo.datasets.voc.output import PROBLEMS, VERSION, YAML, Output, find_differences, find_output, write_output
from qreg_yolo.errors import DataError, MissingFileError, fault_list
from qreg_yolo.io import files, strict_yaml
from qreg_yolo.io.resources import data_path
from qreg_yolo.terminal import Progress, no_progress, table


@dataclass(frozen=True)
class Conversion:
    """A converted devkit."""

    yaml: Path
    """Its data YAML."""
    splits: tuple[Split, ...]
    notes: tuple[str, ...]
    """Missing image sets, and those that replace them."""
    problems: tuple[Problem, ...]
    """Problems that were left out."""
    placed: Counter[str]
    """"symbolic link", "hard link" or "copy" -> number of images; empty if the folder was already complete."""

    @property
    def table(self) -> str:
        """Text for the user."""
        counts = [[s.name, *map(str, (len(s.labels), s.n_objects, s.n_difficult))] for s in self.splits]
        lines = table([["split", "images", "objects", "difficult, left out"], *counts])
        lines += self.notes
        if self.problems:
            heading = f"Left out for {_count(self.problems)} ({self.yaml.parent / PROBLEMS}):"
            lines.append(f"{heading}{_examples(self.problems)}")
        placed = ", ".join(f"{count} by {name}" for name, count in self.placed.items())
        lines.append(f"Images placed: {placed}." if placed else "Already converted: nothing was changed.")
        if placed and set(self.placed) != {"symbolic link"}:
            lines.append("(Symbolic links cannot be made there.)")
        return "\n".join([*lines, f"Data YAML: {self.yaml}"])


def convert_voc(
    devkit: Path,
    out: Path,
    *,
    keep_difficult: bool = False,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> Conversion:
    """Converts ``devkit`` to ``out`` and returns the result; a second call checks the folder and changes nothing.

    Without test images the val lists become the validation set, and are not trained on.

    Args:
        devkit: The folder that holds ``VOC2007``, ``VOC2012`` or both.
        out: Folder to make.
        keep_difficult: Keep the objects marked difficult, which YOLOv5 drops.
        skip_bad: Leave out files that cannot be used, instead of refusing the devkit.
        progress: Reports progress.

    Raises:
        FileNotFoundError: No such devkit.
        DataError: The devkit has problems (``problems.txt`` in ``out`` lists them), or no training or validation
            images; or ``out`` is something else than this conversion.
        OSError: ``out`` cannot be written.
    """
    if not devkit.exists():
        raise MissingFileError(f"There is no devkit '{devkit}'. Give --devkit DIR, or --download to fetch it there.")
    devkit, out = devkit.resolve(), out.resolve()
    settings = {"version": VERSION, "devkit": str(devkit), "keep_difficult": keep_difficult}
    finished = find_output(out, settings)
    shipped = strict_yaml.load(data_path("voc"))
    class_ids = {name: number for number, name in shipped["names"].items()}
    found = read_devkit(devkit, _wanted(shipped), class_ids, keep_difficult=keep_difficult, progress=progress)
    if found.problems and not skip_bad:
        raise DataError(_refuse(devkit, out, found.problems))
    splits = tuple(split for split in found.splits if split.labels)
    roles = _roles(devkit, [split.name for split in splits])
    output = Output(splits, {"path": str(out), **roles, "names": shipped["names"]}, settings, _listing(found.problems))
    placed: Counter[str] = Counter()
    if finished:
        _check(out, output)
    else:
        placed = write_output(out, output, progress)
    return Conversion(out / YAML, splits, _notes(found, roles), tuple(found.problems), placed)


def _wanted(description: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (list, year) of each split of a data description, each once: ("train", "2012"), ..."""
    folders = [folder for role in ("train", "val", "test") for folder in description[role]]
    matches = [re.fullmatch(r"images/([a-z]+)(\d{4})", folder) for folder in dict.fromkeys(folders)]
    return [(match[1], match[2]) for match in matches if match]


def _roles(devkit: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the image folders to train, validate and test on."""
    test = [name for name in names if name.startswith("test")]
    val = test or [name for name in names if name.startswith("val")]
    roles = {"train": [name for name in names if name not in val], "val": val, "test": test}
    for role, lists in (("train", "train.txt or trainval.txt"), ("val", "test.txt (2007) or val.txt")):
        if not roles[role]:
            raise DataError(
                f"'{devkit}' has no images to {'train' if role == 'train' else 'validate'} on, only: "
                f"{', '.join(names) or 'nothing'}. Add an image set with ImageSets/Main/{lists}, or use --download."
            )
    return {role: [f"images/{name}" for name in chosen] for role, chosen in roles.items() if chosen}


def _notes(found: Devkit, roles: dict[str, list[str]]) -> tuple[str, ...]:
    empty = [f"{split.name} has no image that can be used." for split in found.splits if not split.labels]
    if "test" in roles:
        return (*found.notes, *empty)
    return (*found.notes, *empty, f"No test images: {', '.join(roles['val'])} validate, and are not trained on.")


def _refuse(devkit: Path, out: Path, problems: Sequence[Problem]) -> str:
    """Returns the error text, after writing all problems to their file."""
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / PROBLEMS, _listing(problems))
    return (
        f"'{devkit}' has {_count(problems)}; nothing was converted. Listed in {out / PROBLEMS}. "
        f"Correct the files, or leave out what cannot be used with --skip-bad.{_examples(problems)}"
    )


def _count(problems: Sequence[Problem]) -> str:
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def _by_kind(problems: Sequence[Problem]) -> Iterator[tuple[str, list[Problem]]]:
    for kind, group in groupby(sorted(problems, key=lambda problem: problem.kind), key=lambda problem: problem.kind):
        yield kind, list(group)


def _examples(problems: Sequence[Problem]) -> str:
    return "".join(
        f"\n  {kind}: {len(group)}{fault_list([f'{one.file}: {one.found}' for one in group], '    ')}"
        for kind, group in _by_kind(problems)
    )


def _listing(problems: Sequence[Problem]) -> str:
    """Returns one line per problem, by kind."""
    lines = [f"{kind}: {problem.file}: {problem.found}\n" for kind, group in _by_kind(problems) for problem in group]
    return "".join(lines)


def _check(out: Path, output: Output) -> None:
    different = find_differences(out, output)
    if different:
        raise DataError(
            f"--out '{out}' differs from what the devkit gives now in {len(different)} files, such as "
            f"'{different[0]}'. Delete that folder and run the command again, or give another --out."
        )
