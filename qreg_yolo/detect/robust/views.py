"""Corrupted images as the host would hand them to each model: decoded once, corrupted once at native size.

A view is the host's own dataset for one image size; its resizing, letterbox, order and batches are the host's code.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.patches import imread

from qreg_yolo.corrupt import corrupt
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.errors import DataError
from qreg_yolo.metrics.conditions import CLEAN, Condition

Task = tuple[int, Condition]
"""One batch of images under one corruption."""
Picture = NDArray[np.uint8]
"""`(h, w, c)`, BGR as the host decodes."""


@dataclass(frozen=True)
class ViewKey:
    """What a model's view of the images depends on."""

    imgsz: int
    stride: int


@dataclass(frozen=True)
class Corrupting:
    """How images are corrupted."""

    seed: int
    preset: str
    frost: Path | None
    """Folder of frost overlays; None: what `load_overlays` finds."""


class _InMemory(io.BytesIO):
    """A picture that the host's ``load_image`` takes for one of its ``.npy`` files."""

    def exists(self) -> bool:
        return True


class View(YOLODataset):
    """The host's validation set at one image size, of pictures that are given to it; it reads and writes no file.

    Args:
        images: The images and their labels.
        batch: Images per batch, for the host's rectangular shapes.
        key: Size and stride.
        single_cls: Whether all objects are of one class.
    """

    def __init__(self, images: ImageSet, batch: int, key: ViewKey, single_cls: bool) -> None:
        self._given = [{**label, "position": i} for i, label in enumerate(images.labels)]
        super().__init__(
            img_path=[label["im_file"] for label in self._given],
            data={"names": images.names, "nc": len(images.names), "channels": images.channels},
            imgsz=key.imgsz,
            cache=False,
            augment=False,
            rect=True,
            batch_size=batch,
            stride=key.stride,
            pad=0.5,
            single_cls=single_cls,
        )
        self.order = [int(label.pop("position")) for label in self.labels]
        """Index into the image set of each image, in the host's order."""
        del self._given
        self.cache = "disk"  # no comparison of times with a file beside the image

    def get_img_files(self, img_path: Any) -> list[str]:
        return list(img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        labels = deepcopy(self._given)
        self.verify_labels(labels, Path("the labels"))
        return labels

    def batch_of(self, indices: Sequence[int], pictures: Sequence[Picture]) -> dict[str, Any]:
        """Returns the host's batch of some of its images (by the host's order), showing the given pictures."""
        for index, picture in zip(indices, pictures, strict=True):
            self.npy_files[index] = _InMemory()
            np.save(self.npy_files[index], picture, allow_pickle=False)
            self.npy_files[index].seek(0)
        batch: dict[str, Any] = self.collate_fn([self[index] for index in indices])
        for index in indices:
            self.npy_files[index] = None
        return batch


class CorruptedBatches(Dataset[tuple[Task, list[dict[str, Any]]]]):
    """Batches by (batch, cell), one per view; the pictures of a batch are decoded once for all its cells.

    Args:
        images: The images and their labels.
        views: One per image size; all have the same order of images.
        batch: Images per batch.
        corrupting: How to corrupt.
    """

    def __init__(self, images: ImageSet, views: Sequence[View], batch: int, corrupting: Corrupting) -> None:
        self.images, self.views, self.batch, self.corrupting = images, views, batch, corrupting
        self.order = views[0].order
        self._decoded: tuple[int, list[Picture]] = (-1, [])

    @property
    def n_batches(self) -> int:
        """How many batches the images make."""
        return -(-len(self.order) // self.batch)

    def members(self, number: int) -> range:
        """Returns the images of a batch, by the host's order."""
        return range(number * self.batch, min((number + 1) * self.batch, len(self.order)))

    def __getitem__(self, task: Task) -> tuple[Task, list[dict[str, Any]]]:
        number, cell = task
        if self._decoded[0] != number:
            self._decoded = (number, [self._decode(self.order[i]) for i in self.members(number)])
        pictures = [
            self._corrupted(picture, self.order[i], cell)
            for i, picture in zip(self.members(number), self._decoded[1], strict=True)
        ]
        return task, [view.batch_of(self.members(number), pictures) for view in self.views]

    def _decode(self, image: int) -> Picture:
        path = self.images.images[image].path
        picture = imread(str(path), flags=self.views[0].cv2_flag)
        if picture is None:
            raise DataError(f"{path} cannot be decoded. Repair or remove it; what was measured so far is kept.")
        return np.asarray(picture, np.uint8)

    def _corrupted(self, picture: Picture, image: int, cell: Condition) -> Picture:
        name, severity = cell
        if name == CLEAN:
            return picture
        colour = picture.shape[2] == 3
        how = self.corrupting
        result = corrupt(
            picture[..., ::-1] if colour else picture[..., 0],
            name,
            severity,
            seed=how.seed,
            key=self.images.images[image].key,
            preset=how.preset,
            frost=how.frost,
        )
        return np.ascontiguousarray(result[..., ::-1] if colour else result[..., None])


def load(batches: CorruptedBatches, tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """Returns the batches of some tasks; the result is the same for any number of worker processes.

    Args:
        batches: Where they come from.
        tasks: Which, sorted by batch.
        workers: Processes that decode and corrupt; 0: this one.
    """
    loader: DataLoader[Any] = DataLoader(
        batches,
        batch_size=None,
        sampler=_interleaved(list(tasks), workers),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker if workers else None,
    )
    return iter(loader)


def _interleaved(tasks: list[Task], workers: int) -> list[Task]:
    """Returns the tasks in an order in which each worker, served in turn, keeps to one batch of images."""
    if workers < 2:
        return tasks
    by_batch: dict[int, list[Task]] = {}
    for task in tasks:
        by_batch.setdefault(task[0], []).append(task)
    queues: list[list[Task]] = [[] for _ in range(workers)]
    for i, batch in enumerate(by_batch.values()):
        queues[i % workers] += batch
    longest = max(map(len, queues))
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(number: int) -> None:
    del number
    cv2.setNumThreads(0)  # one core each
    torch.set_num_threads(1)
