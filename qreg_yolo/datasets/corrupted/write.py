"""Corrupted sets of a data set: ``<corruption>/<severity>/`` with images, labels and a data YAML each, and a manifest.

A set has Ultralytics' layout, and its ``data.yaml`` once it is whole::

    manifest.json  files.jsonl  fog/3/data.yaml  fog/3/images/*.png  fog/3/labels/*.txt
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qreg_yolo.corrupt.apply import MIN_SIDE
from qreg_yolo.corrupt.spec import NAMES
from qreg_yolo.datasets.corrupted import manifest
from qreg_yolo.datasets.corrupted.images import Task, corrupt_image, file_name, picture
from qreg_yolo.datasets.corrupted.manifest import FILES, SCRATCH, Entry, SetsError
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.datasets.corrupted.request import Request, check_apart, choose_images, settings_of
from qreg_yolo.datasets.image_io import look
from qreg_yolo.datasets.sources import IMAGE_SUFFIXES, ImageSource
from qreg_yolo.io import files, records, strict_yaml
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.terminal import Progress, no_progress

SHOWN = 10
"""How many faults a message lists; the manifest has all."""
_SAMPLE = 5
"""Images that the estimate of the size rests on."""
Approve = Callable[[int], object]
"""Called with the estimated bytes before anything is written; raises to refuse."""


@dataclass(frozen=True)
class Written:
    """Sets that are whole."""

    out: Path
    yamls: tuple[Path, ...]
    n_images: int
    """In each set."""
    skipped: tuple[str, ...]
    """``path: what is wrong`` of each image that was left out."""

    @property
    def report(self) -> str:
        """What a user reads at the end."""
        lines = [f"{len(self.yamls)} sets of {self.n_images} images in '{self.out}'."]
        if self.skipped:
            lines += [f"Left out: {len(self.skipped)} images (in {FILES} too).", *_examples(self.skipped)]
        return "\n".join([*lines, f"Validate one: yolo val data={self.yamls[0]} model=best.pt"])


def write_sets(
    source: ImageSource, request: Request, *, approve: Approve = lambda size: None, progress: Progress = no_progress
) -> Written:
    """Returns the sets, after writing what is missing of them; called again, it checks each file by its hash.

    An earlier call that was stopped is gone on with. Further corruptions and severities may be added to a folder.

    Args:
        source: Which images.
        request: What becomes of them, and where.
        approve: Is shown the estimated size first.
        progress: Shows how far it is.

    Raises:
        SetsError: Images that cannot be used (without ``skip_bad``), a folder that holds something else or sets with
            other settings, or that cannot be written.
        FolderInUseError: Another process is writing into the folder.
    """
    images = choose_images(source, request)
    check_apart(request.out, source.path, images.values())
    places = [image.place for image in images.values()]
    settings = settings_of(source.path, source.split, places, request)
    manifest.check_settings(request.out, settings)
    manifest.check_free(request.out)
    known = manifest.read_entries(request.out)
    _check_strangers(request, images)
    tasks = [Task(image, stem, source.channels, request, known.get(image.place)) for stem, image in images.items()]
    bad, pixels = _look_at(tasks, request.skip_bad, progress)
    tasks = [task for task in tasks if task.image.place not in bad]
    if not tasks:
        raise SetsError(f"'{source.path}' has no image that can be used.\n" + "\n".join(_examples(_faults(bad))))
    approve(_estimate([task for task in tasks if not _is_recorded(task)], pixels))
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        with FolderLock().take(request.out):
            manifest.check_unchanged(request.out, settings, known)
            clear(request.out / SCRATCH)
            manifest.write_settings(request.out, settings, records.provenance())
            entries = _write_images(tasks, request, known | bad, progress)
            yamls = _finish(source, request, {place: entries[place] for place in places})
    except FolderInUseError:
        raise
    except OSError as error:
        raise SetsError(
            f"'{request.out}' cannot be written: {error.strerror or error} ({error.filename or 'no file named'}). Make "
            "room or give another folder; the same command goes on from here."
        ) from error
    skipped = {place: entries[place] for place in places if entries[place].fault is not None}
    return Written(request.out, yamls, len(places) - len(skipped), tuple(_faults(skipped)))


def _look_at(tasks: list[Task], skip_bad: bool, progress: Progress) -> tuple[dict[str, Entry], dict[str, int]]:
    """Returns the images that cannot be used, and the pixels of each, by place."""
    bad, pixels = dict[str, Entry](), dict[str, int]()
    with progress("Checking", len(tasks)) as advance:
        for task in tasks:
            fault, pixels[task.image.place] = look(task.image.path, MIN_SIDE)
            if fault is not None:
                bad[task.image.place] = Entry(task.image.place, "", fault=fault)
            advance(1)
    if bad and not skip_bad:
        raise SetsError(_refusal(bad, len(tasks)))
    return bad, pixels


def _refusal(bad: Mapping[str, Entry], total: int) -> str:
    head = f"{len(bad)} of {total} images cannot be used. Repair them, or leave them out with --skip-bad."
    return "\n".join([head, *_examples(_faults(bad))])


def _faults(entries: Mapping[str, Entry]) -> list[str]:
    return [f"{entry.image}: {entry.fault}" for entry in entries.values()]


def _examples(faults: list[str] | tuple[str, ...]) -> list[str]:
    more = [f"  ... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return [*(f"  {fault}" for fault in faults[:SHOWN]), *more]


def _is_recorded(task: Task) -> bool:
    return task.known is not None and all(file_name(task, *cell) in task.known.files for cell in task.request.cells)


def _estimate(tasks: list[Task], pixels: Mapping[str, int]) -> int:
    """Returns about how many bytes the images will take: each cell is tried on one of a few images."""
    if not tasks:
        return 0
    sample = tasks[:: max(1, len(tasks) // _SAMPLE)][:_SAMPLE]
    per_pixel = 0.0
    for number, cell in enumerate(sample[0].request.cells):
        task = sample[number % len(sample)]
        try:
            per_pixel += len(picture(task, *cell)) / pixels[task.image.place]
        except (ValueError, TypeError, OSError):
            per_pixel += 2.0  # it will be named when its turn comes
    return int(per_pixel * sum(pixels[task.image.place] for task in tasks))


def _check_strangers(request: Request, images: Mapping[str, Any]) -> None:
    """Raises where a set holds an image that is none of its own: the host would validate it too."""
    for corruption, severity in request.cells:
        folder = request.out / corruption / str(severity) / "images"
        for path in folder.rglob("*"):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and (stem not in images or path.suffix != f".{request.format}"):
                raise SetsError(f"'{path}' does not belong to the set. Remove it, or give another folder.")


def clear(scratch: Path) -> Path:
    """Returns the folder of unfinished files, made anew without those of a run that was killed."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return scratch


def _write_images(
    tasks: list[Task], request: Request, known: Mapping[str, Entry], progress: Progress
) -> dict[str, Entry]:
    """Returns the entries of all images, after writing what is missing; each is recorded as it is done."""
    entries, per_image = dict(known), len(request.cells)
    with (
        (request.out / FILES).open("ab", buffering=0) as journal,
        progress("Writing", len(tasks) * per_image) as advance,
        closing(run_ordered(corrupt_image, tasks, request.workers)) as results,
    ):
        _drop_torn_line(request.out / FILES)
        for entry in results:
            if entry.fault is not None and not request.skip_bad:
                raise SetsError(_refusal({entry.image: entry}, len(tasks)))
            if entry != entries.get(entry.image):
                manifest.append_entry(journal, entry)
            entries[entry.image] = entry
            advance(per_image)
    return entries


def _drop_torn_line(path: Path) -> None:
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _finish(source: ImageSource, request: Request, entries: Mapping[str, Entry]) -> tuple[Path, ...]:
    """Brings the manifest into the images' order and gives each whole set its YAML, the last thing it gets."""
    ordered = {
        place: replace(entry, files=dict(sorted(entry.files.items(), key=lambda item: _order(item[0]))))
        for place, entry in entries.items()
    }
    manifest.write_entries(request.out, ordered)
    shutil.rmtree(request.out / SCRATCH, ignore_errors=True)
    text = strict_yaml.dumps(_description(source, entries))
    yamls = [request.out / name / str(severity) / "data.yaml" for name, severity in request.cells]
    for yaml in yamls:
        if not yaml.is_file() or yaml.read_text(encoding="utf-8") != text:
            files.write_text(yaml, text)
    return tuple(yamls)


def _order(name: str) -> tuple[int, str]:
    corruption, _, rest = name.partition("/")
    return NAMES.index(corruption), rest


def _description(source: ImageSource, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Returns the content of a set's YAML. Without ``path`` it is the folder that the YAML lies in."""
    splits = dict.fromkeys(("train", "val", "test"), "images")  # the host wants train and val to be there
    number = len(source.names) or _count_classes(source, entries)
    names = {"names": source.names} if source.names else {}
    return {**splits, "channels": source.channels, "nc": number, **names}


def _count_classes(source: ImageSource, entries: Mapping[str, Entry]) -> int:
    """Returns how many classes the labels of a plain folder have, at least 1."""
    highest = 0
    for image in source.images:
        if image.place in entries and image.label.is_file():
            for line in image.label.read_text(encoding="utf-8", errors="replace").splitlines():
                number = line.partition(" ")[0]
                highest = max(highest, int(number)) if number.isdigit() else highest
    return highest + 1
