"""Corrupted copies of a dataset: ``<corruption>/<severity>/`` with images, labels and a data YAML each, and a manifest.

Each copy has Ultralytics' layout, and its ``data.yaml`` once it is whole::

    manifest.json  files.jsonl  fog/3/data.yaml  fog/3/images/*.png  fog/3/labels/*.txt
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qreg_yolo.corrupt.apply import MIN_SIDE, corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.corrupt.spec import NAMES
from qreg_yolo.datasets.corrupted import manifest
from qreg_yolo.datasets.corrupted.manifest import FILES, SCRATCH, Entry
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.datasets.corrupted.request import DEFAULT_QUALITY, Request, check_apart, choose_images, settings_of
from qreg_yolo.datasets.image_io import decode, encode, look
from qreg_yolo.datasets.labels import count_classes
from qreg_yolo.datasets.sources import IMAGE_SUFFIXES, ImageSource, SourceImage, check_channels
from qreg_yolo.errors import DataError, fault_list
from qreg_yolo.io import files, records, strict_yaml
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.terminal import Progress, no_progress

_SAMPLE = 5
"""Images that the estimate of the size rests on."""
Approve = Callable[[int], object]
"""Called with the estimated bytes before anything is written; raises to refuse."""


@dataclass(frozen=True)
class Written:
    """Corrupted copies that are whole."""

    out: Path
    yamls: tuple[Path, ...]
    n_images: int
    """In each copy."""
    skipped: tuple[str, ...]
    """``path: fault`` of each image that was left out."""

    @property
    def report(self) -> str:
        """Text for the user."""
        text = f"{len(self.yamls)} sets of {self.n_images} images in '{self.out}'."
        if self.skipped:
            text += f"\nLeft out: {len(self.skipped)} images (in {FILES} too).{fault_list(self.skipped)}"
        return f"{text}\nValidate one: yolo val data={self.yamls[0]} model=best.pt"


@dataclass(frozen=True)
class Task:
    """One image to corrupt in a worker process."""

    image: SourceImage
    stem: str
    """Name of its files, without the suffix; may contain folders."""
    channels: int
    """Channels to decode."""
    request: Request
    known: Entry | None
    """Its entry of an earlier run."""

    def file(self, corruption: str, severity: int) -> str:
        """Returns its file under one condition, relative to the output folder."""
        return f"{corruption}/{severity}/images/{self.stem}.{self.request.format}"

    @property
    def is_recorded(self) -> bool:
        """Whether an earlier run has written all of its files."""
        return self.known is not None and all(self.file(*one) in self.known.files for one in self.request.conditions)


def write_sets(
    source: ImageSource, request: Request, *, approve: Approve = lambda size: None, progress: Progress = no_progress
) -> Written:
    """Writes the files that are missing or not as recorded by their hash, and returns the corrupted copies.

    A stopped call is resumed. Further corruptions and severities may be added to a folder.

    Args:
        source: The images.
        request: The corruptions, and the folder.
        approve: Is shown the estimated size first.
        progress: Reports progress.

    Raises:
        DataError: Images that cannot be used (without ``skip_bad``), or a folder that holds something else or copies
            with other settings, or that cannot be written.
        FolderInUseError: Another process is writing into the folder.
    """
    check_channels(source.path, source.channels)
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
        raise DataError(f"'{source.path}' has no image that can be used.{fault_list(_faults(bad.values()))}")
    approve(_estimate([task for task in tasks if not task.is_recorded], pixels))
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
        raise DataError(
            f"'{request.out}' cannot be written: {error.strerror or error} ({error.filename or 'no file named'}). Make "
            "room or give another folder; the same command resumes."
        ) from error
    skipped = _faults(entries[place] for place in places if entries[place].fault is not None)
    return Written(request.out, yamls, len(places) - len(skipped), tuple(skipped))


def corrupt_image(task: Task) -> Entry:
    """Writes the missing files of one image, links its labels, and returns its entry; runs in worker processes.

    Raises:
        DataError: The image has changed since it was recorded.
        OSError: A file cannot be written.
    """
    out, image, known = task.request.out, task.image, task.known
    try:
        source_sha256 = hashlib.sha256(image.path.read_bytes()).hexdigest()
    except OSError as error:
        return Entry(image.place, "", fault=error.strerror or str(error))
    if known and known.source_sha256 not in ("", source_sha256):
        raise DataError(f"'{image.path}' has changed since '{out}' was begun. Write into another folder.")
    done = dict(known.files) if known else {}
    missing = [one for one in task.request.conditions if not (known and known.is_intact(out, task.file(*one)))]
    try:
        pixels = decode(image.path, task.channels) if missing else None
        for one in missing:
            assert pixels is not None
            data, name = _encoded(task, pixels, *one), task.file(*one)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(out / name, data, scratch=out / SCRATCH)
            done[name] = hashlib.sha256(data).hexdigest()
    except (ValueError, TypeError) as error:
        return Entry(image.place, source_sha256, fault=str(error))
    for corruption, severity in task.request.conditions:
        _link_label(image.label, out / corruption / str(severity) / "labels" / f"{task.stem}.txt")
    return Entry(image.place, source_sha256, done)


def clear(scratch: Path) -> Path:
    """Returns the folder of unfinished files, emptied of those of a killed run."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    return scratch


def _encoded(task: Task, pixels: Image, corruption: str, severity: int) -> bytes:
    """Returns the content of one file."""
    asked = task.request
    result = corrupt(
        pixels, corruption, severity,
        seed=asked.seed, key=task.image.key, preset=asked.preset, frost=asked.frost_dir,
    )  # fmt: skip
    return encode(result, asked.format, asked.quality or DEFAULT_QUALITY)


def _link_label(label: Path, target: Path) -> None:
    """Links or copies a label file; without one, removes the target."""
    if not label.is_file():
        target.unlink(missing_ok=True)
        return
    if files.same_file(target, label):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    files.link_or_copy(label, target)


def _look_at(tasks: list[Task], skip_bad: bool, progress: Progress) -> tuple[dict[str, Entry], dict[str, int]]:
    """Returns the images that cannot be used, and the pixels of each, by place."""
    bad, pixels = dict[str, Entry](), dict[str, int]()
    with progress("Checking", len(tasks)) as advance:
        for task in tasks:
            seen = look(task.image.path, MIN_SIDE)
            pixels[task.image.place] = seen.pixels
            if seen.fault is not None:
                bad[task.image.place] = Entry(task.image.place, "", fault=seen.fault)
            advance(1)
    if bad and not skip_bad:
        raise DataError(_refusal(bad.values(), len(tasks)))
    return bad, pixels


def _refusal(bad: Iterable[Entry], total: int) -> str:
    faults = _faults(bad)
    head = f"{len(faults)} of {total} images cannot be used. Repair them, or leave them out with --skip-bad."
    return f"{head}{fault_list(faults)}"


def _faults(entries: Iterable[Entry]) -> list[str]:
    return [f"{entry.image}: {entry.fault}" for entry in entries]


def _estimate(tasks: list[Task], pixels: Mapping[str, int]) -> int:
    """Estimates the bytes that the images will take, from a few images for each condition."""
    if not tasks:
        return 0
    sample = tasks[:: max(1, len(tasks) // _SAMPLE)][:_SAMPLE]
    per_pixel = 0.0
    for number, one in enumerate(sample[0].request.conditions):
        task = sample[number % len(sample)]
        try:
            data = _encoded(task, decode(task.image.path, task.channels), *one)
            per_pixel += len(data) / pixels[task.image.place]
        except (ValueError, TypeError, OSError):
            per_pixel += 2.0  # the image is named when its turn comes
    return int(per_pixel * sum(pixels[task.image.place] for task in tasks))


def _check_strangers(request: Request, images: Mapping[str, Any]) -> None:
    """Raises if a copy holds an image that is not its own: Ultralytics would validate it too."""
    for corruption, severity in request.conditions:
        folder = request.out / corruption / str(severity) / "images"
        for path in folder.rglob("*"):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix.lower() in IMAGE_SUFFIXES and (stem not in images or path.suffix != f".{request.format}"):
                raise DataError(f"'{path}' does not belong to the set. Remove it, or give another folder.")


def _write_images(
    tasks: list[Task], request: Request, known: Mapping[str, Entry], progress: Progress
) -> dict[str, Entry]:
    """Writes the missing files, records each image when it is done, and returns all entries."""
    entries, per_image = dict(known), len(request.conditions)
    with (
        (request.out / FILES).open("ab", buffering=0) as journal,
        progress("Writing", len(tasks) * per_image) as advance,
        closing(run_ordered(corrupt_image, tasks, request.workers)) as results,
    ):
        _drop_torn_line(request.out / FILES)
        for entry in results:
            if entry.fault is not None and not request.skip_bad:
                raise DataError(_refusal([entry], len(tasks)))
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
    """Writes the manifest in the images' order, and then the data YAML of each finished copy."""
    ordered = {
        place: replace(entry, files=dict(sorted(entry.files.items(), key=lambda item: _order(item[0]))))
        for place, entry in entries.items()
    }
    manifest.write_entries(request.out, ordered)
    shutil.rmtree(request.out / SCRATCH, ignore_errors=True)
    text = strict_yaml.dumps(_description(source, entries))
    yamls = [request.out / name / str(severity) / "data.yaml" for name, severity in request.conditions]
    for yaml in yamls:
        if not yaml.is_file() or yaml.read_text(encoding="utf-8") != text:
            files.write_text(yaml, text)
    return tuple(yamls)


def _order(name: str) -> tuple[int, str]:
    corruption, _, rest = name.partition("/")
    return NAMES.index(corruption), rest


def _description(source: ImageSource, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Returns the content of a copy's data YAML; without ``path``, its entries start in its own folder."""
    splits = dict.fromkeys(("train", "val", "test"), "images")  # Ultralytics wants train and val to be there
    labels = (image.label for image in source.images if image.place in entries and image.label.is_file())
    names = {"names": source.names} if source.names else {}
    return {**splits, "channels": source.channels, "nc": len(source.names) or count_classes(labels), **names}
