"""Validation, prediction and inspection of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qreg_yolo.datasets.classes import ClassMap, class_map, class_names, match_classes
from qreg_yolo.datasets.sources import SPLITS, find_data
from qreg_yolo.detect import outputs
from qreg_yolo.detect.checkpoint import existing, load_weights, quantization_warning
from qreg_yolo.detect.data_check import ImageSet, check_data
from qreg_yolo.detect.facade import QuantYOLO
from qreg_yolo.detect.policy import unused_branch
from qreg_yolo.detect.preflight import check_arguments, check_classes
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.errors import MissingFileError, did_you_mean
from qreg_yolo.io.files import writable_project
from qreg_yolo.io.process import use_threads
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.inspection import Inspection, one_thread
from qreg_yolo.quant.report import count_macs, layer_reports, model_size


def validate(
    weights: Path,
    data: str | None,
    arguments: dict[str, Any],
    threads: int | None,
    head: str | None = None,
    classes: str | None = None,
) -> outputs.RunResult:
    """Measures a checkpoint on a dataset and records the numbers.

    Args:
        weights: The checkpoint.
        data: As `find_data`; None: the training's data.
        arguments: Ultralytics'.
        threads: CPU threads; None: all cores.
        head: Required kind of head; None: any.
        classes: A class map (`class_map`); None: the classes of the data are the model's.

    Raises:
        ConfigError: A value that Ultralytics refuses, another head, or a class map that does not fit.
        FileNotFoundError: The checkpoint or the data do not exist.
        DataError, WeightsError: They cannot be used, or have different classes.
        OSError: The project folder cannot be written.
    """
    split = _split(arguments)
    use_threads(threads)
    check_arguments(arguments, "val")
    existing(weights)
    checked = None if data is None else _checked(data, split, arguments.get("single_cls"))
    facade = opened(weights)
    model, trained = facade.model, facade.trained_with
    single = bool(arguments.get("single_cls", trained.get("single_cls")))
    checked = checked or _checked(str(trained.get("data") or "demo"), split, single)
    mapped = _matched(weights, model, checked, single, arguments, head, classes)
    project = writable_project(arguments.get("project"))
    made: list[QuantDetectionValidator] = []

    def validator(**given: Any) -> QuantDetectionValidator:
        made.append(QuantDetectionValidator(classes=mapped, scanned=checked.scanned, **given))
        return made[0]

    metrics = facade.val(validator, **{"name": "val", **arguments, "project": project, "data": str(checked.yaml)})
    save_dir = Path(metrics.save_dir)
    numbers = {str(key): float(value) for key, value in metrics.results_dict.items()}
    results = outputs.defined(numbers, made[0].n_objects)
    outputs.append_records(
        save_dir / outputs.RECORDS,
        outputs.identity(weights, model.yaml, int(trained.get("seed", 0))),
        results,
        data=checked.yaml.stem,
        evaluated={split: outputs.Evaluated(made[0].seen, made[0].evaluation, made[0].precision)},
        val_split=split,
    )
    table = f"{outputs.accuracy_table({weights.name: results})}\nResults: {save_dir}"
    return outputs.RunResult(save_dir=save_dir, table=table)


def _split(arguments: Mapping[str, Any]) -> str:
    split = str(arguments.get("split", "val"))
    if split not in SPLITS:
        raise ConfigError(f"split={split} is not one of: {', '.join(SPLITS)}.{did_you_mean(split, SPLITS)}")
    return split


def _matched(
    weights: Path,
    model: Any,
    images: ImageSet,
    single_cls: bool,
    arguments: Mapping[str, Any],
    head: str | None,
    classes: str | None,
) -> ClassMap | None:
    """Returns the map from the model's classes to the data's; raises for another head, or classes that do not match."""
    if head not in (None, present := QuantizationConfig.of(model).head.kind):
        raise ConfigError(f"'{weights}' has the {present} head, --head asks for {head}. Remove --head.")
    names, data_names = class_names(model.names), class_names(images.names)
    check_classes(arguments.get("classes"), data_names)
    if classes is not None:
        return class_map(classes, data_names, names)
    return None if single_cls else match_classes(data_names, names, weights, images.yaml)


def check_request(
    weights: Path, model: Any, data: str, arguments: Mapping[str, Any], head: str | None, classes: str | None
) -> None:
    """Raises what `validate` would raise for a loaded model on a dataset."""
    single = bool(arguments.get("single_cls", model.args.get("single_cls")))
    _matched(weights, model, _checked(data, _split(arguments), single), single, arguments, head, classes)


def opened(weights: Path) -> QuantYOLO:
    """Returns the facade of a checkpoint; warns if its quantization was lost."""
    facade = QuantYOLO(str(weights))
    outputs.warn(quantization_warning(facade.model))
    return facade


def _checked(data: str, split: str, single_cls: object) -> ImageSet:
    return check_data(find_data(data), split, single_cls=bool(single_cls))


def predict(weights: Path, source: str, arguments: dict[str, Any], threads: int | None) -> outputs.RunResult:
    """Draws a checkpoint's detections on images; returns their folder.

    Raises:
        ConfigError: A value that Ultralytics refuses.
        FileNotFoundError: The checkpoint or the source does not exist.
        WeightsError: Not a checkpoint.
    """
    use_threads(threads)
    check_arguments(arguments, "predict")
    existing(weights)
    if not Path(source).exists() and "*" not in source:
        raise MissingFileError(
            f"There is no image or folder '{source}'. Give an image, a folder or a pattern with '*'."
        )
    facade = opened(weights)
    check_classes(arguments.get("classes"), class_names(facade.model.names))
    project = writable_project(arguments.get("project"))
    arguments = {"save": True, "name": "predict", "verbose": False, **arguments, "project": project}
    images, boxes, save_dir = 0, 0, Path(project)
    try:
        for result in facade.predict(source, stream=True, **arguments):
            images, boxes, save_dir = images + 1, boxes + len(result.boxes), Path(result.save_dir or project)
    except FileNotFoundError as error:  # Ultralytics found nothing, or not what the pattern names
        raise MissingFileError(str(error)) from error
    return outputs.RunResult(save_dir=save_dir, table=f"{boxes} detections on {images} images\nResults: {save_dir}")


@one_thread()
def inspect_weights(path: Path) -> Inspection:
    """Returns a checkpoint's layers, size and cost; MACs at the training's image size.

    Raises:
        FileNotFoundError, WeightsError: No readable checkpoint.
    """
    model, checkpoint = load_weights(path)
    imgsz = int(checkpoint.get("train_args", {}).get("imgsz") or 640)
    image = torch.zeros(1, int(model.yaml.get("channels", 3)), imgsz, imgsz)
    macs = count_macs(model, lambda: model(image))
    return Inspection(
        weights=str(path),
        label=QuantizationConfig.of(model).spec.label,
        imgsz=imgsz,
        layers=layer_reports(model, macs),
        size=model_size(model),
        unused_branch=unused_branch(model),
        warning=quantization_warning(model),
    )
