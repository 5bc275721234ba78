"""Ultralytics' dataset, without writing into the user's folders and without trusting files there.

Ultralytics writes a cache of labels into the label folders and unpickles it, re-encodes JPEGs that have bytes after
their end marker, silently skips unusable images, and always reads ``.npy`` files in the image folders. Here the images
are those of `list_images`, labels are read anew, no image is written, an unusable image is an error, and ``.npy`` files
are read with ``cache=disk`` only, as long as they belong to their image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_file_speeds, get_split_fraction
from ultralytics.utils import colorstr

from qreg_yolo.datasets.demo.write import default_cache_root
from qreg_yolo.datasets.sources import list_images
from qreg_yolo.detect.data_check import Fault, Label, scan, usable
from qreg_yolo.errors import DataError, fault_list
from qreg_yolo.io import files

_NOWHERE = Path(os.devnull) / "none"
"""A path that does not exist on any machine."""


class DetectionDataset(YOLODataset):
    """`YOLODataset` that writes no label cache and trusts no file in the image folders.

    Args:
        scanned: Image path -> label, for images that were read already.
        kwargs: Ultralytics'.
    """

    def __init__(self, *args: Any, scanned: Mapping[str, Label] | None = None, **kwargs: Any) -> None:
        self._scanned = scanned or {}
        self._arrays: list[Path] = []
        super().__init__(*args, **kwargs)
        self._scanned = {}

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Returns the first ``fraction`` of the images of `list_images`, with its errors."""
        places = [Path(place) for place in (img_path if isinstance(img_path, list) else [img_path])]
        found = [str(image) for image, _ in list_images(places, self.prefix.strip() or "The dataset")]
        count = self.fraction if isinstance(self.fraction, int) else max(1, round(len(found) * self.fraction))
        check_file_speeds(found[:count], prefix=self.prefix)
        return found[:count]

    def get_labels(self) -> list[Label]:
        """Returns the label of every image; raises `DataError` if one is unusable."""
        pairs = [(Path(image), Path(label)) for image, label in zip(self.im_files, self.get_label_files(), strict=True)]
        if all(image in self._scanned for image in self.im_files):
            found: list[Label | Fault] = [deepcopy(self._scanned[image]) for image in self.im_files]
        else:
            found = scan(pairs, len(self.data["names"]), single_cls=self.single_cls, title=f"{self.prefix}Scanning")
        labels = usable(found, "train" if self.augment else "val")
        self.verify_labels(labels, pairs[0][1].parent)
        return labels

    @property
    def npy_files(self) -> list[Path]:
        """Files of the decoded images: in the image folders with ``cache=disk``, else none."""
        return self._arrays if self.cache == "disk" else [_NOWHERE] * len(self._arrays)

    @npy_files.setter
    def npy_files(self, paths: list[Path]) -> None:
        self._arrays = paths

    def cache_images(self) -> None:
        """Caches the decoded images as Ultralytics does; on disk, outdated arrays are written anew.

        Raises:
            DataError: A ``.npy`` file that was not written here (it stays unchanged), or two images that share one.
        """
        if self.cache != "disk":
            super().cache_images()
            return
        owners: dict[Path, Path] = {}
        arrays = dict(zip(map(Path, self.im_files), self.npy_files, strict=True))
        if shared := [image for image, array in arrays.items() if owners.setdefault(array, image) != image]:
            raise DataError(
                f"{len(shared)} images differ from another one only in their suffix, and cache=disk keeps one .npy "
                f"file for both. Rename them, or omit cache=disk.{fault_list(shared)}"
            )
        ledgers = {folder: _Ledger(folder) for folder in dict.fromkeys(image.parent for image in arrays)}
        foreign = [array for image, array in arrays.items() if array.exists() and image not in ledgers[image.parent]]
        if foreign:
            raise DataError(
                f"{len(foreign)} .npy files next to the images were not written by qreg-yolo. Move or delete them, or "
                f"omit cache=disk.{fault_list(foreign)}"
            )
        for image, array in arrays.items():
            if not ledgers[image.parent].is_current(image, array):
                array.unlink(missing_ok=True)
        for ledger in ledgers.values():  # before the arrays, so that they are known as ours after a kill
            ledger.write()
        super().cache_images()
        for image, array in arrays.items():
            ledgers[image.parent].note(image, array)
        for ledger in ledgers.values():
            ledger.write()


class _Ledger:
    """Record, in our own cache folder, of the image contents that a folder's ``.npy`` files were made from."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()
        self._path = default_cache_root() / "npy" / f"{name[:32]}.json"
        try:
            self._entries: dict[str, list[Any]] = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing or damaged
            self._entries = {}

    def __contains__(self, image: Path) -> bool:
        return image.name in self._entries

    def is_current(self, image: Path, array: Path) -> bool:
        """Returns whether ``array`` was written from the current ``image``; records the image."""
        before, digest = self._entries.get(image.name), files.sha256(image)
        current = array.is_file() and before == [digest, *_state(array)]
        self._entries[image.name] = before if current and before else [digest, None, None]
        return current

    def note(self, image: Path, array: Path) -> None:
        """Records an array that was written from ``image``."""
        if array.is_file():
            self._entries[image.name][1:] = _state(array)

    def write(self) -> None:
        """Writes the ledger."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(self._path, json.dumps(self._entries, indent=0) + "\n")


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def build_dataset(
    args: Any,
    img_path: str | list[str],
    batch: int | None,
    data: Mapping[str, Any],
    *,
    mode: str,
    rect: bool,
    stride: int,
    scanned: Mapping[str, Label] | None = None,
) -> DetectionDataset:
    """Returns the dataset of Ultralytics' ``build_yolo_dataset`` as a `DetectionDataset`.

    Args:
        args: Ultralytics' arguments.
        img_path: Images, folders or lists.
        batch: Images per batch.
        data: The data description.
        mode: ``train`` (augmented) or ``val``.
        rect: Whether batches are rectangular; ``args.rect`` makes them so too.
        stride: Stride of the model, px.
        scanned: As `DetectionDataset`.
    """
    return DetectionDataset(
        img_path=img_path,
        imgsz=args.imgsz,
        batch_size=batch,
        augment=mode == "train",
        hyp=args,
        rect=args.rect or rect,
        cache=args.cache or None,
        single_cls=args.single_cls or False,
        stride=stride,
        pad=0.0 if mode == "train" else 0.5,
        prefix=colorstr(f"{mode}: "),
        task=args.task,
        classes=args.classes,
        data=data,
        fraction=get_split_fraction(args.fraction, "train" if mode == "train" else args.split or "val"),
        scanned=scanned,
    )
