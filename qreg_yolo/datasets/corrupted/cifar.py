"""CIFAR-10 and CIFAR-100 with corruptions, in the layout in which Hendrycks & Dietterich published theirs.

``<corruption>.npy``: uint8 `(5 n, 32, 32, 3)`, the n test images at severity 1, then at severity 2, and so on;
``labels.npy``: the labels, five times over.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from qreg_yolo.corrupt.apply import corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.corrupt.spec import SEVERITIES
from qreg_yolo.datasets.cifar import OFFICIAL, LabelledImages, cifar_in, read_cifar
from qreg_yolo.datasets.corrupted import manifest
from qreg_yolo.datasets.corrupted.manifest import SCRATCH, Entry, SetsError
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.datasets.corrupted.request import Request, check_apart, settings_of
from qreg_yolo.datasets.corrupted.write import Approve, clear
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.io import files, records
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.terminal import Progress, no_progress

_CHUNK = 500
"""Images per task."""


def write_cifar(
    folder: Path, request: Request, *, approve: Approve = lambda size: None, progress: Progress = no_progress
) -> str:
    """Returns what a user reads at the end, after writing the files that are missing or not as recorded.

    A file appears when it is whole; an earlier call that was stopped is gone on with, file by file.

    Args:
        folder: An official folder.
        request: What and where; its severities have to be 1 to 5, as in the published layout.
        approve: Is shown the size first.
        progress: Shows how far it is.

    Raises:
        DataError: A file of another content.
        SetsError: Another folder, other severities, or an ``out`` that cannot be used.
        FolderInUseError: Another process is writing into ``out``.
    """
    if request.severities != SEVERITIES:
        raise SetsError(f"severities={request.severities}: CIFAR's published layout has all five. Leave them out.")
    check_apart(request.out, folder)
    if (name := cifar_in(folder)) is None:
        raise SetsError(f"'{folder}' has no CIFAR test images. Give cifar-10-batches-py or cifar-100-python.")
    test = read_cifar(name, folder, "test", verify=False)
    test = test.subset(select_keys(test.keys, request.limit))
    settings = settings_of(folder.absolute(), "test", list(test.keys), request) | {"format": "npy"}
    manifest.check_settings(request.out, settings)
    manifest.check_free(request.out)
    known = manifest.read_entries(request.out)
    source = files.sha256(folder / OFFICIAL[name].test_file)
    missing = [name for name in request.corruptions if not _is_whole(request.out, known.get(name), source)]
    approve(len(missing) * len(SEVERITIES) * test.images.nbytes)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        with FolderLock().take(request.out):
            manifest.check_unchanged(request.out, settings, known)
            clear(request.out / SCRATCH)
            manifest.write_settings(request.out, settings, records.provenance())
            labels = io.BytesIO()
            np.save(labels, np.tile(test.labels, len(SEVERITIES)))
            files.write_bytes(request.out / "labels.npy", labels.getvalue(), scratch=request.out / SCRATCH)
            with progress("Writing", len(missing) * len(SEVERITIES) * len(test.keys)) as advance:
                for name in missing:
                    known[name] = Entry(name, source, _write_file(test, name, request, advance))
                    manifest.write_entries(request.out, known)
            clear(request.out / SCRATCH).rmdir()
    except FolderInUseError:
        raise
    except OSError as error:
        raise SetsError(
            f"'{request.out}' cannot be written: {error.strerror or error}. Make room or give another folder; the same "
            "command goes on from here."
        ) from error
    return f"{len(request.corruptions)} corruptions of {len(test.keys)} images and labels.npy in '{request.out}'."


def _is_whole(out: Path, entry: Entry | None, source: str) -> bool:
    if entry is None:
        return False
    if entry.source_sha256 != source:
        raise SetsError(f"The source of '{out}' has changed since it was begun. Write into another folder.")
    return all((out / name).is_file() and files.sha256(out / name) == digest for name, digest in entry.files.items())


@dataclass(frozen=True)
class Chunk:
    """Some images under one corruption: a task for a worker process."""

    images: Image
    """`(n, 32, 32, 3)` RGB."""
    keys: tuple[str, ...]
    """What the draws of each hang on."""
    name: str
    """The corruption."""
    severity: int
    """1..5."""


def corrupt_chunk(chunk: Chunk, *, seed: int, preset: str, frost: Path | None) -> Image:
    """Returns the corrupted images, `(n, 32, 32, 3)`; options as those of `corrupt`."""
    corrupted = [
        corrupt(image, chunk.name, chunk.severity, seed=seed, key=key, preset=preset, frost=frost)
        for image, key in zip(chunk.images, chunk.keys, strict=True)
    ]
    return np.stack(corrupted)


def _chunks(test: LabelledImages, name: str) -> Iterator[Chunk]:
    for severity in SEVERITIES:
        for start in range(0, len(test.keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield Chunk(test.images[part], test.keys[part], name, severity)


def _write_file(test: LabelledImages, name: str, request: Request, advance: Callable[[int], object]) -> dict[str, str]:
    """Returns file -> SHA-256 of one corruption. The array lies on the disk while it grows, not in memory."""
    unfinished = request.out / SCRATCH / f"{name}.npy"
    header = io.BytesIO()
    shape = (len(SEVERITIES) * len(test.keys), 32, 32, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    how = partial(corrupt_chunk, seed=request.seed, preset=request.preset, frost=request.frost_dir)
    run = run_ordered(how, _chunks(test, name), request.workers)
    with unfinished.open("wb") as file, closing(run) as parts:
        file.write(header.getvalue())
        for part in parts:
            file.write(part.tobytes())
            advance(len(part))
    files.replace(unfinished, request.out / unfinished.name)
    return {unfinished.name: files.sha256(request.out / unfinished.name)}
