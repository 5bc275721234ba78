"""The robustness of classifiers: each batch is corrupted once and shown to every model.

The clean images are those that ``classify val`` measures; corrupted ones are those that ``qreg-yolo corrupt`` writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qreg_yolo.classify.checkpoint import load_classifier
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.datasets import class_rows, load_measured
from qreg_yolo.classify.evaluate import BATCH, evaluate
from qreg_yolo.classify.outputs import identity
from qreg_yolo.classify.setup import prepare
from qreg_yolo.corrupt import NAMES
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.datasets.corrupted.cifar import Chunk, Published, corrupt_chunk
from qreg_yolo.datasets.corrupted.pool import default_workers, run_ordered
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import CLEAN, Condition
from qreg_yolo.metrics.predictions import ACCURACIES, ImagePredictions
from qreg_yolo.quant.layers import weights_quantized_once
from qreg_yolo.robustness.journal import Rows, Task
from qreg_yolo.robustness.measure import PUBLISHED, MeasuredModel, RobustnessResult, Track, check_distinct
from qreg_yolo.robustness.measure import measure as measure_track
from qreg_yolo.robustness.request import RobustnessRequest
from qreg_yolo.terminal import Progress, no_progress

PREDICTION = np.dtype([("image", "<i4"), ("correct", "?")])
"""One prediction: number of the image, and whether it is right."""


@dataclass(frozen=True, kw_only=True)
class ClassifierRobustnessRequest(RobustnessRequest):
    """The request of `measure`; None: as in the training of the checkpoints, or a default."""

    project: Path
    """Folder of the output folder."""
    name: str | None = None
    """Name of the output folder; None: that of the dataset. One that holds measurements with the same settings is
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
    default_preset = "cifar32"

    def check(self) -> None:
        """Checks the options; see `RobustnessRequest.check`."""
        for name in ("preset", "seed", "frost_dir"):
            if self.published is not None and getattr(self, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} cannot be combined with --published: its images are corrupted. "
                    "Remove one of them."
                )
        super().check()


@dataclass(frozen=True)
class Classifier(MeasuredModel):
    """A classifier's checkpoint that was loaded and checked; the model is in eval mode, on its device."""

    precision: str
    """`fp32` | `bf16`: the arithmetic it was trained in."""
    rows: tuple[int, ...] | None = None
    """Its class of each class of the data; None: in the same order."""

    def predictions(self, images: ImageSet, first: int) -> Rows:
        """Returns whether its predictions on a batch are right.

        Args:
            images: The batch, on its device.
            first: Number of its first image.
        """
        images = images.renumbered(self.rows)
        correct = evaluate(self.model, images, precision=self.precision, batch=len(images)).correct.numpy()
        rows = np.empty(len(correct), PREDICTION)
        rows["image"] = np.arange(first, first + len(correct))
        rows["correct"] = correct
        return rows


def measure(request: ClassifierRobustnessRequest, progress: Progress = no_progress) -> RobustnessResult:
    """Measures all models on clean and corrupted images; returns the output folder and a summary.

    Raises:
        ConfigError: A value that cannot be used, a model of other classes, or other settings or data than those the
            folder was begun with.
        FileNotFoundError, WeightsError, DataError: A checkpoint, a dataset or a published file that is
            missing or cannot be used.
        FolderInUseError: Another process measures into the folder.
        OSError: The folder cannot be written.
    """
    request.check()
    device = prepare(request.threads, request.device)
    loaded = [(path, *load_classifier(path, request.model)[:2]) for path in request.weights]
    trained = {str(description.config["run"]["data"]): path for path, _, description in loaded}
    if len(trained) > 1 and request.data is None:
        listed = ", ".join(f"'{path}' on {data}" for data, path in trained.items())
        raise ConfigError(f"The checkpoints were trained on several datasets: {listed}. Give one with --data.")
    run = loaded[0][2].config["run"]
    everything = load_measured(run, request.data, request.data_dir, verify=request.verify)
    chosen = select_keys(everything.keys, request.limit)
    classifiers = []
    for path, model, description in loaded:
        rows = class_rows(path, description, everything)
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        fields = identity(path, path.stem, description, everything.name)
        classifiers.append(Classifier(path, model, fields, description.precision, rows))
    check_distinct(classifiers)
    sha256, published = {}, None
    if request.published is not None:
        published = Published(request.published, everything.labels.numpy(), np.asarray(chosen, np.intp))
        sha256 = published.check(request.corruptions)
    images = everything.subset(chosen)
    track = ClassificationTrack(
        request=request, models=classifiers, data=images.name, split=images.split, n_images=len(images),
        batch=request.batch or BATCH, device=device, torch=torch.__version__, images=images, published=published,
        sha256=sha256, preset=PUBLISHED if published else request.preset or request.default_preset,
    )  # fmt: skip
    return measure_track(track, request.project / (request.name or request.data or next(iter(trained))), progress)


@dataclass(kw_only=True)
class ClassificationTrack(Track[Classifier]):
    """Classifiers, shown one condition after the other."""

    images: ImageSet
    """The images, on the CPU."""
    published: Published | None
    sha256: Mapping[str, str]
    """Corruption -> SHA-256 of its published file."""
    metrics = ACCURACIES
    title = "top-1 [points]"

    def contents(self, out: Path) -> dict[str, str | None]:
        digest = hashlib.sha256(self.images.images.numpy().tobytes())
        digest.update(self.images.labels.numpy().tobytes())
        digest.update("\n".join(self.images.keys).encode("utf-8", "surrogateescape"))
        return {"data_sha256": digest.hexdigest(), **{f"{name}.npy": self.sha256.get(name) for name in NAMES}}

    def predictions(self, due: Mapping[Task, Collection[str]]) -> Generator[tuple[Task, str, Rows], None, None]:
        workers = self.request.workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else default_workers()
        source = self.published or self.request.corruption_options
        parts = [(condition, self.parts[number]) for condition, number in due]
        with closing(corrupted(self.images, parts, source, workers)) as pixels, ExitStack() as evaluation:
            for one in self.models:
                evaluation.enter_context(weights_quantized_once(one.model))
            for (task, runs), (_, part), shown in zip(due.items(), parts, pixels, strict=True):
                batch = self.images.subset(range(part.start, part.stop))
                batch = batch.showing(torch.from_numpy(shown)).to(self.device)
                for model in (model for model in self.models if model.run_id in runs):
                    yield task, model.run_id, model.predictions(batch, part.start)

    def conclude(
        self, model: Classifier, condition: Condition, rows: Rows
    ) -> tuple[ImagePredictions, dict[str, float], dict[str, Any]]:
        predictions = ImagePredictions(
            correct=rows["correct"],
            targets=self.images.labels.numpy().astype(np.int32),
            names=np.asarray(self.images.keys, np.str_),
        )
        return predictions, {}, {}


def corrupted(
    images: ImageSet, parts: Sequence[tuple[Condition, slice]], source: Published | Mapping[str, Any], workers: int
) -> Generator[Image, None, None]:
    """Yields the pixels of parts of a set, uint8 `(k, 32, 32, 3)`, in order; to be closed.

    Args:
        images: The clean images, on the CPU.
        parts: Images and the condition to show them under.
        source: Published files, or options of `corrupt`.
        workers: Processes that corrupt; 0: this one. They load neither torch nor a model.
    """
    clean = images.images.numpy()
    changed = [(name, severity, part) for (name, severity), part in parts if name != CLEAN]
    if isinstance(source, Published):
        results = (source.images(*one) for one in changed)
    else:
        chunks = (Chunk(clean[part], images.keys[part], name, severity) for name, severity, part in changed)
        results = run_ordered(partial(corrupt_chunk, **source), chunks, workers)
    with closing(results):
        for (name, _), part in parts:
            yield clean[part] if name == CLEAN else next(results)
