"""Files of a run that Ultralytics does not write: configuration, environment and records; and its final table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
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
"""Ultralytics' names -> ours."""


@dataclass(frozen=True)
class RunResult:
    """Where a run's files lie and what it reached."""

    save_dir: Path
    """The run's folder."""
    table: str
    """What it reached, for a terminal."""


@dataclass(frozen=True)
class Evaluated:
    """The images that numbers rest on, and how they were computed."""

    n_images: int
    """Counted where they were measured."""
    evaluation: str
    """As the records' column."""
    precision: str
    """Arithmetic: `fp32` | `fp16` | `bf16`."""


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
    """Returns metric name -> (split, value) of Ultralytics' result columns: accuracies and losses."""
    found = {_METRICS[key]: ("val", value) for key, value in results.items() if key in _METRICS}
    for key, value in results.items():
        split, _, name = key.partition("/")
        if split in ("train", "val") and name.endswith("loss"):
            found[f"{split}_{name}"] = (split, value)
    return found


def defined(results: dict[str, float], n_objects: int) -> dict[str, float]:
    """Returns Ultralytics' result columns with nan for the accuracies where the images show no object."""
    return results if n_objects else {**results, **{key: math.nan for key in results if key in _METRICS}}


def append_records(
    path: Path,
    weights: Path,
    model_yaml: dict[str, Any],
    results: dict[str, float],
    *,
    data: str,
    seed: int,
    evaluated: dict[str, Evaluated],
    val_split: str = "val",
    command: str | None = None,
) -> None:
    """Appends one row per accuracy and loss in ``results`` (Ultralytics' column names) measured on ``weights``.

    Args:
        path: The table.
        weights: The checkpoint.
        model_yaml: The model's dictionary.
        results: Column -> number.
        data: Name of the dataset.
        seed: Of the training.
        evaluated: Split -> on which images, and how.
        val_split: The split that accuracies were measured on.
        command: The command line, where this is a child process; None: this process's.
    """
    common: dict[str, Any] = {**identity(weights, model_yaml, seed), **records.provenance()}
    if command is not None:
        common["command"] = command
    rows = []
    for metric, (split, value) in measured(results).items():
        name = val_split if split == "val" else split
        on = evaluated[name]
        rows.append(
            records.Record(
                data=data,
                split=name,
                n_images=on.n_images,
                evaluation=on.evaluation,
                metric=metric,
                value=value,
                unit="loss" if metric.endswith("loss") else "fraction",
                **{**common, "precision": on.precision},
            )
        )
    records.append(path, rows)


def identity(weights: Path, model_yaml: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the fields of a record that say which run and which of its checkpoints was measured."""
    config = QuantizationConfig.read(model_yaml)
    model = Path(str(model_yaml.get("yaml_file") or "unknown")).name
    if config.head.has_anchors:
        model = f"{Path(model).stem}-anchor"  # another network: it has its own fp32 twin
    digest = files.sha256(weights)
    return {
        "run_id": f"{Path(model).stem}-{config.spec.label}-s{seed}-{weights.stem}-{digest[:8]}",
        "track": "detect",
        "model": model,
        "method": "fp32" if config.spec.is_float else config.spec.method,
        "weight_bits": config.spec.weight_bits,
        "act_bits": config.spec.act_bits,
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
    """Says ``message`` in Ultralytics' log, where there is one."""
    if message is not None:
        LOGGER.warning(message)
