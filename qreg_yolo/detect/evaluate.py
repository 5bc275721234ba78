"""What is done with a checkpoint: it is measured on a data set, or draws its detections on images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qreg_yolo.detect import outputs
from qreg_yolo.detect.checkpoint import load_weights, quantization_warning
from qreg_yolo.detect.class_map import class_map
from qreg_yolo.detect.data_check import check_data, find_data
from qreg_yolo.detect.facade import QuantYOLO
from qreg_yolo.detect.preflight import check_arguments, check_classes
from qreg_yolo.detect.section import head_kind
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.strict_yaml import ConfigError
from qreg_yolo.suggest import did_you_mean
from qreg_yolo.training.environment import use_threads
from qreg_yolo.training.folders import writable_project
from qreg_yolo.training.tensor_file import WeightsError

SPLITS: tuple[str, ...] = ("train", "val", "test")


def validate(
    weights: Path,
    data: str | None,
    arguments: dict[str, Any],
    threads: int | None,
    head: str | None = None,
    classes: str | None = None,
) -> outputs.RunResult:
    """Measures a checkpoint on a data set (default: the one it was trained on) and records the numbers.

    Args:
        weights: The checkpoint.
        data: As `find_data`; None: the data it was trained on.
        arguments: Ultralytics'.
        threads: CPU threads; None: all cores.
        head: The head that it has to have; None: any.
        classes: As `class_map`; None: its classes are those of the data.

    Raises:
        ConfigError: A value that the host refuses, another head, or a class map that does not fit.
        FileNotFoundError: The checkpoint or the data do not exist.
        DataError, WeightsError: They exist, but cannot be used, or do not go together.
        OSError: The project folder cannot be written.
    """
    split = arguments.get("split", "val")
    if split not in SPLITS:
        raise ConfigError(f"split={split} is not one of: {', '.join(SPLITS)}.{did_you_mean(str(split), SPLITS)}")
    use_threads(threads)
    check_arguments(arguments, "val")
    model, stored = load_weights(weights)
    outputs.warn(quantization_warning(model))
    if head not in (None, head_kind(model.yaml)):
        raise ConfigError(f"'{weights}' has the {head_kind(model.yaml)} head, --head asks for {head}. Drop --head.")
    trained = stored.get("train_args", {})
    project = writable_project(arguments.get("project"))
    checked = check_data(find_data(data or str(trained.get("data") or "demo")), (split,))
    names = tuple(map(str, model.names.values()))
    check_classes(arguments.get("classes"), checked.names)
    single = arguments.get("single_cls", trained.get("single_cls"))
    if classes is None and not single and len(names) != len(checked.names):
        raise WeightsError(
            f"'{weights}' has {len(names)} classes, {checked.yaml} {len(checked.names)}. Give the data that it was "
            "trained for, or say which classes are which with --class-map."
        )
    mapped = None if classes is None else class_map(classes, checked.names, names)
    facade = QuantYOLO(str(weights))
    metrics = facade.val(
        partial(QuantDetectionValidator, classes=mapped),
        **{"name": "val", **arguments, "project": project, "data": str(checked.yaml)},
    )
    results = {str(key): float(value) for key, value in metrics.results_dict.items()}
    save_dir = Path(metrics.save_dir)
    outputs.append_records(
        save_dir / outputs.RECORDS,
        weights,
        model.yaml,
        results,
        data=checked.yaml.stem,
        seed=int(trained.get("seed", 0)),
        n_images=checked.n_images,
        val_split=split,
    )
    table = f"{outputs.accuracy_table({weights.name: results})}\nResults: {save_dir}"
    return outputs.RunResult(save_dir=save_dir, table=table)


def predict(weights: Path, source: str, arguments: dict[str, Any], threads: int | None) -> outputs.RunResult:
    """Draws a checkpoint's detections on images; returns where they lie.

    Raises:
        ConfigError: A value that the host refuses.
        FileNotFoundError: The checkpoint or the source does not exist.
        WeightsError: Not a checkpoint.
    """
    use_threads(threads)
    check_arguments(arguments, "predict")
    model, _ = load_weights(weights)
    outputs.warn(quantization_warning(model))
    check_classes(arguments.get("classes"), list(map(str, model.names.values())))
    if not Path(source).exists() and "*" not in source:
        raise FileNotFoundError(
            f"There is no image or folder '{source}'. Give an image, a folder or a pattern with '*'."
        )
    project = writable_project(arguments.get("project"))
    defaults = {"save": True, "name": "predict", "verbose": False}
    images = boxes = 0
    save_dir = Path(project)
    facade = QuantYOLO(str(weights))
    for result in facade.predict(source, stream=True, **{**defaults, **arguments, "project": project}):
        images, boxes, save_dir = images + 1, boxes + len(result.boxes), Path(result.save_dir or project)
    return outputs.RunResult(save_dir=save_dir, table=f"{boxes} detections on {images} images\nResults: {save_dir}")
