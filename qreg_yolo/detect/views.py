"""Corrupted images as Ultralytics gives them to each model, decoded and corrupted once at native size.

A view is Ultralytics' dataset for one image size; resizing, letterbox, order and batches are Ultralytics' code.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils.patches import imread

from qreg_yolo.corrupt import corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.errors import DataError
from qreg_yolo.metrics.conditions import CLEAN, Condition
from qreg_yolo.robustness.journal import Task


class ViewKey(NamedTuple):
    """Properties of a model that determine its view of the images."""

    imgsz: int
    stride: int


class _InMemory(io.BytesIO):
    """An image that Ultralytics' ``load_image`` reads like one of its ``.npy`` files."""

    def exists(self) -> bool:
        return True


class View(YOLODataset):
    """Ultralytics' validation set at one image size, of given images; reads and writes no file.

    Args:
        images: The images and their labels.
        batch: Images per batch, for Ultralytics' rectangular shapes.
        key: Size and stride.
        single_cls: Whether all objects count as one class.
    """

    def __init__(self, images: ImageSet, batch: int, key: ViewKey, single_cls: bool) -> None:
        self._given = [{**label, "position": i} for i, label in enumerate(images.labels)]
        super().__init__(
            img_path=[label["im_file"] for label in self._given],
            data={"names": images.names, "nc": len(images.names), "channels": images.channels},
            imgsz=key.imgsz, cache=False, augment=False, rect=True, batch_size=batch, stride=key.stride, pad=0.5,
            single_cls=single_cls,
        )  # fmt: skip
        self.order = [int(label.pop("position")) for label in self.labels]
        """Index in the image set of each image, in Ultralytics' order."""
        del self._given
        self.cache = "disk"  # otherwise Ultralytics compares times of files

    def get_img_files(self, img_path: Any) -> list[str]:
        return list(img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        labels = deepcopy(self._given)
        self.verify_labels(labels, Path("the labels"))
        return labels

    def batch_of(self, part: slice, images: Sequence[Image]) -> dict[str, Any]:
        """Returns Ultralytics' batch of a part of the images (in its order), with the given pixels."""
        indices = range(len(self.order))[part]
        for index, image in zip(indices, images, strict=True):
            self.npy_files[index] = _InMemory()
            np.save(self.npy_files[index], image, allow_pickle=False)
            self.npy_files[index].seek(0)
        batch: dict[str, Any] = self.collate_fn([self[index] for index in indices])
        for index in indices:
            self.npy_files[index] = None
        return batch


class CorruptedBatches(Dataset[tuple[Task, list[dict[str, Any]]]]):
    """Batches of each task, one per view; the images of a batch are decoded once for all conditions.

    Args:
        images: The images and their labels.
        views: One per image size, all with the same order of images.
        parts: Images of each batch, in the views' order.
        options: Options of `corrupt`.
    """

    def __init__(
        self, images: ImageSet, views: Sequence[View], parts: Sequence[slice], options: Mapping[str, Any]
    ) -> None:
        self.images, self.views, self.parts, self.options = images, views, parts, options
        self._decoded: tuple[int, list[Image]] = (-1, [])

    def __getitem__(self, task: Task) -> tuple[Task, list[dict[str, Any]]]:
        condition, number = task
        chosen = self.views[0].order[self.parts[number]]
        if self._decoded[0] != number:
            self._decoded = (number, [self._decode(image) for image in chosen])
        corrupted = [
            self._corrupted(decoded, image, condition) for image, decoded in zip(chosen, self._decoded[1], strict=True)
        ]
        return task, [view.batch_of(self.parts[number], corrupted) for view in self.views]

    def _decode(self, image: int) -> Image:
        """Returns an image `(h, w, c)`, BGR as Ultralytics decodes it."""
        path = self.images.images[image].path
        decoded = imread(str(path), flags=self.views[0].cv2_flag)
        if decoded is None:
            raise DataError(f"{path} cannot be decoded. Repair or remove it; what was measured so far is kept.")
        return np.asarray(decoded, np.uint8)

    def _corrupted(self, decoded: Image, image: int, condition: Condition) -> Image:
        if condition[0] == CLEAN:
            return decoded
        colour = decoded.shape[2] == 3
        pixels = decoded[..., ::-1] if colour else decoded[..., 0]
        result = corrupt(pixels, *condition, key=self.images.images[image].key, **self.options)
        return np.ascontiguousarray(result[..., ::-1] if colour else result[..., None])


def clean_batches(images: ImageSet, batch: int, key: ViewKey, single_cls: bool) -> Iterator[dict[str, Any]]:
    """Yields Ultralytics' batches of the images as validation sees them; arguments as `View`."""
    view = View(images, batch, key, single_cls)
    parts = [slice(start, start + batch) for start in range(0, len(images.images), batch)]
    plain = CorruptedBatches(images, [view], parts, {})
    for number in range(len(parts)):
        _, (found,) = plain[(CLEAN, 0), number]
        yield found


def load(batches: CorruptedBatches, tasks: Iterable[Task], workers: int) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """Returns the batches of the tasks; they do not depend on the number of worker processes (0: this process)."""
    loader: DataLoader[Any] = DataLoader(
        batches,
        batch_size=None,
        sampler=_interleaved(sorted(tasks, key=lambda task: task[1]), max(workers, 1)),
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker if workers else None,
    )
    return iter(loader)


def _interleaved(tasks: list[Task], workers: int) -> list[Task]:
    """Returns sorted tasks reordered so that each worker, served in turn, keeps to the same batch of images."""
    numbers = list(dict.fromkeys(number for _, number in tasks))
    mine = {number: i % workers for i, number in enumerate(numbers)}
    queues = [[task for task in tasks if mine[task[1]] == worker] for worker in range(workers)]
    longest = max(map(len, queues))
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(number: int) -> None:
    del number
    cv2.setNumThreads(0)  # one core each
    torch.set_num_threads(1)
