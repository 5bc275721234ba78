"""The images of a measurement with their labels: read by the host's own check, without its cache, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ultralytics.utils import DATASETS_DIR

from qreg_yolo.datasets.sources import SourceImage, read_source, select_images
from qreg_yolo.detect.dataset import Fault, Label, raise_if, scan
from qreg_yolo.errors import DataError


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

    def n_classes(self, *, single_cls: bool) -> int:
        """Returns how many classes are told apart."""
        return 1 if single_cls else len(self.names)

    def renumbered(self, rows: Sequence[int], names: Sequence[str]) -> ImageSet:
        """Returns the images with the labels' classes as a model numbers them.

        Args:
            rows: Class of the model, for each class of the data.
            names: The model's classes.
        """
        numbers = np.asarray(rows, np.float32)
        labels = tuple({**label, "cls": numbers[label["cls"].astype(int)]} for label in self.labels)
        return replace(self, labels=labels, names=dict(enumerate(names)))


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
    except DataError as error:
        raise DataError(str(error)) from error
    if not source.names:
        raise DataError(f"{yaml} has no 'names'. Add it: a list of the classes.")
    kept: list[SourceImage] = []
    labels: list[Label] = []
    faults = []
    chosen = select_images(source.images, limit)
    found = scan(
        [(image.path, image.label) for image in chosen],
        len(source.names),
        single_cls=single_cls,
        min_side=min_side,
        title=f"{source.split}: Checking images and labels",
    )
    for image, label in zip(chosen, found, strict=True):
        if isinstance(label, Fault):
            faults.append(str(label))
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
