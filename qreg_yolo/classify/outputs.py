"""Output of a run: description, ``results.csv``, TensorBoard's events, records, and lines for the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from qreg_yolo.classify.checkpoint import Description
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.config.classification import ClassifyConfig, dump
from qreg_yolo.datasets.cifar import SIZE
from qreg_yolo.io import files, records, results_csv
from qreg_yolo.terminal import number, table
from qreg_yolo.training.environment import environment
from qreg_yolo.training.epoch_zero import EpochZero

RECORDS = records.FILE
RESULTS = results_csv.FILE
Measured = Mapping[str, tuple[str, int, float]]
"""Metric -> (split, number of images, value)."""


def write_description(folder: Path, config: ClassifyConfig, description: Description, device: torch.device) -> None:
    """Writes ``config.yaml``, ``environment.json`` and ``qreg.json`` (the quantization of each layer)."""
    files.write_text(folder / "config.yaml", dump(config))
    files.write_text(folder / "environment.json", json.dumps(environment(device), indent=2) + "\n")
    files.write_text(folder / "qreg.json", json.dumps(description.to_dict(), indent=2) + "\n")


def write_results(folder: Path, rows: Sequence[Mapping[str, float]], zero: EpochZero | None = None) -> None:
    """Writes the table of all epochs, as it is at the checkpoint: atomically.

    A run that another version resumes may record other columns from then on: what a row lacks is nan.
    """
    headings = dict.fromkeys(name for row in rows for name in row)
    lines = [",".join(headings), *([] if zero is None else [zero.row(list(headings))])]
    lines += [",".join(f"{row.get(name, math.nan):.6g}" for name in headings) for row in rows]
    files.write_text(folder / RESULTS, "\n".join(lines) + "\n")


def tensorboard(folder: Path) -> Callable[[Mapping[str, float]], None]:
    """Returns a function that writes an epoch's row to TensorBoard, or does nothing without TensorBoard."""
    if find_spec("tensorboard") is None:
        return lambda row: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def write(row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name not in ("epoch", "time"):
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return write


def append_records(path: Path, run: Mapping[str, Any], measured: Measured, data: str) -> None:
    """Appends one row per number, unless the table has the run already.

    Args:
        path: The table.
        run: As `identity` returns.
        measured: The numbers; accuracies are fractions, the others losses.
        data: Name of the dataset.
    """
    common: dict[str, Any] = {**run, "data": data, **records.provenance()}
    rows = [
        records.Record(
            **common, split=split, n_images=n, metric=metric, value=value,
            unit="fraction" if metric.startswith("accuracy") else "loss",
        )
        for metric, (split, n, value) in measured.items()
    ]  # fmt: skip
    known = set(records.read(path)["run_id"].to_list()) if path.is_file() else set()
    if run["run_id"] not in known:
        records.append(path, rows)


def identity(weights: Path, name: str, description: Description, data: str) -> dict[str, Any]:
    """Returns the fields of a record that identify the run and its checkpoint; arguments as `named_identity`."""
    return named_identity(files.sha256(weights), name, description, data)


def named_identity(digest: str, name: str, description: Description, data: str) -> dict[str, Any]:
    """Returns the fields of a record that identify a run and a network.

    Args:
        digest: Its SHA-256.
        name: What the run's id calls it, such as ``last``.
        description: What it is.
        data: The dataset that it is measured on.
    """
    run, spec = description.config["run"], description.spec
    seed, subset = run["seed"], run.get("train_images")
    model = description.model.rpartition(":")[2]
    return {
        "run_id": f"{model}-{data}-{spec.label}-s{seed}-{name}-{digest[:8]}",
        "track": "classify",
        "model": description.model,
        "method": "fp32" if spec.is_float else spec.method,
        "weight_bits": spec.weight_bits,
        "act_bits": spec.act_bits,
        "init": spec.started(pretrained=run["weights"] is not None),
        "training": None if spec.is_float else description.training,
        "recipe": run.get("recipe"),
        "precision": description.precision,
        "seed": seed,
        "weights_sha256": digest,
        "evaluation": records.settings_text(
            {
                "imgsz": SIZE,
                "classes": len(description.classes),
                **({} if subset is None else {"train_images": subset}),
            }
        ),
    }


def measured_in(row: Mapping[str, float], train: ImageSet, val: ImageSet) -> Measured:
    """Returns the metrics of an epoch's row for `append_records`."""
    return {
        "accuracy_top1": (val.split, len(val), row["metrics/accuracy_top1"]),
        "loss": (val.split, len(val), row["val/loss"]),
        "train_loss": (train.split, len(train), row["train/loss"]),
    }


def epoch_line(row: Mapping[str, float], epochs: int, images_per_s: float) -> str:
    """Returns an epoch in one line, for a terminal."""
    validated = f"val loss {row['val/loss']:.4f}  top-1 {row['metrics/accuracy_top1']:.4f}  |  "
    return (
        f"epoch {int(row['epoch']):>3}/{epochs}  train loss {row['train/loss']:.4f}  "
        f"top-1 {row['train/accuracy_top1']:.4f}  |  {'' if math.isnan(row['val/loss']) else validated}"
        f"lr {row['lr/pg0']:.3g}  {images_per_s:,.0f} img/s"
    )


def final_table(rows: Sequence[Mapping[str, float]], folder: Path) -> str:
    """Returns the results of a run, for a terminal."""
    last, best = rows[-1], max(rows, key=lambda row: _accuracy(row))
    columns = {"top-1": "metrics/accuracy_top1", "val loss": "val/loss", "train loss": "train/loss"}
    epochs = {"last epoch (reported)": last, f"best epoch ({int(best['epoch'])})": best}
    cells = [[label, *(number(row[name], ".4f") for name in columns.values())] for label, row in epochs.items()]
    lines = table([["", *columns], *cells])
    return "\n".join([*lines, f"Results: {folder} (weights/last.safetensors, {RESULTS}, {RECORDS}, config.yaml)"])


def _accuracy(row: Mapping[str, float]) -> float:
    """Returns an epoch's accuracy, -1 where it was not validated."""
    return -1.0 if math.isnan(row["metrics/accuracy_top1"]) else row["metrics/accuracy_top1"]


def seeds_table(accuracies: Mapping[int, float]) -> str:
    """Returns mean, standard deviation (n - 1) and number of the last epochs' accuracies of several seeds.

    >>> print(seeds_table({0: 0.9, 1: 0.92}))
    top-1 of the last epoch, seeds 0, 1: 0.9100 ± 0.0141 (mean ± sd, n = 2)
    """
    values = list(accuracies.values())
    spread = f"± {stdev(values):.4f} (mean ± sd, n = {len(values)})" if len(values) > 1 else "(n = 1)"
    return f"top-1 of the last epoch, seeds {', '.join(map(str, accuracies))}: {fmean(values):.4f} {spread}"


class ProgressLine:
    """A bar on stderr with images per second, redrawn a few times a second; nothing where that is not a terminal."""

    def __init__(self, images_per_step: int, *, quiet: bool = False) -> None:
        self._images = images_per_step
        self._shown = sys.stderr.isatty() and not quiet
        self._start = self._last = time.perf_counter()
        self.rate = 0.0
        """Images per second of the present epoch, its first step left out."""

    def __call__(self, epoch: int, step: int, steps: int) -> None:
        now = time.perf_counter()
        if step == 1:  # the first step of all warms up, or compiles
            self._start = self._last = now
            return
        self.rate = self._images * (step - 1) / max(now - self._start, 1e-9)
        if self._shown and (now - self._last > 0.2 or step == steps):
            self._last = now
            filled = 24 * step // steps
            bar = "=" * filled + " " * (24 - filled)
            end = "\r" if step < steps else "\r\033[K"
            print(f"epoch {epoch} [{bar}] {step}/{steps}  {self.rate:,.0f} img/s", end=end, file=sys.stderr, flush=True)
