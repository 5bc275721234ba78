"""Check of images and labels before the work, by Ultralytics but without its cache and without writing a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import exif_size, verify_image_label
from ultralytics.nn.autobackend import check_class_names
from ultralytics.utils import DATASETS_DIR, NUM_THREADS, TQDM

from qreg_yolo.datasets.image_io import Look, look
from qreg_yolo.datasets.labels import label_fault
from qreg_yolo.datasets.sources import SourceImage, read_source, select_images
from qreg_yolo.errors import DataError, fault_list

MIN_SIDE = 10
"""Smallest side of images, px; Ultralytics ignores smaller ones."""
Label = dict[str, Any]
"""Label of one image in Ultralytics' format."""


@dataclass(frozen=True)
class Fault:
    """A fault of an image or of its label file."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True)
class ImageSet:
    """The checked images of one split with their labels, in Ultralytics' order."""

    yaml: Path
    split: str
    images: tuple[SourceImage, ...]
    labels: tuple[Label, ...] = field(repr=False)
    """One per image."""
    names: dict[int, str]
    """Class id -> name."""
    channels: int
    left_out: tuple[str, ...]
    """Unusable images with the reason (with ``skip_bad``)."""

    @property
    def scanned(self) -> dict[str, Label]:
        """Image path -> label."""
        return {label["im_file"]: label for label in self.labels}

    def n_classes(self, *, single_cls: bool) -> int:
        """Returns the number of classes."""
        return 1 if single_cls else len(self.names)

    def renumbered(self, rows: Sequence[int], names: Sequence[str]) -> ImageSet:
        """Returns the images with a model's class numbers in their labels.

        Args:
            rows: Class of the model for each class of the data.
            names: The model's classes.
        """
        numbers = np.asarray(rows, np.float32)
        labels = tuple({**label, "cls": numbers[label["cls"].astype(int)]} for label in self.labels)
        return replace(self, labels=labels, names=dict(enumerate(names)))


def datasets_dir() -> Path:
    """Returns Ultralytics' folder of datasets."""
    return Path(DATASETS_DIR)


def check_data(
    yaml: Path,
    split: str | None,
    *,
    single_cls: bool = False,
    limit: int | None = None,
    min_side: int = MIN_SIDE,
    skip_bad: bool | None = None,
) -> ImageSet:
    """Returns the images and labels of a split, after checking every image header and label file.

    Args:
        yaml: The data YAML.
        split: ``train``, ``val`` or ``test``; None: ``test`` if the YAML has one, else ``val``.
        single_cls: Whether all objects count as one class, so that a label's class number does not matter.
        limit: Size of a fixed random subset; None: all images.
        min_side: Smallest allowed side of an image, px.
        skip_bad: Whether to skip unusable images instead of raising; None: raise, the command has no ``--skip-bad``.

    Raises:
        FileNotFoundError: No such file.
        DataError: An unusable YAML, split or list (`read_source`), an unreadable image, a malformed label, a class
            beyond the names, or no label file at all.
    """
    source = read_source(yaml, split, datasets_dir=datasets_dir)
    if source.split is None:
        raise DataError(f"'{yaml}' is a folder. Give a data YAML, which has the class names.")
    names: dict[int, str] = check_class_names(source.names)  # translates ImageNet's codes, as for training
    chosen = select_images(source.images, limit)
    found = scan(
        [(image.path, image.label) for image in chosen],
        len(names),
        single_cls=single_cls,
        min_side=min_side,
        title=f"{source.split}: Checking images and labels",
    )
    faults = [str(one) for one in found if isinstance(one, Fault)]
    if not skip_bad or len(faults) == len(chosen):
        usable(found, source.split, ", or leave them out with --skip-bad" if skip_bad is False else "")
    pairs = [(image, label) for image, label in zip(chosen, found, strict=True) if not isinstance(label, Fault)]
    images, labels = (tuple(column) for column in zip(*pairs, strict=True))
    if not any(image.label.is_file() for image in images):
        raise DataError(
            f"{source.split}: none of {len(images)} images has a label file. The first one's is looked for at "
            f"'{images[0].label}'."
        )
    return ImageSet(yaml, source.split, images, labels, names, source.channels, tuple(faults) if skip_bad else ())


def scan(
    pairs: Sequence[tuple[Path, Path]], n_classes: int, *, single_cls: bool, min_side: int = MIN_SIDE, title: str = ""
) -> list[Label | Fault]:
    """Returns Ultralytics' label of each image, or the fault of the image or its label file.

    Args:
        pairs: Image and label file of each; the label file need not exist.
        n_classes: Classes of the data.
        single_cls: Whether all objects count as one class.
        min_side: Smallest allowed side of an image, px.
        title: Text of the progress bar; empty: no bar.
    """
    one = partial(_scan_one, n_classes=n_classes, single_cls=single_cls, min_side=min_side)
    with ThreadPool(NUM_THREADS) as pool:
        return list(TQDM(pool.imap(one, pairs), desc=title, total=len(pairs), disable=not title))


def _scan_one(pair: tuple[Path, Path], n_classes: int, single_cls: bool, min_side: int) -> Label | Fault:
    image, label = pair
    seen = look(image, min_side) if image.is_file() else Look("it does not exist")
    if seen.fault:
        return Fault(image, seen.fault)
    with _unchanged(image, seen.whole) as readable:
        arguments = (str(readable), str(label), "", False, n_classes, 0, 0, single_cls)
        found, *_, message = YOLODataset.result_to_label(None, verify_image_label(arguments))
    if found is None:
        if label.is_file() and (text := label_fault(label, n_classes, single_cls)):
            return Fault(label, text)
        return Fault(image, str(message).partition("ignoring corrupt image/label: ")[2] or str(message))
    return {**found, "im_file": str(image)}


def usable(found: Sequence[Label | Fault], split: str, also: str = "") -> list[Label]:
    """Returns the labels of a scan; raises `DataError` if it has faults, with ``also`` as another remedy."""
    if faults := [one for one in found if isinstance(one, Fault)]:
        raise DataError(
            f"{split}: {len(faults)} of {len(found)} images or their labels cannot be used. Repair or remove the "
            f"images; correct the label files, or the names in the data YAML{also}.{fault_list(faults)}"
        )
    return [one for one in found if not isinstance(one, Fault)]


@contextmanager
def _unchanged(image: Path, whole: bool) -> Iterator[Path]:
    """Yields a file for Ultralytics to check: a blank one of the same size if it would re-encode the image."""
    if whole:
        yield image
        return
    with tempfile.TemporaryDirectory() as folder, Image.open(image) as opened:
        blank = Path(folder) / "blank.png"
        Image.new("1", exif_size(opened)).save(blank)
        yield blank
