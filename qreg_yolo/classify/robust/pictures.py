"""The images of a cell in batches: as they are, corrupted on the way, or from published files."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qreg_yolo.classify.data import ImageSet
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.datasets.corrupted.cifar import Chunk, Published, corrupt_chunk
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.metrics.conditions import CLEAN, Condition

Task = tuple[Condition, int]
"""One batch of images, by number, under one corruption."""


@dataclass(frozen=True)
class Corrupting:
    """How images are corrupted."""

    seed: int
    preset: str
    frost: Path | None
    """Folder of frost overlays; None: what `load_overlays` finds."""
    workers: int
    """Processes; 0: this one. They load neither torch nor a model."""


class Batches:
    """The batches of a data set under every corruption; the same for any number of worker processes.

    Args:
        images: The clean images, on the CPU.
        size: Images per batch.
        source: How to corrupt, or files where that is done.
    """

    def __init__(self, images: ImageSet, size: int, source: Corrupting | Published) -> None:
        self.images, self.size, self.source = images, size, source
        self.clean: Image = images.images.numpy()

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def part(self, number: int) -> slice:
        """Returns which images a batch holds."""
        return slice(number * self.size, min((number + 1) * self.size, len(self.images)))

    def shown(self, tasks: Sequence[Task]) -> Generator[Image, None, None]:
        """Yields the images of each task, uint8 `(k, 32, 32, 3)`, in order; to be closed."""
        corrupted = self._corrupted([task for task in tasks if task[0][0] != CLEAN])
        with closing(corrupted):
            for (name, _), number in tasks:
                yield self.clean[self.part(number)] if name == CLEAN else next(corrupted)

    def _corrupted(self, tasks: Sequence[Task]) -> Generator[Image, None, None]:
        if isinstance(self.source, Published):
            for (name, severity), number in tasks:
                yield self.source.images(name, severity, self.part(number))
        else:
            how = self.source
            function = partial(corrupt_chunk, seed=how.seed, preset=how.preset, frost=how.frost)
            with closing(run_ordered(function, self._chunks(tasks), how.workers)) as results:
                yield from results

    def _chunks(self, tasks: Sequence[Task]) -> Iterator[Chunk]:
        for (name, severity), number in tasks:
            part = self.part(number)
            yield Chunk(self.clean[part], self.images.keys[part], name, severity)
