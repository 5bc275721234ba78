"""CIFAR-10-C and CIFAR-100-C, written and read in the layout of Hendrycks & Dietterich (arXiv 1903.12261).

``<corruption>.npy``: uint8 `(5 n, 32, 32, 3)`, the n test images at severity 1, then at severity 2, and so on;
``labels.npy``: the n labels, five times over. Nothing in the files is executed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.corrupt.apply import corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.corrupt.spec import SEVERITIES
from qreg_yolo.datasets.cifar import OFFICIAL, LabelledImages, cifar_in, read_cifar
from qreg_yolo.datasets.corrupted import manifest
from qreg_yolo.datasets.corrupted.manifest import SCRATCH, Entry
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.datasets.corrupted.request import Request, check_apart, settings_of
from qreg_yolo.datasets.corrupted.write import Approve, clear
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.errors import DataError, MissingFileError
from qreg_yolo.io import files, records
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.terminal import Progress, no_progress

LABELS = "labels.npy"
_CHUNK = 500
"""Images per task."""
_REMEDY = "Give the folder of the files that belong to this dataset."


def write_cifar(
    folder: Path, request: Request, *, approve: Approve = lambda size: None, progress: Progress = no_progress
) -> str:
    """Writes the files that are missing or not as recorded, and returns a summary.

    A file appears when it is whole; a stopped call is resumed, file by file.

    Args:
        folder: An official folder.
        request: The corruptions, and the folder; its severities have to be 1 to 5, as in the published layout.
        approve: Is shown the size first.
        progress: Reports progress.

    Raises:
        DataError: A file of another content, another folder, other severities, or an ``out`` that cannot be used.
        FolderInUseError: Another process is writing into ``out``.
    """
    if request.severities != SEVERITIES:
        raise DataError(f"severities={request.severities}: CIFAR's published layout has all five. Leave them out.")
    check_apart(request.out, folder)
    if (name := cifar_in(folder)) is None:
        raise DataError(f"'{folder}' has no CIFAR test images. Give cifar-10-batches-py or cifar-100-python.")
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
            files.write_bytes(request.out / LABELS, labels.getvalue(), scratch=request.out / SCRATCH)
            with progress("Writing", len(missing) * len(SEVERITIES) * len(test.keys)) as advance:
                for name in missing:
                    known[name] = Entry(name, source, _write_file(test, name, request, advance))
                    manifest.write_entries(request.out, known)
            clear(request.out / SCRATCH).rmdir()
    except FolderInUseError:
        raise
    except OSError as error:
        raise DataError(
            f"'{request.out}' cannot be written: {error.strerror or error}. Make room or give another folder; the same "
            "command resumes."
        ) from error
    return f"{len(request.corruptions)} corruptions of {len(test.keys)} images and {LABELS} in '{request.out}'."


def _is_whole(out: Path, entry: Entry | None, source: str) -> bool:
    if entry is None:
        return False
    if entry.source_sha256 != source:
        raise DataError(f"The source of '{out}' has changed since it was begun. Write into another folder.")
    return all(entry.is_intact(out, name) for name in entry.files)


@dataclass(frozen=True)
class Chunk:
    """Some images under one corruption: a task for a worker process."""

    images: Image
    """`(n, 32, 32, 3)` RGB."""
    keys: tuple[str, ...]
    """Keys that seed the draws of each."""
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
    """Writes one corruption and returns file -> SHA-256. The array grows on the disk, not in memory."""
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


class Published:
    """The corrupted images of a folder, mapped into memory.

    Args:
        folder: The folder of the ``.npy`` files.
        labels: int64 `(n,)`: the labels of all test images of the clean set; those of the files have to agree.
        chosen: `(m,)`: indices of the wanted images. Files of these alone, as ``qreg-yolo corrupt --limit`` writes
            them, work too.

    Raises:
        FileNotFoundError: No such folder, or no labels in it.
        DataError: Labels of another form, or of other images.
    """

    def __init__(self, folder: Path, labels: NDArray[np.int64], chosen: NDArray[np.intp]) -> None:
        self.folder = folder
        self._files: dict[str, NDArray[np.uint8]] = {}
        path = folder / LABELS
        stored = _mapped(path)
        if stored.ndim != 1 or not np.issubdtype(stored.dtype, np.integer) or len(stored) % len(SEVERITIES):
            raise DataError(
                f"'{path}' is {stored.dtype} {list(stored.shape)}, not five times the labels as integers. {_REMEDY}"
            )
        self._n = len(stored) // len(SEVERITIES)
        if self._n == len(labels):
            self._rows, expected = chosen, labels
        elif self._n == len(chosen):
            self._rows, expected = np.arange(self._n), labels[chosen]
        else:
            raise DataError(
                f"'{path}' has the labels of 5 x {self._n} images, the dataset has {len(labels)} images. {_REMEDY}"
            )
        differs = stored != np.tile(expected, len(SEVERITIES))
        if differs.any():
            row = int(differs.argmax())
            raise DataError(
                f"'{path}' has the label {stored[row]} in row {row}, the dataset {expected[row % self._n]}: they "
                f"are of other images, or in another order. {_REMEDY}"
            )

    def check(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the SHA-256 of each corruption's file, after a check of its shape.

        Raises:
            FileNotFoundError: One is missing.
            DataError: One holds something else.
        """
        found = {}
        shape = (len(SEVERITIES) * self._n, 32, 32, 3)
        for name in names:
            path = self.folder / f"{name}.npy"
            array = _mapped(path)
            if array.dtype != np.uint8 or array.shape != shape:
                raise DataError(
                    f"'{path}' is {array.dtype} {list(array.shape)}, not uint8 {list(shape)}: {self._n} images of 32 "
                    f"pixels at each of five severities, as {LABELS} has them."
                )
            self._files[name] = array
            found[name] = files.sha256(path)
        return found

    def images(self, name: str, severity: int, part: slice) -> Image:
        """Returns some of the wanted images, `(k, 32, 32, 3)`, of a corruption that `check` has accepted.

        Args:
            name: The corruption.
            severity: 1..5.
            part: The slice of the wanted images.
        """
        taken: Image = self._files[name][(severity - 1) * self._n + self._rows[part]]
        return taken


def _mapped(path: Path) -> NDArray[Any]:
    """Returns the array in a file, mapped into memory.

    Raises:
        FileNotFoundError: No such file.
        DataError: It does not hold one array of numbers, or is cut short.
    """
    if not path.is_file():
        raise MissingFileError(
            f"There is no '{path}'. Give with --published the folder of CIFAR-10-C's or CIFAR-100-C's .npy files."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"'{path}' is not an array of numbers, or cut short ({error}). Fetch or write it again."
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()  # of several arrays
        raise DataError(f"'{path}' is not a single array. Fetch or write it again.")
    return array
