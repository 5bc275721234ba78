"""The official CIFAR-10 and CIFAR-100 files (Krizhevsky, 2009), checked by md5 and read without executing anything.

Normalisation constants are the training set's own mean and standard deviation over all pixels, per channel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.errors import DataError, MissingFileError
from qreg_yolo.io.pickles import PickleError, load_pickle

SIZE = 32
"""Pixels of a side."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """One split of a classification dataset."""

    name: str
    """`demo` | `cifar10` | `cifar100`."""
    split: str
    """`train` | `val` | `test`."""
    images: NDArray[np.uint8]
    """`(n, height, width, 3)`, RGB."""
    labels: NDArray[np.int64]
    """`(n,)`."""
    classes: tuple[str, ...]
    """Names by label."""
    mean: tuple[float, float, float]
    """Per channel of the training set, 0..1."""
    std: tuple[float, float, float]
    """Standard deviation over all pixels of the training set, per channel."""
    keys: tuple[str, ...]
    """Name of each image; the random draws of its corruptions depend on it."""

    def __len__(self) -> int:
        return len(self.labels)

    def balanced(self, count: int) -> LabelledImages:
        """Returns ``count`` of the images with as many of each class (the first classes have one more at the most).

        The choice depends on the images' keys alone (`sources.select_keys`), not on the seed
        of a training, and a smaller subset is part of a larger one.

        Raises:
            DataError: There are fewer images in a class.
        """
        chosen: list[int] = []
        for label, name in enumerate(self.classes):
            members = np.flatnonzero(self.labels == label)
            share = (count + len(self.classes) - 1 - label) // len(self.classes)
            if share > len(members):
                raise DataError(
                    f"train_images={count} needs {share} images of the class '{name}', and {self.name} has "
                    f"{len(members)}. Give fewer."
                )
            if share:
                chosen += members[select_keys([self.keys[i] for i in members], share)].tolist()
        return self.subset(sorted(chosen))

    def subset(self, chosen: Sequence[int]) -> LabelledImages:
        """Returns some of the images, in that order."""
        rows = np.asarray(chosen, np.int64)
        keys = tuple(self.keys[i] for i in chosen)
        return replace(self, images=self.images[rows], labels=self.labels[rows], keys=keys)


@dataclass(frozen=True, kw_only=True)
class CifarFiles:
    """One official dataset: its files with their md5, and the keys of their labels."""

    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: tuple[str, str]
    label_key: str
    names_key: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def test_file(self) -> str:
        """The name of the file with the test images."""
        return next(iter(self.test))


OFFICIAL: dict[str, CifarFiles] = {
    "cifar10": CifarFiles(
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        label_key="labels",
        names_key="label_names",
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar100": CifarFiles(
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
        label_key="fine_labels",
        names_key="fine_label_names",
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}
"""Name -> files."""


def cifar_in(folder: Path) -> str | None:
    """Returns the dataset whose official test file is in a folder: `cifar10`, `cifar100`, or None."""
    return next((name for name, files in OFFICIAL.items() if (folder / files.test_file).is_file()), None)


def read_cifar(name: str, data_dir: Path, split: str, *, verify: bool = True) -> LabelledImages:
    """Returns one split of an official dataset.

    Args:
        name: `cifar10` or `cifar100`.
        data_dir: Folder that holds `cifar-10-batches-py` or `cifar-100-python` (or that folder itself).
        split: `train` or `test`.
        verify: Whether every file has to be there, as published, by md5. Without it a subset or a rebuilt file of the
            same format is taken, and training batches may be missing.

    Raises:
        FileNotFoundError: The folder or a file is missing.
        DataError: A file is not the official one, or not of its format.
    """
    files = OFFICIAL[name]
    folder = data_dir if data_dir.name == files.folder or cifar_in(data_dir) == name else data_dir / files.folder
    if not folder.is_dir():
        raise MissingFileError(
            f"There is no folder '{folder}'. Give with --data-dir the folder that holds '{files.folder}', or fetch it "
            "with --download."
        )
    wanted = files.train if split == "train" else files.test
    present = {file: md5 for file, md5 in wanted.items() if verify or (folder / file).is_file()}
    parts = [_read_batch(folder / file, md5 if verify else None, files) for file, md5 in (present or wanted).items()]
    images = np.concatenate([images for images, _, _ in parts]).reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    return LabelledImages(
        name=name,
        split=split,
        images=np.ascontiguousarray(images),
        labels=np.concatenate([labels for _, labels, _ in parts]),
        classes=_class_names(folder / files.meta[0], files.meta[1] if verify else None, files),
        mean=files.mean,
        std=files.std,
        keys=_keys([name for _, _, names in parts for name in names], len(images)),
    )


def _read_batch(
    path: Path, md5: str | None, files: CifarFiles
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Any]]:
    """Returns images, labels and names; names may be missing from a rebuilt file."""
    content = _load(path, md5)
    images, labels = content.get("data"), content.get(files.label_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3 * SIZE * SIZE,):
        raise DataError(f"'{path}' has no 'data' of bytes with 3072 columns. Give a file of the official format.")
    if not isinstance(labels, (list, np.ndarray)) or len(labels) != len(images) or not _fit(labels, files.classes):
        raise DataError(
            f"'{path}' has no '{files.label_key}' with one label of 0 to {files.classes - 1} for each of its "
            f"{len(images)} images. Give a file of the official format."
        )
    names = content.get("filenames")
    return images, np.array(labels, dtype=np.int64), names if isinstance(names, list) else []


def _keys(names: list[Any], n: int) -> tuple[str, ...]:
    """Returns the names of the images in the files; numbers where a rebuilt file does not name each."""
    found = tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)
    return found if len(set(found)) == n == len(found) else tuple(f"{number:05}.png" for number in range(n))


def _fit(labels: Iterable[Any], classes: int) -> bool:
    return all(isinstance(label, (int, np.integer)) and 0 <= label < classes for label in labels)


def _class_names(path: Path, md5: str | None, files: CifarFiles) -> tuple[str, ...]:
    """Returns the names in the set's own list; numbers where that is missing and may be."""
    if md5 is None and not path.is_file():
        return tuple(str(label) for label in range(files.classes))
    names = _load(path, md5).get(files.names_key)
    if not isinstance(names, list) or len(names) != files.classes:
        raise DataError(f"'{path}' has no '{files.names_key}' of {files.classes} names. Give the official file.")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def _load(path: Path, md5: str | None) -> dict[str, Any]:
    """Returns the dictionary in a pickle, with text keys; a wrong md5 ends before anything is looked at."""
    if not path.is_file():
        raise MissingFileError(f"'{path}' is missing. Unpack the official archive again, or fetch it with --download.")
    raw = path.read_bytes()
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise DataError(
            f"'{path}' ({len(raw)} bytes) has the md5 {found}, the official file {md5}: it is damaged, cut short or "
            "another one. Unpack the official archive again, or take it as it is with --no-verify."
        )
    try:
        content = load_pickle(raw)
    except PickleError as error:
        raise DataError(f"'{path}' is damaged, cut short or no file of the official format ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"'{path}' holds a {type(content).__name__}, not a dictionary. Give the official file.")
    return {key.decode(errors="replace") if isinstance(key, bytes) else str(key): v for key, v in content.items()}
