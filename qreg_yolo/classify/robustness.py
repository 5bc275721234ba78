"""Many classifiers on clean and corrupted images in one pass: each batch is corrupted once and shown to every model.

Nothing is written beside the results. What is measured is kept batch by batch, so that a run that was killed goes on
where it was, and a further model, corruption or severity costs only itself. The clean cell is what ``classify val``
measures; corrupted images are those that ``qreg-yolo corrupt`` writes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.datasets import load_measured
from qreg_yolo.classify.evaluate import BATCH
from qreg_yolo.classify.robust.models import Candidate, candidates_for, data_of, load_all
from qreg_yolo.classify.robust.pictures import Batches, Corrupting, Task
from qreg_yolo.classify.setup import prepare
from qreg_yolo.corrupt import NAMES, SEVERITIES, load_overlays
from qreg_yolo.datasets.corrupted.cifar import Published
from qreg_yolo.datasets.corrupted.pool import default_workers
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.io.locks import FolderLock, terminable
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import Condition, conditions_of
from qreg_yolo.metrics.predictions import ACCURACIES, ImagePredictions, accuracy
from qreg_yolo.robustness import settings
from qreg_yolo.robustness.checks import check_corruptions, check_counts
from qreg_yolo.robustness.journal import Journal
from qreg_yolo.robustness.results import Values, conclude, finished, known_before, outstanding, summary
from qreg_yolo.terminal import Progress, no_progress

PRESET = "cifar32"
PUBLISHED = "published"
"""What the records call the preset of published files."""


@dataclass(frozen=True, kw_only=True)
class RobustnessRequest:
    """Which models to measure on what; None: as it was in their training, or a default."""

    weights: Sequence[Path]
    project: Path
    """Folder of the output folder."""
    name: str | None = None
    """Name of the output folder; None: that of the data set. One that holds measurements with the same settings is
    added to."""
    data: str | None = None
    """``demo``, ``cifar10`` or ``cifar100``."""
    data_dir: str | None = None
    verify: bool = True
    """Whether the data files have to be the official ones."""
    model: str | None = None
    """The checkpoints' own ``package.module:factory``."""
    published: Path | None = None
    """Folder of CIFAR-10-C's or CIFAR-100-C's ``.npy`` files, instead of corrupting."""
    corruptions: Sequence[str] = NAMES
    severities: Sequence[int] = SEVERITIES
    limit: int | None = None
    """A fixed random subset of so many images; None: all."""
    batch: int | None = None
    """Images per batch; None: as `evaluate` takes them."""
    seed: int | None = None
    """Of the corruptions; None: 0."""
    preset: str | None = None
    """None: `PRESET`."""
    frost_dir: Path | None = None
    workers: int | None = None
    """Processes that corrupt; None: 0 on the CPU, where the models take the cores anyway, else a few."""
    device: str | None = None
    threads: int | None = None

    @property
    def cells(self) -> list[Condition]:
        """Clean, then every corruption at every severity."""
        return conditions_of(self.corruptions, self.severities)


@dataclass(frozen=True)
class RobustnessResult:
    """Where the measurements lie and what they are."""

    folder: Path
    table: str
    """For a terminal."""


def measure(request: RobustnessRequest, progress: Progress = no_progress) -> RobustnessResult:
    """Measures all models on clean and corrupted images; returns where the records lie and a summary.

    Raises:
        ConfigError: A value that cannot be, a model of other classes, or other settings or data than those the folder
            was begun with.
        FileNotFoundError, WeightsError, DataError: A checkpoint, a data set or a published file that is
            missing or cannot be used.
        FolderInUseError: Another process measures into the folder.
        OSError: The folder cannot be written.
    """
    _check(request)
    device = prepare(request.threads, request.device)
    loaded = load_all(request.weights, request.model)
    data = request.data or data_of(loaded)
    everything = load_measured(loaded[0].trained, request.data, request.data_dir, verify=request.verify)
    chosen = select_keys(everything.keys, request.limit)
    candidates = candidates_for(loaded, everything, device)
    published = None
    if request.published is not None:
        published = Published(request.published, everything.labels.numpy(), np.asarray(chosen, np.intp))
    sources = {} if published is None else published.check(request.corruptions)
    folder = request.project / (data if request.name is None else request.name)
    out = Path(writable_project(folder, "folder with --out"))
    with FolderLock().take(out), terminable():
        images = everything.subset(chosen)
        return _Measurement(request, candidates, images, published, sources, out, device).run(progress)


def _check(request: RobustnessRequest) -> None:
    check_counts({"batch": request.batch, "limit": request.limit}, 1)
    check_counts({"workers": request.workers, "seed": request.seed}, 0)
    if request.published is not None:
        for name in ("preset", "seed", "frost_dir"):
            if getattr(request, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} does not go with --published: those images are corrupted already. "
                    "Drop one of them."
                )
    check_corruptions(request.corruptions, request.severities, request.preset or PRESET, request.frost_dir)


class _Measurement:
    """One call of `measure`, with everything looked at."""

    def __init__(
        self,
        request: RobustnessRequest,
        candidates: list[Candidate],
        images: ImageSet,
        published: Published | None,
        sources: Mapping[str, str],
        out: Path,
        device: torch.device,
    ) -> None:
        self.request, self.candidates, self.images, self.out, self.device = request, candidates, images, out, device
        self.published, self.sources = published, sources
        self.preset = PUBLISHED if published is not None else request.preset or PRESET
        workers = request.workers
        if workers is None:
            workers = 0 if device.type == "cpu" else default_workers()
        how = Corrupting(request.seed or 0, self.preset, request.frost_dir, workers)
        self.batches = Batches(images, request.batch or BATCH, how if published is None else published)

    def run(self, progress: Progress) -> RobustnessResult:
        self._agree()
        values = finished(self.out, ACCURACIES)
        cells = self.request.cells
        run_ids = [one.run_id for one in self.candidates]
        missing, again = outstanding(run_ids, cells, values)
        notes = known_before(again, len(missing))
        if missing:
            journal = Journal(self.out / "unfinished")
            self._measure(journal, missing, values, progress)
            journal.remove()
        shown = summary(run_ids, cells, values, ACCURACIES[0], "top-1 [points]")
        return RobustnessResult(self.out, "\n".join([*notes, shown, f"Results: {self.out} ({records.FILE})"]))

    def _agree(self) -> None:
        """Raises where this call does not go with the folder it adds to; else writes what the folder holds."""
        request, generated = self.request, self.published is None
        with_frost = generated and "frost" in request.corruptions
        models = {one.run_id: {"sha256": one.identity["weights_sha256"]} for one in self.candidates}
        mine = {
            "data": self.images.name, "split": self.images.split, "limit": request.limit, "preset": self.preset,
            "seed": (request.seed or 0) if generated else None,
            "frost": load_overlays(request.frost_dir).identity if with_frost else None,
            "batch": self.batches.size, "device": self.device.type, "opencv": cv2.__version__,
            "torch": torch.__version__,
        }  # fmt: skip
        contents = {"data_sha256": _digest(self.images), **{f"{name}.npy": self.sources.get(name) for name in NAMES}}
        merged = settings.merged(self.out, mine, models, contents)
        settings.write(self.out, {**merged, "n_images": len(self.images)})

    def _measure(
        self, journal: Journal, missing: set[tuple[str, Condition]], values: Values, progress: Progress
    ) -> None:
        """Shows every model every batch of every cell that is neither in the records nor in the journal."""
        due = self._due(journal, missing)
        tasks = [task for task, models in due.items() if models]
        total = sum(len(self.batches.clean[self.batches.part(number)]) for _, number in tasks)
        left = {cell: sum(task[0] == cell for task in tasks) for cell in self.request.cells}
        with journal.keeping(self.out, _warn), progress("Measuring", total) as advance:
            for cell in (cell for cell, count in left.items() if not count):
                self._conclude(cell, journal, missing, values)
            with closing(self.batches.shown(tasks)) as pictures:
                for (cell, number), shown in zip(tasks, pictures, strict=True):
                    part = self.batches.part(number)
                    batch = self.images.subset(range(part.start, part.stop))
                    batch = batch.showing(torch.from_numpy(shown)).to(self.device)
                    for one in due[cell, number]:
                        journal.add(one.run_id, cell, number, one.answers(batch, part.start))
                    advance(len(batch))
                    left[cell] -= 1
                    if not left[cell]:
                        self._conclude(cell, journal, missing, values)

    def _due(self, journal: Journal, missing: set[tuple[str, Condition]]) -> dict[Task, list[Candidate]]:
        """Returns the models that are to be shown each batch."""
        done = journal.done()
        return {
            (cell, number): [
                one
                for one in self.candidates
                if (one.run_id, cell) in missing and (one.run_id, cell, number) not in done
            ]
            for cell in self.request.cells
            for number in range(len(self.batches))
        }

    def _conclude(self, cell: Condition, journal: Journal, missing: set[tuple[str, Condition]], values: Values) -> None:
        """Turns the answers to all images of a cell into records."""
        due = [one for one in self.candidates if (one.run_id, cell) in missing]
        if not due:
            return
        journal.flush()
        origin = records.provenance()
        for one in due:
            answers = ImagePredictions(
                correct=journal.rows(one.run_id, cell)["correct"],
                targets=self.images.labels.numpy().astype(np.int32),
                names=np.asarray(self.images.keys, np.str_),
            )
            values[one.run_id, cell] = {metric: float(accuracy(answers, metric=metric)[0]) for metric in ACCURACIES}
            conclude(
                self.out, {**one.identity, **origin}, cell, answers, values[one.run_id, cell],
                data=self.images.name, split=self.images.split, preset=self.preset,
            )  # fmt: skip


def _digest(images: ImageSet) -> str:
    """Returns one SHA-256 of the images, their labels and their names."""
    digest = hashlib.sha256(images.images.numpy().tobytes())
    digest.update(images.labels.numpy().tobytes())
    digest.update("\n".join(images.keys).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _warn(text: str) -> None:
    print(text, file=sys.stderr)
