"""Training and resuming of runs; all checks precede the work."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.config.detection import RunConfig, load
from qreg_yolo.config.distillation import KEY as DISTILL
from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import find_data
from qreg_yolo.detect import outputs
from qreg_yolo.detect.anchor_head import check_levels
from qreg_yolo.detect.checkpoint import Start, existing, load_start, quantization_warning
from qreg_yolo.detect.data_check import ImageSet, Label, check_data
from qreg_yolo.detect.facade import QuantYOLO
from qreg_yolo.detect.precision import amp_hint, resolve_amp
from qreg_yolo.detect.preflight import (
    check_arguments,
    check_classes,
    check_freeze,
    check_model,
    check_names,
    check_resume,
)
from qreg_yolo.detect.quantization_config import AVERAGE, EPOCH0, KEY, LOG_NOISE, RECIPE, VAL_EVERY, QuantizationConfig
from qreg_yolo.detect.safe_load import check_file
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.detect.teacher import HeadShape, check_teacher, load_teacher
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import FileAccessError, ModelError
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.io.locks import FolderLock, refuse_if_locked
from qreg_yolo.io.process import terminable, use_threads
from qreg_yolo.quant.report import model_size, plan_summary
from qreg_yolo.training.epoch_zero import NAME
from qreg_yolo.training.tensor_file import SUFFIX

_DEFAULTS: dict[str, Any] = {"optimizer": "SGD"}
"""Defaults that a recipe may override; Ultralytics' own is `optimizer=auto`."""


def train(config: RunConfig, start: Start | None = None) -> outputs.RunResult:
    """Trains a configuration and writes its results; returns their folder and the final table.

    Args:
        config: The configuration.
        start: What ``config.run.weights`` holds, if it was read already.

    Raises:
        ConfigError: A value that Ultralytics refuses.
        FileNotFoundError: The data, the weights, the teacher or the model YAML do not exist.
        DataError, ModelError, WeightsError: They cannot be used.
        OSError: The project folder cannot be written.
        FolderInUseError: Another process is writing into the run's folder.
        NonFiniteError: The loss became infinite or NaN.
    """
    use_threads(config.run.threads)
    amp = resolve_amp(config.train.get("amp", False), config.train.get("device"))
    check_arguments({**config.train, "amp": amp})
    if (hint := amp_hint(amp, config.train.get("device"))) is not None:
        LOGGER.info(hint)
    check_model(config.run.model)
    if config.run.weights is not None and start is None:
        existing(Path(config.run.weights))
    teacher = load_teacher(config.distill)
    data, scanned = _check(config.run.data, config.train)
    facade = _built(config.run.model)
    if config.head.has_anchors:
        check_levels(facade.model)
    if teacher is not None:
        config = replace(config, distill=teacher.options)
        names = ["item"] if config.train.get("single_cls") else class_names(data.names)
        check_teacher(teacher, HeadShape.of(facade.model, kind=config.head.kind), names, data.channels)
    if config.run.weights is not None:
        start = _checked_start(config, facade, start)
    arguments = _arguments(config, amp, data)
    if arguments.get("exist_ok"):
        refuse_if_locked(Path(arguments["project"]) / str(arguments["name"]))
    trainer = partial(QuantDetectionTrainer, start=start, scanned=scanned, teacher=teacher)
    return _run(facade, trainer, arguments, data, config)


def _arguments(config: RunConfig, amp: bool | str, data: ImageSet) -> dict[str, Any]:
    """Returns the trainer's arguments: Ultralytics' and our request."""
    return {
        **_DEFAULTS,
        **config.train,
        "name": run_name(config),
        "amp": amp,
        "data": str(data.yaml),
        "seed": config.run.seed,
        "pretrained": config.run.weights or False,
        "project": writable_project(config.train.get("project")),
        KEY: {
            **config.quant.to_dict(),
            "activation": config.run.activation,
            "head": asdict(config.head) if config.head.has_anchors else config.head.kind,
            LOG_NOISE: config.run.log_noise,
            VAL_EVERY: config.run.val_every,
            RECIPE: config.run.recipe,
            EPOCH0: config.run.epoch0,
            AVERAGE: config.run.average,
            **config.distill.section(),
            **config.oscillation.section(),
        },
    }


def baseline(config: RunConfig) -> Path:
    """Returns the last checkpoint of an fp32 run: of the finished one with this configuration, or of a new one."""
    folder = Path(writable_project(config.train.get("project"))) / run_name(config)
    written = folder / "config.yaml"
    if (folder / records.FILE).is_file() and written.is_file() and _same_run(load(written), config):
        LOGGER.info(f"The fp32 baseline is finished: {folder}")
    else:
        LOGGER.info("First the fp32 baseline:")
        result = train(config)
        print(result.table)
        folder = result.save_dir
    return folder / "weights" / "last.pt"


def _same_run(one: RunConfig, other: RunConfig) -> bool:
    """Returns whether two configurations agree in all that decides the numbers."""
    return replace(one, run=replace(one.run, threads=other.run.threads)) == other


def run_name(config: RunConfig) -> str:
    """Returns the name of a run's folder: the one asked for, or model, head, widths and seed."""
    head = "-anchor" if config.head.has_anchors else ""
    own = f"{Path(config.run.model).stem}{head}-{config.quant.label}-s{config.run.seed}"
    return str(config.train.get("name") or own)


def _check(data: str, arguments: Mapping[str, Any]) -> tuple[ImageSet, dict[str, Label]]:
    """Returns the validation images, and image path -> label for both splits."""
    yaml, single_cls = find_data(data), bool(arguments.get("single_cls"))
    train, val = (check_data(yaml, split, single_cls=single_cls) for split in ("train", "val"))
    return val, val.scanned | train.scanned


def _checked_start(config: RunConfig, facade: QuantYOLO, start: Start | None) -> Start:
    """Returns the start of the training; warns of what does not fit, and raises `WeightsError` if nothing does."""
    if start is None:
        start, _ = load_start(Path(str(config.run.weights)))
    if isinstance(start, YOLOv5Weights):
        start.fitting(facade.model.state_dict())
    else:
        outputs.warn(quantization_warning(start))
        outputs.warn(_other_head(start.yaml, config.head.kind))
    return start


def _built(model: str) -> QuantYOLO:
    """Returns the facade of a model YAML; raises `ModelError` if Ultralytics cannot build it."""
    try:
        return QuantYOLO(model)
    except ModelError:
        raise
    except Exception as error:  # Ultralytics' parser raises many kinds of errors on unexpected values
        raise ModelError(
            f"The model YAML '{model}' cannot be built ({type(error).__name__}: {error}). Compare it with yolov5n.yaml."
        ) from error


def resume(
    checkpoint: Path, arguments: dict[str, Any], request: dict[str, Any], threads: int | None
) -> outputs.RunResult:
    """Continues an interrupted run from its ``last.pt``.

    Args:
        checkpoint: ``weights/last.pt`` of the run.
        arguments: Ultralytics' arguments; only those of `preflight.RESUMABLE` may change.
        request: Given quantization options; they must agree with the checkpoint's.
        threads: CPU threads; None: all cores.

    Raises:
        WeightsError, FileNotFoundError: No readable checkpoint, or not the teacher that the run began with.
        ConfigError: A finished run, other quantization settings, or an argument that cannot change.
    """
    use_threads(threads)
    existing(checkpoint)
    facade = QuantYOLO(str(checkpoint))
    stored = facade.ckpt
    if (best := checkpoint.with_name("best.pt")).is_file():
        check_file(best)  # read at the end
    check_resume(checkpoint, stored, arguments, request)
    check_arguments(arguments)
    folder = checkpoint.absolute().parent.parent  # Ultralytics' choice ignores that the run was moved
    refuse_if_locked(folder)
    trained = stored["train_args"]
    teacher = load_teacher(DistillOptions(**(trained[KEY].get(DISTILL) or {})))
    data, scanned = _check(str(trained["data"]), trained)
    check_names(facade.model, data, checkpoint)
    own = {"resume": str(checkpoint), "data": str(data.yaml), "save_dir": str(folder)}
    trainer = partial(QuantDetectionTrainer, resumed=(facade.model, stored), scanned=scanned, teacher=teacher)
    return _run(facade, trainer, {**arguments, **own}, data, None)


def _run(
    model: QuantYOLO,
    make_trainer: Callable[..., QuantDetectionTrainer],
    arguments: dict[str, Any],
    data: ImageSet,
    config: RunConfig | None,
) -> outputs.RunResult:
    check_freeze(model.model, arguments.get("freeze"))
    check_classes(arguments.get("classes"), class_names(data.names))
    with FolderLock() as lock:
        for event, callback in callbacks(config, lock, data.yaml.stem).items():
            model.add_callback(event, callback)
        try:
            with terminable():
                model.train(make_trainer, **arguments)
        except (KeyboardInterrupt, SystemExit):
            outputs.warn(_resume_hint(model.trainer))
            raise
    trainer = model.trainer
    last = outputs.last_epoch(trainer.csv)
    best = trainer.metrics or model.ckpt["train_metrics"]  # with several GPUs a child process has the metrics
    _write_safetensors(model)
    size = model_size(model.model)
    table = (
        f"{outputs.accuracy_table({'last epoch (last.pt)': last, 'best epoch (best.pt)': dict(best)})}\n"
        f"Size: {size.quantized_mb:.2f} MB at its bit widths, {size.float_mb:.2f} MB in fp32\n"
        f"Results: {trainer.save_dir} (weights/best.pt, best.safetensors, results.csv, records.csv, config.yaml)"
    )
    return outputs.RunResult(save_dir=trainer.save_dir, table=table)


def _resume_hint(trainer: QuantDetectionTrainer | None) -> str:
    """Returns the message after Ctrl-C or SIGTERM."""
    last = getattr(trainer, "last", None)
    if last is None or not last.is_file():
        return "Interrupted before the first checkpoint: start again."
    return f"Interrupted. Resume with: qreg-yolo train --resume {shlex.quote(str(last))}"


def callbacks(config: RunConfig | None, lock: FolderLock, data: str) -> dict[str, Callable[[Any], None]]:
    """Returns the callbacks of a run by Ultralytics' event; with several GPUs a child process calls them.

    Args:
        config: Written into the run's folder; None for a resumed run, which has it already.
        lock: Acquired when the run's folder is known.
        data: Name of the dataset, for the records.
    """
    command = records.provenance()["command"]

    def take(trainer: QuantDetectionTrainer) -> None:
        lock.take(trainer.save_dir)

    def describe(trainer: QuantDetectionTrainer) -> None:
        if RANK not in {-1, 0}:
            return
        model_yaml = unwrap_model(trainer.model).yaml
        LOGGER.info(summary(model_yaml))
        if config is not None:
            outputs.write_description(trainer.save_dir, config, model_yaml, trainer.device)

    def record(trainer: QuantDetectionTrainer) -> None:
        if RANK not in {-1, 0}:
            return
        evaluated = outputs.evaluated(trainer)
        yaml, objects = unwrap_model(trainer.model).yaml, trainer.validator.n_objects
        measured = [
            (outputs.identity(weights, yaml, trainer.args.seed), outputs.defined(dict(results), objects))
            for weights, results in ((trainer.last, outputs.last_epoch(trainer.csv)), (trainer.best, trainer.metrics))
        ]
        if (zero := trainer.zero) is not None:
            identity = outputs.named_identity(NAME, zero.weights_sha256, yaml, trainer.args.seed)
            measured.append(({**identity, "training": "none"}, outputs.defined(dict(zero.metrics), objects)))
        for identity, results in measured:
            outputs.append_records(
                trainer.save_dir / outputs.RECORDS, identity, results, data=data, evaluated=evaluated, command=command
            )

    return {"on_pretrain_routine_start": take, "on_pretrain_routine_end": describe, "on_train_end": record}


def _write_safetensors(model: QuantYOLO) -> None:
    """Writes the run's final checkpoint as a safetensors checkpoint into the same folder."""
    path = Path(model.model.pt_path).with_suffix(SUFFIX)
    try:
        save_safetensors(model.model, path, model.ckpt["train_args"])
    except OSError as error:
        raise FileAccessError(
            f"'{path}' could not be written: {error.strerror}. The run is complete without it: its checkpoint is "
            f"'{model.model.pt_path}'."
        ) from error


def summary(model_yaml: dict[str, Any]) -> str:
    """Returns a few lines on the quantized layers of a model's YAML dictionary."""
    config = QuantizationConfig.read(model_yaml)
    return plan_summary(config.layers or {}, config.skipped, noun="convolutions")


def _other_head(model_yaml: dict[str, Any], kind: str) -> str | None:
    """Returns a warning if a checkpoint has another head than the training, else None."""
    if (present := QuantizationConfig.read(model_yaml).head.kind) == kind:
        return None
    return (
        f"The checkpoint has the {present} head, this run the {kind} head, which starts untrained. To keep it: "
        f"--head {present}."
    )
