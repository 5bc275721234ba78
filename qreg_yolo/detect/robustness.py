"""Many models on clean and corrupted images in one pass: decoded once, corrupted once, nothing written beside the data.

What is measured is kept batch by batch, so that a run that was killed goes on where it was, and a further model,
corruption or severity costs only itself. The numbers are those of the host's ``val`` on the same images on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import select_device

from qreg_yolo.corrupt import MIN_SIDE, NAMES, load_overlays
from qreg_yolo.datasets.sources import check_channels, find_data
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import MIN_SIDE as HOST_MIN_SIDE
from qreg_yolo.detect.data_check import ImageSet, check_data
from qreg_yolo.detect.outputs import RunResult
from qreg_yolo.detect.robust import fingerprint
from qreg_yolo.detect.robust.coco import coco_map
from qreg_yolo.detect.robust.models import Candidate, Judge, classes_of, load_candidates
from qreg_yolo.detect.robust.results import MEASURED, conclude
from qreg_yolo.detect.robust.views import CorruptedBatches, Corrupting, View, ViewKey, load
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.io.locks import FolderLock, terminable
from qreg_yolo.metrics.conditions import Condition, conditions_of
from qreg_yolo.robustness import settings
from qreg_yolo.robustness.checks import check_corruptions, check_counts
from qreg_yolo.robustness.journal import Journal
from qreg_yolo.robustness.results import Values, finished, known_before, outstanding, summary
from qreg_yolo.terminal import Progress, no_progress
from qreg_yolo.training.environment import use_threads


@dataclass(frozen=True, kw_only=True)
class RobustnessRequest:
    """Which models to measure on what."""

    weights: Sequence[Path]
    data: str
    """``demo``, a shipped name or a data YAML."""
    out: Path
    """The output folder; one that holds measurements with the same settings is added to."""
    corruptions: Sequence[str] = NAMES
    severities: Sequence[int] = (1, 2, 3, 4, 5)
    split: str | None = None
    """None: ``test`` where the data have one, else ``val``."""
    limit: int | None = None
    """A fixed random subset of so many images; None: all."""
    batch: int | None = None
    """Images per batch, the same for all models; None: the largest that ``val`` takes for any of them."""
    imgsz: int | None = None
    """Px; None: each model's own."""
    class_map: str | None = None
    """As `class_map.class_map`; None: classes go by name."""
    seed: int = 0
    """Of the corruptions."""
    preset: str = "imagenet224"
    frost_dir: Path | None = None
    workers: int | None = None
    """Processes that decode and corrupt; None: 0 on the CPU, where the models take the cores anyway, else 8."""
    device: str | None = None
    threads: int | None = None
    skip_bad: bool = False
    coco_eval: bool = False

    @property
    def cells(self) -> list[Condition]:
        """Clean, then every corruption at every severity."""
        return conditions_of(self.corruptions, self.severities)


def measure(request: RobustnessRequest, progress: Progress = no_progress) -> RunResult:
    """Measures all models on clean and corrupted images; returns where the records lie and a summary.

    Raises:
        ConfigError: A value that cannot be, or other settings than those the folder was begun with.
        FileNotFoundError, WeightsError, DataError: A checkpoint or data set that is missing or cannot be used; images
            or labels that changed since the measurement began.
        FolderInUseError: Another process measures into the folder.
        OSError: The folder cannot be written.
    """
    use_threads(request.threads)
    _check(request)
    device = select_device(request.device or "", verbose=False)
    restore_threads()
    candidates, warnings = load_candidates(list(request.weights), request.imgsz)
    images = check_data(
        find_data(request.data),
        request.split,
        limit=request.limit,
        min_side=MIN_SIDE if request.corruptions else HOST_MIN_SIDE,
        single_cls=candidates[0].single_cls,
        skip_bad=request.skip_bad,
    )
    check_channels(images.yaml, images.channels)
    for candidate in candidates:
        classes_of(candidate, images, request.class_map)  # before a folder is made
    sizes = {one.imgsz for one in candidates}
    if len(sizes) > 1:
        listed = ", ".join(f"{one.weights}: {one.imgsz}" for one in candidates)
        warnings.append(f"The models have different image sizes ({listed}). Give --imgsz to compare them.")
    for warning in (*warnings, *(f"Left out: {fault}" for fault in images.left_out)):
        LOGGER.warning(warning)
    out = Path(writable_project(request.out, "folder with --out"))
    with FolderLock().take(out), terminable():
        return _Measurement(request, candidates, images, out, device).run(progress)


def _check(request: RobustnessRequest) -> None:
    check_counts({"batch": request.batch, "limit": request.limit}, 1)
    check_counts({"workers": request.workers, "seed": request.seed}, 0)
    check_corruptions(request.corruptions, request.severities, request.preset, request.frost_dir)


class _Measurement:
    """One call of `measure`, with everything looked at."""

    def __init__(
        self,
        request: RobustnessRequest,
        candidates: list[Candidate],
        images: ImageSet,
        out: Path,
        device: torch.device,
    ) -> None:
        self.request, self.candidates, self.images, self.out, self.device = request, candidates, images, out, device
        self.batch = request.batch or max(candidate.batch for candidate in candidates)
        self.workers = request.workers if request.workers is not None else 0 if device.type == "cpu" else 8
        self.classes = {one.run_id: classes_of(one, images, request.class_map) for one in candidates}
        self.remedy = f"Undo that, or measure into another folder than {out}."

    def run(self, progress: Progress) -> RunResult:
        known = self._agree()
        values = finished(self.out, MEASURED)
        cells = self.request.cells
        run_ids = [one.run_id for one in self.candidates]
        missing, again = outstanding(run_ids, cells, values)
        notes = known_before(again, len(missing))
        if missing:
            journal = Journal(self.out / ("unfinished-boxes" if self.request.coco_eval else "unfinished"))
            evaluations = self._detect(journal, missing, progress)
            fingerprint.check_unchanged(self.images.images, known, self.remedy)
            notes += self._conclude(journal, missing, values, evaluations)
            journal.remove()
        if self.request.coco_eval and again:
            notes.append(
                f"--coco-eval did not check the {again} cells that were measured before: their boxes are not kept. To "
                "check them too, measure into a new folder with --out."
            )
        shown = summary(run_ids, cells, values, "map50_95", "mAP50-95 [points]")
        table = "\n".join([*notes, shown, f"Results: {self.out} ({records.FILE})"])
        return RunResult(save_dir=self.out, table=table)

    def _agree(self) -> fingerprint.Fingerprint:
        """Returns what images and labels are; raises where this call does not go with the folder it adds to."""
        request, images = self.request, self.images
        frost = load_overlays(request.frost_dir).identity if "frost" in request.corruptions else None
        models = {
            one.run_id: {
                "sha256": one.identity["weights_sha256"], "imgsz": one.imgsz,
                "classes": None if (found := self.classes[one.run_id]) is None else list(found.rows),
            }
            for one in self.candidates
        }  # fmt: skip
        mine = {
            "data": images.yaml.stem, "split": images.split, "limit": request.limit, "seed": request.seed,
            "preset": request.preset, "frost": frost, "batch": self.batch, "device": self.device.type,
            "opencv": cv2.__version__, "torch": torch.__version__,
        }  # fmt: skip
        merged = settings.merged(self.out, mine, models)
        before = fingerprint.read(self.out)
        if before is None:
            now = fingerprint.fingerprint(images.images)
        else:
            now = fingerprint.check_unchanged(images.images, before, self.remedy)
        fingerprint.write(self.out, now)
        settings.write(self.out, {**merged, "n_images": len(images.images), "data_sha256": fingerprint.digest(now)})
        return now

    def _detect(self, journal: Journal, missing: set[tuple[str, Condition]], progress: Progress) -> dict[str, str]:
        """Runs every model on every batch of every cell that is neither in the records nor in the journal.

        Returns:
            Run id -> how it was measured, for the records.
        """
        keys = list(dict.fromkeys(one.view for one in self.candidates))
        views = [View(self.images, self.batch, key, self.candidates[0].single_cls) for key in keys]
        request = self.request
        how = Corrupting(request.seed, request.preset, request.frost_dir)
        batches = CorruptedBatches(self.images, views, self.batch, how)
        done = journal.done()
        tasks: dict[tuple[int, Condition], set[str]] = {}
        for number in range(batches.n_batches):
            for cell in request.cells:
                runs = {one.run_id for one in self.candidates if (one.run_id, cell) in missing}
                if left := {run for run in runs if (run, cell, number) not in done}:
                    tasks[number, cell] = left
        judges: dict[ViewKey, dict[str, Judge]] = {key: {} for key in keys}
        for one in self.candidates:
            view, classes = views[keys.index(one.view)], self.classes[one.run_id]
            judge = Judge(one, view, self.images, self.out, self.device, request.coco_eval, classes)
            judges[one.view][one.run_id] = judge
        total = sum(len(batches.members(number)) for number, _ in tasks)
        with journal.keeping(self.out, LOGGER.warning), torch.inference_mode(), progress("Measuring", total) as advance:
            for (number, cell), shown in load(batches, tasks, self.workers):
                for key, batch in zip(keys, shown, strict=True):
                    due = {run: judge for run, judge in judges[key].items() if run in tasks[number, cell]}
                    if due:
                        batch = next(iter(due.values())).preprocess(batch)
                    for run, judge in due.items():
                        journal.add(run, cell, number, judge.measure(batch, batches.members(number).start))
                advance(len(batches.members(number)))
        return {run: judge.evaluation for group in judges.values() for run, judge in group.items()}

    def _conclude(
        self, journal: Journal, missing: set[tuple[str, Condition]], values: Values, evaluations: dict[str, str]
    ) -> list[str]:
        """Turns the detections of every missing cell into records; returns what pycocotools says of them."""
        notes = []
        for cell in self.request.cells:
            for one in self.candidates:
                if (one.run_id, cell) not in missing:
                    continue
                found = journal.rows(one.run_id, cell)
                values[one.run_id, cell] = conclude(
                    self.out, one, cell, found, self.images, self.request.preset, evaluations[one.run_id]
                )
                if self.request.coco_eval:
                    ours = 100 * values[one.run_id, cell]["map50_95"]
                    other = 100 * coco_map(found, self.images, self.images.n_classes(single_cls=one.single_cls))
                    notes.append(
                        f"{one.run_id} {cell[0]}-{cell[1]}: mAP50-95 {ours:.3f}, pycocotools {other:.3f}, "
                        f"difference {other - ours:+.3f} points"
                    )
        return notes
