"""The images of a measurement with their labels: read by the host's own check, without its cache, nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import verify_image_label
from ultralytics.utils import DATASETS_DIR

from qreg_yolo.detect.data_check import DataError, raise_if
from qreg_yolo.sets.sources import SourceError, SourceImage, read_source, select_images

Label = dict[str, Any]
"""What the host's dataset knows of one image."""


@dataclass(frozen=True)
class ImageSet:
    """The images that are measured, in the host's order of paths."""

    yaml: Path
    split: str
    images: tuple[SourceImage, ...]
    labels: tuple[Label, ...]
    """One per image."""
    names: dict[int, str]
    """Class id -> name."""
    channels: int
    left_out: tuple[str, ...]
    """Images that cannot be used, and why (with ``skip_bad``)."""


def read_images(
    yaml: Path, split: str | None, *, limit: int | None, min_side: int, single_cls: bool, skip_bad: bool
) -> ImageSet:
    """Returns the images and labels of a split, after a look at every image's header and label file.

    Args:
        yaml: The data description.
        split: ``train``, ``val`` or ``test``; None: ``test`` where there is one, else ``val``.
        limit: A fixed random subset of so many images; None: all.
        min_side: Px; smaller images are refused.
        single_cls: Whether every object counts as of one class.
        skip_bad: Leave out what cannot be used, instead of refusing.

    Raises:
        DataError: No such split, images that cannot be used, or no labels at all.
    """
    try:
        source = read_source(yaml, split, datasets_dir=Path(DATASETS_DIR))
    except SourceError as error:
        raise DataError(str(error)) from error
    if not source.names:
        raise DataError(f"{yaml} has no 'names'. Add it: a list of the classes.")
    kept: list[SourceImage] = []
    labels: list[Label] = []
    faults = []
    chosen = select_images(source.images, limit)
    for image in chosen:
        label = _labelled(image, len(source.names), min_side, single_cls)
        if isinstance(label, str):
            faults.append(f"{image.path}: {label}")
        else:
            kept.append(image)
            labels.append(label)
    if not skip_bad or not kept:
        summary = f"{source.split}: {len(faults)} of {len(chosen)} images cannot be used"
        raise_if(faults, summary, "Repair or remove them, or leave them out with --skip-bad.")
    if not any(image.label.is_file() for image in kept):
        raise DataError(
            f"{source.split}: none of {len(kept)} images has a label file. The first one's is looked for at "
            f"'{kept[0].label}'."
        )
    return ImageSet(
        yaml, str(source.split), tuple(kept), tuple(labels), source.names, source.channels, tuple(faults)
    )  # fmt: skip


def _labelled(image: SourceImage, n_classes: int, min_side: int, single_cls: bool) -> Label | str:
    """Returns the host's label of an image, or what is wrong with the image or its labels."""
    if not image.path.is_file():
        return "does not exist"
    if _is_cut_short(image.path):  # the host's check would write it anew, into its owner's folder
        return "a JPEG that is cut short: it lacks its end marker"
    result = verify_image_label(
        (str(image.path), str(image.label), "", False, n_classes, 0, 0, single_cls)
    )  # fmt: skip
    label, *_, message = YOLODataset.result_to_label(None, result)
    if label is None:
        return str(message).partition("ignoring corrupt image/label: ")[2] or str(message)
    if min(label["shape"]) < min_side:
        height, width = label["shape"]
        return f"{width} x {height} pixels; corruptions need {min_side} or more each way"
    return dict(label)


def _is_cut_short(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            is_jpeg = image.format in ("JPEG", "MPO")
    except Exception:  # no image at all: the host's check says so
        return False
    with path.open("rb") as file:
        file.seek(-2, 2)
        return is_jpeg and file.read() != b"\xff\xd9"
