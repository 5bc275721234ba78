"""Sets of 32-pixel images as whole tensors, and the batches that training and evaluation take from them.

An epoch's order, crops and flips are drawn at once, on the CPU, from the seed and the epoch alone: every network that
is trained with a seed sees the same images on every device, and so does a run that is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from qreg_yolo.datasets.cifar import LabelledImages
from qreg_yolo.training.environment import epoch_seed

PADDING = 4
"""Black pixels around an image before it is cropped back to its size."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A labelled set of images."""

    name: str
    """`demo` | `cifar10` | `cifar100`."""
    split: str
    """`train` | `val` | `test`."""
    images: Tensor
    """uint8 `(n, height, width, 3)`, RGB."""
    labels: Tensor
    """int64 `(n,)`."""
    classes: tuple[str, ...]
    """Names by label."""
    mean: tuple[float, float, float]
    """Per channel of the training set, 0..1; images are normalised with it."""
    std: tuple[float, float, float]
    """Likewise, the standard deviation over all pixels."""
    keys: tuple[str, ...] = ()
    """The name of each image; it seeds the image's corruptions."""

    @classmethod
    def of(cls, source: LabelledImages) -> ImageSet:
        """Returns a dataset as tensors."""
        return cls(
            **{**vars(source), "images": torch.from_numpy(source.images), "labels": torch.from_numpy(source.labels)}
        )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSet:
        """Returns the set with its tensors on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, chosen: Sequence[int]) -> ImageSet:
        """Returns some of the images, in that order."""
        rows = torch.as_tensor(chosen, device=self.images.device)
        keys = tuple(self.keys[i] for i in chosen)
        return replace(self, images=self.images[rows], labels=self.labels[rows], keys=keys)

    def showing(self, images: Tensor) -> ImageSet:
        """Returns the set with other pixels for its images.

        Args:
            images: uint8 `(n, height, width, 3)`.
        """
        return replace(self, images=images)

    def renumbered(self, rows: Sequence[int] | None) -> ImageSet:
        """Returns the set with the labels of a model that has the classes in another order.

        Args:
            rows: The model's class of each class here; None: as here.
        """
        if rows is None:
            return self
        return replace(self, labels=torch.as_tensor(rows, device=self.labels.device)[self.labels])

    def normalised(self, images: Tensor) -> Tensor:
        """Returns ``(x / 255 - mean) / std`` as float32 `(n, 3, h, w)`, channels last in memory.

        Args:
            images: uint8 `(n, h, w, 3)`.
        """
        scale = 255.0 * torch.tensor(self.std, device=images.device)
        shift = torch.tensor(self.mean, device=images.device) / torch.tensor(self.std, device=images.device)
        return (images.float() / scale - shift).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Draws:
    """The random numbers of an epoch."""

    order: Tensor
    """int64 `(n,)`: the order of the images."""
    corners: Tensor
    """int64 `(n, 2)`: row and column where each crop begins, 0..2 `PADDING`."""
    flips: Tensor
    """bool `(n,)`: whether a crop is mirrored left to right."""


def draw_epoch(n: int, seed: int, epoch: int) -> Draws:
    """Returns the order, crops and flips of an epoch (counted from 0) over ``n`` images."""
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    order = torch.randperm(n, generator=generator)
    corners = torch.randint(0, 2 * PADDING + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5
    return Draws(order, corners, flips)


def crop_and_flip(images: Tensor, corners: Tensor, flips: Tensor) -> Tensor:
    """Returns uint8 `(n, h, w, 3)`: each image padded by black, cropped at its corner and mirrored where it says so."""
    n, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    rows = corners[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, -1)
    columns = corners[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    pixels = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    pixels += torch.arange(n, device=images.device)[:, None, None] * ((height + 2 * PADDING) * (width + 2 * PADDING))
    return padded.view(-1, channels)[pixels.view(-1)].view(n, height, width, channels)


def batch_size(data: ImageSet, batch: int) -> int:
    """Returns the images per step: ``batch``, or the whole of a smaller set."""
    return min(batch, len(data))


def training_batches(
    data: ImageSet, *, batch: int, seed: int, epoch: int, augment: bool, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised images and labels, every step of an epoch; an incomplete last batch is left out.

    Args:
        data: The training set.
        batch: Images per step, of all processes together.
        seed: Of the run.
        epoch: Counted from 0.
        augment: Whether to crop and flip.
        rank: Of this process; it gets its part of each batch.
        world_size: Number of processes.
    """
    draws = draw_epoch(len(data), seed, epoch)
    share = batch // world_size
    for start in range(0, len(data) - batch + 1, batch):
        chosen = slice(start + rank * share, start + (rank + 1) * share)
        index, corners, flips = (t[chosen].to(data.images.device) for t in (draws.order, draws.corners, draws.flips))
        images = data.images[index]
        if augment:
            images = crop_and_flip(images, corners, flips)
        yield data.normalised(images), data.labels[index]


def evaluation_batches(data: ImageSet, *, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised images and labels in their own order, all of them."""
    for start in range(0, len(data), batch):
        yield data.normalised(data.images[start : start + batch]), data.labels[start : start + batch]
