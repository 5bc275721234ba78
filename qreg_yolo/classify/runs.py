"""One function per subcommand: train, resume, validate. Everything that can be refused is refused before the work."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qreg_yolo.classify import outputs
from qreg_yolo.classify.checkpoint import Description, Progress, load_classifier
from qreg_yolo.classify.datasets import class_rows, load_measured, load_training
from qreg_yolo.classify.evaluate import evaluate
from qreg_yolo.classify.execute import RunResult, execute
from qreg_yolo.classify.network import PROBE_SIDE, calibrate_network, clipping_warning, probe
from qreg_yolo.classify.processes import Processes, joined, say
from qreg_yolo.classify.resumption import resumed_config
from qreg_yolo.classify.setup import built, check_batch, load_teacher, placed, precision_on, prepare
from qreg_yolo.classify.train import Run
from qreg_yolo.config.classification import ClassifyConfig
from qreg_yolo.io import records
from qreg_yolo.io.files import new_folder, writable_project
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.calibration import quantizers_off
from qreg_yolo.quant.inspection import Inspection, one_thread
from qreg_yolo.quant.report import count_macs, layer_reports, model_size
from qreg_yolo.training.distillation import identified
from qreg_yolo.training.epoch_zero import NAME, EpochZero, comparison, digest_of


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """The request of `validate`; None: as the checkpoint was trained."""

    data: str | None = None
    data_dir: str | None = None
    verify: bool = True
    split: str | None = None
    model: str | None = None
    threads: int | None = None
    device: str | None = None
    project: str | None = None


def train(config: ClassifyConfig, seeds: Sequence[int] = ()) -> str:
    """Trains a configuration with each of ``seeds`` (none: its own seed); returns the final table.

    Raises:
        ConfigError: A value that does not exist, or two that exclude each other.
        FileNotFoundError: Data, weights or a teacher that do not exist.
        DataError, WeightsError: They exist, but cannot be used.
        OSError: The project folder cannot be written.
        FolderInUseError: Another process is writing into the run's folder.
        NonFiniteError: The loss became infinite or NaN.
    """
    device = prepare(config.run.threads, config.run.device)
    with joined(device) as processes:
        if not seeds:
            return _trained(config, device, processes).table
        results: dict[int, RunResult] = {}
        for number, seed in enumerate(seeds):
            try:
                results[seed] = _trained(_with_seed(config, seed), device, processes)
            except (KeyboardInterrupt, SystemExit):
                if processes.is_first and (left := seeds[number + 1 :]):
                    print(f"Not begun yet: --seeds {','.join(map(str, left))}", file=sys.stderr)
                raise
    accuracies = {seed: result.accuracy for seed, result in results.items()}
    return "\n".join([*(result.table for result in results.values()), outputs.seeds_table(accuracies)])


def _with_seed(config: ClassifyConfig, seed: int) -> ClassifyConfig:
    name = config.train.name and f"{config.train.name}-s{seed}"
    return replace(config, run=replace(config.run, seed=seed), train=replace(config.train, name=name))


def _trained(config: ClassifyConfig, device: torch.device, processes: Processes) -> RunResult:
    config = replace(config, distill=identified(config.distill))
    train_set, val_set = load_training(config.run)
    teacher = load_teacher(config, train_set.classes, device)
    model, description = built(config, train_set.classes, device)
    run = Run(
        config=config, model=model, train=train_set.to(device), val=val_set.to(device),
        precision=description.precision, processes=processes, progress=Progress(), teacher=teacher,
    )  # fmt: skip
    check_batch(run)
    project = Path(writable_project(config.train.project))
    calibration = calibrate_network(model, run.train, config, run.batch)
    if calibration.initialized:
        say(f"Calibrated {calibration.initialized} quantizers on the first training images")
    if calibration.unreached:
        say(f"WARNING: {calibration}")
    if calibration.initialized and config.run.weights is not None and config.run.epoch0 and processes.is_first:
        run.progress.zero = _before_training(run, description)
    first_images = run.train.normalised(run.train.images[: run.batch])
    say(clipping_warning(model, first_images) or "")
    processes.share(model)
    description.resolve(model, calibration.unreached)
    folder = Path(processes.same_text(str(new_folder(project, run_name(config))) if processes.is_first else ""))
    if processes.is_first:
        outputs.write_description(folder, config, description, device)
    return execute(run, description, folder)


def _before_training(run: Run, description: Description) -> EpochZero:
    """Measures the untrained network, prints its accuracy beside the baseline's, and returns it."""
    start, data = Path(str(run.config.run.weights)), run.config.run.data
    found = evaluate(run.model, run.val, precision=run.precision)
    identity = outputs.named_identity("", NAME, description, data)
    where = {"data": data, "split": run.val.split, "evaluation": identity["evaluation"], "precision": run.precision}
    baseline = records.recorded(start, "accuracy_top1", **where)
    if baseline is None:
        with quantizers_off(run.model):
            baseline = evaluate(run.model, run.val, precision=run.precision).accuracy
    say(comparison("Top-1", baseline, found.accuracy))
    metrics = {"val/loss": found.loss, "metrics/accuracy_top1": found.accuracy}
    return EpochZero(metrics, digest_of(run.model))


def resume(checkpoint: Path, given: Mapping[str, Any]) -> str:
    """Continues an interrupted run from its ``last.safetensors``; returns the final table.

    Args:
        checkpoint: ``weights/last.safetensors`` of the run.
        given: Options on the command line, flat; only those of `resumption.RESUMABLE` may differ from the run's. A
            model of the user's own has to be among them.

    Raises:
        ConfigError: A finished run, or an option that cannot change.
        FileNotFoundError, WeightsError: No readable checkpoint.
        As `train`.
    """
    network, description, progress = load_classifier(checkpoint, given.get("model"))
    config = resumed_config(checkpoint, description, progress, given)
    identified(config.distill)  # raises unless the teacher is the one that the run began with
    device = prepare(config.run.threads, config.run.device)
    if (precision := precision_on(config.train.amp, device)) != description.precision:
        raise ConfigError(
            f"'{checkpoint}' was trained in {description.precision}, amp={config.train.amp} is {precision} here. "
            "Resume it on a device like the first."
        )
    with joined(device) as processes:
        train_set, val_set = load_training(config.run)
        run = Run(
            config=config, model=placed(network, config, device), train=train_set.to(device), val=val_set.to(device),
            precision=precision, processes=processes, progress=progress,
            teacher=load_teacher(config, train_set.classes, device),
        )  # fmt: skip
        check_batch(run)
        say(f"Resuming after epoch {progress.epoch} of {config.train.epochs}")
        return execute(run, description, checkpoint.absolute().parent.parent).table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The result of `measure`."""

    description: Description
    """The checkpoint's."""
    data: str
    """Name of the dataset."""
    numbers: outputs.Measured
    line: str
    """For a terminal."""


def measure(weights: Path, asked: Measuring) -> Measured:
    """Measures a checkpoint, by default on the set it was validated on in training.

    Raises:
        ConfigError: Classes that the checkpoint does not know, or whatever `load_classifier` and `load_split` refuse.
        FileNotFoundError, DataError, WeightsError: As `train`.
    """
    device = prepare(asked.threads, asked.device)
    network, description, _ = load_classifier(weights, asked.model)
    trained = description.config["run"]
    images = load_measured(trained, asked.data, asked.data_dir, verify=asked.verify, split=asked.split)
    images = images.renumbered(class_rows(weights, description, images))
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    reached = evaluate(network, images.to(device), precision=description.precision)
    counts = (images.split, len(images))
    numbers = {"accuracy_top1": (*counts, reached.accuracy), "loss": (*counts, reached.loss)}
    line = (
        f"{weights}: top-1 {reached.accuracy:.4f}, loss {reached.loss:.4f} on {len(images)} images "
        f"({images.name}, {images.split}, {description.precision})"
    )
    return Measured(description=description, data=images.name, numbers=numbers, line=line)


def validate(weights: Path, asked: Measuring) -> str:
    """Measures a checkpoint and records it; returns a line. Errors as `measure`, and OSError."""
    found = measure(weights, asked)
    folder = new_folder(Path(writable_project(asked.project)), "val")
    path = folder / outputs.RECORDS
    identity = outputs.identity(weights, weights.stem, found.description, found.data)
    outputs.append_records(path, identity, found.numbers, found.data)
    return f"{found.line}\nResults: {folder}"


def run_name(config: ClassifyConfig) -> str:
    """Returns the name of a run's folder: the one asked for, or model, data, widths and seed.

    >>> run_name(ClassifyConfig())
    'resnet20-demo-lsq-w4a4-s0'
    """
    if config.train.name is not None:
        return config.train.name
    model = config.run.model.rpartition(":")[2]
    return f"{model}-{config.run.data}-{config.quant.label}-s{config.run.seed}"


def inspect_classifier(path: Path, model: str | None = None) -> Inspection:
    """Inspects a classifier's checkpoint; MACs per image of 32 pixels.

    Args:
        path: A file of `save_classifier`.
        model: As in `load_classifier`.

    Raises:
        FileNotFoundError, WeightsError, ConfigError: As `load_classifier`.
    """
    with one_thread():
        network, description, _ = load_classifier(path, model)
        pair = count_macs(network, lambda: probe(network))
        macs = {name: count // 2 for name, count in pair.items()}  # `probe` runs two images
        return Inspection(
            weights=str(path),
            label=description.spec.label,
            imgsz=PROBE_SIDE,
            layers=layer_reports(network, macs),
            size=model_size(network),
        )
