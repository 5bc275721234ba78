"""Ultralytics' data set, without its habit of writing beside the user's images and of trusting what is there.

Ultralytics writes a cache of labels beside the label folders and unpickles it, encodes JPEGs anew that have bytes after
their end marker, leaves out in silence what it cannot use, and reads ``.npy`` files beside the images in any mode.
Here labels are read anew, no image is written, an image that cannot be used is an error, and ``.npy`` files are read
with ``cache=disk`` alone, and only while they belong to their image.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from PIL import Image
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import exif_size, get_split_fraction, verify_image_label
from ultralytics.utils import NUM_THREADS, TQDM, colorstr

from qreg_yolo.datasets.demo.write import default_cache_root
from qreg_yolo.datasets.image_io import is_whole, look
from qreg_yolo.errors import DataError
from qreg_yolo.io import files

SHOWN = 5
"""Faults that an error lists at most."""
MIN_SIDE = 10
"""Pixels; Ultralytics leaves smaller images out."""
Label = dict[str, Any]
"""The label of one image, as Ultralytics' data set holds it."""
_NOWHERE = Path(os.devnull) / "none"
"""A path that does not exist on any machine."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file of a data set."""

    path: Path
    """The image, or its label file."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def raise_if(faults: Sequence[object], summary: str, remedy: str) -> None:
    """Raises a `DataError` with the first few faults, where there are any."""
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise DataError("\n  ".join([f"{summary}. {remedy}", *map(str, faults[:SHOWN]), *more]))


def scan(
    pairs: Sequence[tuple[Path, Path]], n_classes: int, *, single_cls: bool, min_side: int = MIN_SIDE, title: str = ""
) -> list[Label | Fault]:
    """Returns Ultralytics' label of each image, or what is wrong with the image or its labels.

    Args:
        pairs: Image and label file of each; the label file need not exist.
        n_classes: Classes of the data.
        single_cls: Whether every object counts as of one class.
        min_side: Pixels that an image needs each way.
        title: What the progress bar says.
    """

    def one(pair: tuple[Path, Path]) -> Label | Fault:
        return _scan_one(*pair, n_classes, single_cls, min_side)

    with ThreadPool(NUM_THREADS) as pool:
        return list(TQDM(pool.imap(one, pairs), desc=title, total=len(pairs), disable=not title))


def _scan_one(image: Path, label: Path, n_classes: int, single_cls: bool, min_side: int) -> Label | Fault:
    if text := look(image, min_side)[0] if image.is_file() else "it does not exist":
        return Fault(image, text)
    with _unchanged(image) as readable:
        arguments = (str(readable), str(label), "", False, n_classes, 0, 0, single_cls)
        found, *_, message = YOLODataset.result_to_label(None, verify_image_label(arguments))
    if found is None:
        if label.is_file() and (text := label_fault(label, n_classes, single_cls)):
            return Fault(label, text)
        return Fault(image, str(message).partition("ignoring corrupt image/label: ")[2] or str(message))
    return {**found, "im_file": str(image)}


def usable(found: Sequence[Label | Fault], title: str) -> list[Label]:
    """Returns the labels, all of which can be used.

    Args:
        found: What `scan` returned.
        title: Whose images they are, for the error text.

    Raises:
        DataError: An image or a label file has a fault.
    """
    faults = [one for one in found if isinstance(one, Fault)]
    remedy = "Repair or remove the images; correct the label files, or the names in the data YAML."
    raise_if(faults, f"{title}: {len(faults)} of {len(found)} images or their labels cannot be used", remedy)
    return [one for one in found if not isinstance(one, Fault)]


@contextmanager
def _unchanged(image: Path) -> Iterator[Path]:
    """Gives the file that Ultralytics may check: where it would encode the image anew, a blank one of the same size."""
    if is_whole(image):
        yield image
        return
    with tempfile.TemporaryDirectory() as folder, Image.open(image) as picture:
        blank = Path(folder) / "blank.png"
        Image.new("1", exif_size(picture)).save(blank)
        yield blank


def label_fault(path: Path, n_classes: int, single_cls: bool = False) -> str | None:
    """Returns what is wrong with a label file, if anything: the first row that Ultralytics cannot use."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return "not a text file"
    rows = {number: line.split() for number, line in enumerate(lines, start=1) if line.strip()}
    for number, fields in rows.items():
        if fault := _row_fault(fields, n_classes, single_cls):
            return f"line {number}: {fault}"
    boxes = [number for number, fields in rows.items() if len(fields) == 5]
    if boxes and len(boxes) < len(rows):
        polygon = next(number for number in rows if number not in boxes)
        return f"line {boxes[0]} is a box and line {polygon} a polygon; a file may hold one kind"
    return None


def _row_fault(fields: Sequence[str], n_classes: int, single_cls: bool) -> str | None:
    """Returns what is wrong with one row of labels, if anything."""
    line = " ".join(fields)[:60]
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return f"'{line}' is not numbers"
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        return f"{len(values)} values, not 'class x y width height'"
    if not values[0].is_integer() or values[0] < 0 or (values[0] >= n_classes and not single_cls):
        return f"class {fields[0]}, but the data YAML names {n_classes} (0 to {n_classes - 1})"
    if any(not -0.01 <= value <= 1.01 for value in values[1:]):
        return f"'{line}' is not in fractions of the image (0 to 1)"
    return None


class DetectionDataset(YOLODataset):
    """`YOLODataset` that writes nothing beside the images and trusts nothing there.

    Args:
        scanned: Path of an image -> its label, where it was read already.
        kwargs: Ultralytics'.
    """

    def __init__(self, *args: Any, scanned: Mapping[str, Label] | None = None, **kwargs: Any) -> None:
        self._scanned = scanned or {}
        self._arrays: list[Path] = []
        super().__init__(*args, **kwargs)
        self._scanned = {}

    def get_labels(self) -> list[Label]:
        """Returns the label of every image.

        Raises:
            DataError: An image or its labels cannot be used; Ultralytics would leave it out.
        """
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
        """Where the decoded images are: beside the images with ``cache=disk``, nowhere otherwise."""
        return self._arrays if self.cache == "disk" else [_NOWHERE] * len(self._arrays)

    @npy_files.setter
    def npy_files(self, paths: list[Path]) -> None:
        self._arrays = paths

    def cache_images(self) -> None:
        """Keeps the decoded images as Ultralytics does; on disk, an array that is not of its image is written anew.

        Raises:
            DataError: A ``.npy`` file beside an image is not one that was written here: it stays as it is.
        """
        if self.cache != "disk":
            super().cache_images()
            return
        arrays = dict(zip(map(Path, self.im_files), self.npy_files, strict=True))
        ledgers = {folder: _Ledger(folder) for folder in dict.fromkeys(image.parent for image in arrays)}
        foreign = [array for image, array in arrays.items() if array.exists() and image not in ledgers[image.parent]]
        summary = f"{len(foreign)} .npy files beside the images were not written by qreg-yolo"
        raise_if(foreign, summary, "Move or delete them, or leave cache=disk out.")
        for image, array in arrays.items():
            if not ledgers[image.parent].is_current(image, array):
                array.unlink(missing_ok=True)
        for ledger in ledgers.values():  # before the arrays: after a kill they are still known as ours
            ledger.write()
        super().cache_images()
        for image, array in arrays.items():
            ledgers[image.parent].note(image, array)
        for ledger in ledgers.values():
            ledger.write()


class _Ledger:
    """Which content of its image each ``.npy`` file of a folder was made from; kept in our own cache folder.

    Args:
        folder: The folder of the images and arrays.
    """

    def __init__(self, folder: Path) -> None:
        name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()
        self._path = default_cache_root() / "npy" / f"{name[:32]}.json"
        try:
            self._entries: dict[str, list[Any]] = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing or damaged: nothing is known
            self._entries = {}

    def __contains__(self, image: Path) -> bool:
        return image.name in self._entries

    def is_current(self, image: Path, array: Path) -> bool:
        """Returns whether ``array`` is the file that was written from ``image`` as it is now; remembers the image."""
        before, digest = self._entries.get(image.name), files.sha256(image)
        current = array.is_file() and before == [digest, *_state(array)]
        self._entries[image.name] = before if current and before else [digest, None, None]
        return current

    def note(self, image: Path, array: Path) -> None:
        """Remembers an array that was written from ``image``."""
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
    """Returns the data set that Ultralytics' ``build_yolo_dataset`` builds for detection, of our class.

    Args:
        args: Ultralytics' arguments.
        img_path: Where the images are.
        batch: Images per batch.
        data: The data description.
        mode: ``train`` (augmented) or ``val``.
        rect: Whether batches are rectangular, beside ``args.rect``.
        stride: Of the model, pixels.
        scanned: Path of an image -> its label, where it was read already.
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
