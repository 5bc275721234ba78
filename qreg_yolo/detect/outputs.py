"""Results of a run that Ultralytics does not write: configuration, environment, records and the final table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOGGER

from qreg_yolo.config.detection import RunConfig, dump
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.io import files, records
from qreg_yolo.io.results_csv import read_results
from qreg_yolo.terminal import number, table
from qreg_yolo.training.environment import environment

RECORDS = records.FILE
_METRICS = {
    "metrics/precision(B)": "precision",
    "metrics/recall(B)": "recall",
    "metrics/mAP50(B)": "map50",
    "metrics/mAP50-95(B)": "map50_95",
}
"""Ultralytics' name -> ours."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    save_dir: Path
    """The run's folder."""
    table: str
    """Its accuracies, for a terminal."""


@dataclass(frozen=True)
class Evaluated:
    """The images and settings of a measurement, as in the records' columns."""

    n_images: int
    """Number of images, as counted by the measurement."""
    evaluation: str
    precision: str
    """`fp32` | `fp16` | `bf16`."""


def evaluated(trainer: Any) -> dict[str, Evaluated]:
    """Returns images and settings of a trainer's training losses (`train`), and of its validations (`val`)."""
    data, args, validator = trainer.train_loader.dataset, trainer.args, trainer.validator
    settings = {
        "imgsz": data.imgsz, "batch": data.batch_size, "rect": data.rect,
        "classes": "all" if args.classes is None else args.classes,
        "single_cls": bool(args.single_cls), "fraction": data.fraction,
        "objects": sum(len(label["cls"]) for label in data.labels),
    }  # fmt: skip
    return {
        "train": Evaluated(len(data), records.settings_text(settings), trainer.precision),
        "val": Evaluated(len(trainer.test_loader.dataset), validator.evaluation, validator.precision),
    }


def write_description(save_dir: Path, config: RunConfig, model_yaml: dict[str, Any], device: torch.device) -> None:
    """Writes ``config.yaml``, ``environment.json`` and ``qreg.json`` (the model's resolved section)."""
    files.write_text(save_dir / "config.yaml", dump(config))
    files.write_text(save_dir / "environment.json", json.dumps(environment(device), indent=2) + "\n")
    files.write_text(save_dir / "qreg.json", json.dumps(model_yaml.get(KEY), indent=2) + "\n")


def last_epoch(results_csv: Path) -> dict[str, float]:
    """Returns the last row of Ultralytics' ``results.csv`` (column -> number)."""
    table = read_results(results_csv)
    return dict(zip(table.headings, table.rows[-1], strict=True))


def measured(results: dict[str, float]) -> dict[str, tuple[str, float]]:
    """Returns metric -> (split, value) of the accuracies and losses among Ultralytics' result columns."""
    found = {_METRICS[key]: ("val", value) for key, value in results.items() if key in _METRICS}
    for key, value in results.items():
        split, _, name = key.partition("/")
        if split in ("train", "val") and name.endswith("loss"):
            found[f"{split}_{name}"] = (split, value)
    return found


def defined(results: dict[str, float], n_objects: int) -> dict[str, float]:
    """Returns Ultralytics' result columns, with accuracies of nan if the images have no object."""
    return results if n_objects else {**results, **{key: math.nan for key in results if key in _METRICS}}


def append_records(
    path: Path,
    identity: Mapping[str, Any],
    results: dict[str, float],
    *,
    data: str,
    evaluated: dict[str, Evaluated],
    val_split: str = "val",
    command: str | None = None,
) -> None:
    """Appends one row per accuracy and loss of a checkpoint.

    Args:
        path: The table.
        identity: As `identity` returns.
        results: Ultralytics' column -> number.
        data: Name of the dataset.
        evaluated: Split -> images and settings.
        val_split: The split that accuracies were measured on.
        command: The command line that started this child process; None: this process's.
    """
    common: dict[str, Any] = {**identity, **records.provenance(), "data": data}
    if command is not None:
        common["command"] = command
    rows = []
    for metric, (split, value) in measured(results).items():
        name = val_split if split == "val" else split
        unit = "loss" if metric.endswith("loss") else "fraction"
        fields = {**common, **asdict(evaluated[name]), "split": name, "metric": metric, "value": value, "unit": unit}
        rows.append(records.Record(**fields))
    records.append(path, rows)


def identity(weights: Path, model_yaml: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the fields of a record that identify the run and its checkpoint."""
    return named_identity(weights.stem, files.sha256(weights), model_yaml, seed)


def named_identity(name: str, digest: str, model_yaml: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the fields of a record that identify a run and a network, by its name in the run id and its SHA-256."""
    config = QuantizationConfig.read(model_yaml)
    model = Path(str(model_yaml.get("yaml_file") or "unknown")).name
    if config.head.has_anchors:
        model = f"{Path(model).stem}-anchor"  # another network with its own fp32 baseline
    return {
        "run_id": f"{Path(model).stem}-{config.spec.label}-s{seed}-{name}-{digest[:8]}",
        "track": "detect",
        "model": model,
        "method": "fp32" if config.spec.is_float else config.spec.method,
        "weight_bits": config.spec.weight_bits,
        "act_bits": config.spec.act_bits,
        "init": config.spec.started(pretrained=config.pretrained),
        "training": None if config.spec.is_float else config.training,
        "recipe": config.recipe,
        "precision": config.precision,
        "seed": seed,
        "weights_sha256": digest,
    }


def accuracy_table(rows: dict[str, dict[str, float]]) -> str:
    """Returns a table of label -> Ultralytics' result columns, for a terminal."""
    found = {label: measured(results) for label, results in rows.items()}
    names = {"map50": "mAP50", "map50_95": "mAP50-95", "precision": "precision", "recall": "recall"}
    cells = [[label, *(number(values[name][1], ".4f") for name in names)] for label, values in found.items()]
    return "\n".join(table([["", *names.values()], *cells]))


def warn(message: str | None) -> None:
    """Logs a warning in Ultralytics' log, unless it is None."""
    if message is not None:
        LOGGER.warning(message)
