"""The measuring loop of both tracks: many models under many conditions, kept batch by batch.

A killed run is resumed where it was, and a further model, corruption or severity costs only itself. Nothing is written
next to the data.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import cv2
import numpy as np

from qreg_yolo.corrupt import load_overlays
from qreg_yolo.errors import FileAccessError
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.io.locks import FolderLock
from qreg_yolo.io.process import terminable
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.bootstrap import metric_values, metrics_of
from qreg_yolo.metrics.conditions import CLEAN, Condition
from qreg_yolo.metrics.image_statistics import PerImage
from qreg_yolo.robustness import settings
from qreg_yolo.robustness.journal import Journal, Rows, Task
from qreg_yolo.robustness.request import RobustnessRequest
from qreg_yolo.terminal import Progress, no_progress, number, table

PER_IMAGE = "per_image"
"""Folder of the per-image files, next to the records."""
PUBLISHED = "published"
"""Preset of images that were corrupted by others."""
Values = dict[tuple[str, Condition], dict[str, float]]
"""(run, condition) -> metric -> fraction."""


@dataclass(frozen=True)
class MeasuredModel:
    """A checkpoint that was loaded and checked."""

    weights: Path
    model: Any
    identity: Mapping[str, Any]
    """Fields of its records."""

    @property
    def run_id(self) -> str:
        """Name of the run in the records."""
        return str(self.identity["run_id"])


Model = TypeVar("Model", bound=MeasuredModel)


@dataclass(kw_only=True)
class Track(ABC, Generic[Model]):
    """The protocol of a track: its models, its images, and the predictions of a model on a batch."""

    request: RobustnessRequest
    models: Sequence[Model]
    data: str
    """Name of the dataset."""
    split: str
    n_images: int
    batch: int
    """Images per batch."""
    preset: str
    """Constants of the corruptions, or `PUBLISHED`."""
    device: Any
    """The ``torch.device`` to compute on."""
    torch: str
    """Version of torch."""
    journal: str = "unfinished"
    """Name of the journal's folder."""
    metrics: ClassVar[Sequence[str]]
    """All metrics of a measured condition; the summary shows the first."""
    title: ClassVar[str]
    """Heading of the summary."""

    @cached_property
    def parts(self) -> list[slice]:
        """The images of each batch."""
        return [slice(i, min(i + self.batch, self.n_images)) for i in range(0, self.n_images, self.batch)]

    def model_settings(self, model: Model) -> dict[str, Any]:
        """Returns the settings that decide the numbers of a model."""
        return {"sha256": model.identity["weights_sha256"]}

    @abstractmethod
    def contents(self, out: Path) -> Mapping[str, str | None]:
        """Returns name -> SHA-256 of the measured data; None: this call does not use it.

        Raises:
            UserError: The contents are not those that the folder was begun with.
        """

    def check(self, out: Path) -> None:
        """Raises where the images changed while they were measured; called before a condition is concluded."""

    @abstractmethod
    def predictions(self, due: Mapping[Task, Collection[str]]) -> Generator[tuple[Task, str, Rows], None, None]:
        """Yields the predictions of the models (run ids) that are due for each task, in an order of its own."""

    @abstractmethod
    def conclude(
        self, model: Model, condition: Condition, rows: Rows
    ) -> tuple[PerImage, dict[str, float], dict[str, Any]]:
        """Returns the per-image statistics of all predictions of a condition, and further metrics and record fields."""

    def notes(self, again: int) -> list[str]:
        """Returns lines for the terminal; ``again`` conditions were measured before."""
        return []


@dataclass(frozen=True)
class RobustnessResult:
    """The folder and the summary of a measurement."""

    save_dir: Path
    table: str
    """For a terminal."""


def measure(track: Track[Model], folder: Path, progress: Progress = no_progress) -> RobustnessResult:
    """Measures the models of a track under the conditions asked for, and writes records and per-image files.

    Args:
        track: The track.
        folder: The output folder; one that holds measurements with the same settings is added to.
        progress: Reports progress.

    Raises:
        ConfigError: Other settings or data than those the folder was begun with.
        FolderInUseError: Another process measures into the folder.
        OSError: The folder cannot be written.
    """
    out = Path(writable_project(folder, "folder with --out"))
    with FolderLock().take(out), terminable():
        mine = {model.run_id: track.model_settings(model) for model in track.models}
        settings.agree(out, _settings(track), mine, lambda: {**track.contents(out), "n_images": track.n_images})
        values = _finished(out, track.metrics)
        asked = [(model.run_id, condition) for condition in track.request.conditions for model in track.models]
        again = sum(one in values for one in asked)
        if again < len(asked):
            _measure(track, out, values, progress)
    notes = [f"{again} of {len(asked)} conditions were measured before."] if again else []
    lines = [*notes, *track.notes(again), *_summary(track, values), f"Results: {out} ({records.FILE})"]
    return RobustnessResult(out, "\n".join(lines))


def check_distinct(models: Sequence[MeasuredModel]) -> None:
    """Raises `ConfigError` where two checkpoints hold the same weights."""
    known: dict[str, Path] = {}
    for one in models:
        other = known.setdefault(one.identity["weights_sha256"], one.weights)
        if other is not one.weights:
            raise ConfigError(f"'{other}' and '{one.weights}' are the same weights. Give each once.")


def _settings(track: Track[Model]) -> dict[str, Any]:
    """Returns all that decides the numbers, but for models and images."""
    request, generated = track.request, track.preset != PUBLISHED
    with_frost = generated and "frost" in request.corruptions
    return {
        "data": track.data, "split": track.split, "limit": request.limit, "preset": track.preset,
        "seed": (request.seed or 0) if generated else None,
        "frost": load_overlays(request.frost_dir).identity if with_frost else None,
        "batch": track.batch, "device": track.device.type, "opencv": cv2.__version__, "torch": track.torch,
    }  # fmt: skip


def _finished(out: Path, metrics: Sequence[str]) -> Values:
    """Returns the conditions that the records hold with all metrics and a per-image file."""
    path = out / records.FILE
    records.check_appendable(path)
    found: Values = {}
    for row in records.read(path).to_dicts() if path.is_file() else []:
        condition = (row["corruption"] or CLEAN, row["severity"] or 0)
        found.setdefault((row["run_id"], condition), {})[row["metric"]] = row["value"]
    return {
        (run_id, condition): values
        for (run_id, condition), values in found.items()
        if set(metrics) <= values.keys() and image_statistics.path_of(out / PER_IMAGE, run_id, *condition).is_file()
    }


def _measure(track: Track[Model], out: Path, values: Values, progress: Progress) -> None:
    """Shows each model the batches that are neither in the records nor in the journal; adds to ``values``."""
    journal = Journal(out / track.journal)
    done, due = journal.done(), dict[Task, set[str]]()
    for condition in track.request.conditions:
        runs = [model.run_id for model in track.models if (model.run_id, condition) not in values]
        for batch in range(len(track.parts)):
            if left := {run_id for run_id in runs if (run_id, (condition, batch)) not in done}:
                due[condition, batch] = left
    sizes = [part.stop - part.start for part in track.parts]
    tasks = {task: frozenset(runs) for task, runs in due.items()}
    with (
        _kept(journal, out),
        progress("Measuring", sum(sizes[batch] for _, batch in due)) as advance,
        closing(track.predictions(tasks)) as predictions,
    ):
        for task, run_id, rows in predictions:
            journal.add(run_id, task, rows)
            due[task].remove(run_id)
            if not due[task]:
                del due[task]
                advance(sizes[task[1]])
            if journal.is_due():
                journal.flush()
                _conclude(track, out, journal, {condition for condition, _ in due}, values)
        journal.flush()
        _conclude(track, out, journal, set(), values)
    journal.remove()


def _conclude(track: Track[Model], out: Path, journal: Journal, unfinished: set[Condition], values: Values) -> None:
    """Writes the per-image files and the records of the conditions whose predictions are all in the journal."""
    complete = [
        (condition, model)
        for condition in track.request.conditions
        for model in track.models
        if condition not in unfinished and (model.run_id, condition) not in values
    ]
    if not complete:
        return
    track.check(out)
    origin = records.provenance()
    for condition, model in complete:
        statistics, more, fields = track.conclude(model, condition, journal.rows(model.run_id, condition))
        found = {metric: float(metric_values(statistics, metric)[0]) for metric in metrics_of(statistics)} | more
        image_statistics.write(image_statistics.path_of(out / PER_IMAGE, model.run_id, *condition), statistics)
        name, severity = condition
        corruption = {} if name == CLEAN else {"preset": track.preset, "corruption": name, "severity": severity}
        common = {
            **model.identity, **fields, **origin, **corruption, "variant": track.request.variants.get(model.weights),
            "data": track.data, "split": track.split, "n_images": len(statistics.names), "unit": "fraction",
        }  # fmt: skip
        rows = [records.Record(**common, metric=metric, value=value) for metric, value in found.items()]
        records.append(out / records.FILE, rows)
        values[model.run_id, condition] = found


@contextmanager
def _kept(journal: Journal, out: Path) -> Iterator[None]:
    """Writes the journal at the end of the block, even after an error, and says how to resume.

    Raises:
        OSError: Something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise FileAccessError(
            f"'{out}' cannot be written: {error.strerror or error}. What was written is kept: free space, then start "
            "the same command again."
        ) from error
    except BaseException as error:
        journal.flush()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            print("Interrupted. What was measured is kept: start the same command again to resume.", file=sys.stderr)
        raise


def _summary(track: Track[Model], values: Values) -> list[str]:
    """Returns one row per model: clean, mean over the corruptions (of the mean over severities) and their ratio."""
    corrupted = track.request.conditions[1:]
    rows = [[track.title, "clean", "mean", "rPC [%]"]]
    for model in track.models:
        clean, *points = (100 * values[model.run_id, one][track.metrics[0]] for one in [(CLEAN, 0), *corrupted])
        mean = float(np.mean(points)) if points else float("nan")
        ratio = 100 * mean / clean if clean else float("nan")
        rows.append([model.run_id, number(clean, ".2f"), number(mean, ".2f"), number(ratio, ".1f")])
    names, severities = (sorted(set(column)) for column in zip(*corrupted, strict=True)) if corrupted else ([], [])
    levels = ", ".join(map(str, severities)) or "none"
    return [*table(rows), f"mean: {len(names)} corruptions, severities {levels}"]
