"""The weight noise of a detector's checkpoint, and what it does to its training loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.torch_utils import select_device

from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import check_channels, find_data
from qreg_yolo.detect.batch_validator import Detector, classes_of, load_detectors
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import MIN_SIDE, ImageSet, check_data
from qreg_yolo.detect.policy import first_last_layers, float_layers
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.views import CorruptedBatches, View
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.metrics.conditions import CLEAN
from qreg_yolo.noise.jacobian import Outputs, Weights, outputs_of
from qreg_yolo.noise.perturbation import Task
from qreg_yolo.noise.study import NoiseRequest, Plan, gradient_layers, report, study
from qreg_yolo.quant.convert import plan_quantization
from qreg_yolo.quant.spec import LayerPlan, QuantSpec
from qreg_yolo.quant.weight_noise import quantized_weights
from qreg_yolo.robustness.request import check_counts
from qreg_yolo.terminal import Progress, no_progress
from qreg_yolo.training.environment import use_threads

LIMIT = 16
"""Images that gradients and losses are measured on, unless asked for otherwise."""
_BATCH = 8
"""Images at a time; the loss of each batch is one unit of the sample."""
Raw = Mapping[str, Any]
"""Outputs of a head in training: tensors, or lists of them, by name."""
_FEATURES = "feats"
"""The name of its inputs among them: Ultralytics' loss reads their shapes."""


@dataclass(frozen=True, kw_only=True)
class DetectorNoiseRequest(NoiseRequest):
    """The request of `measure`; None: as the checkpoint was trained, or the default."""

    imgsz: int | None = None
    """Px; None: the training's."""
    class_map: str | None = None
    """As `class_map.class_map`; None: classes go by name."""


def measure(request: DetectorNoiseRequest, progress: Progress = no_progress) -> dict[str, Any]:
    """Returns the report of a checkpoint as plain values (`quant.noise_study.report`).

    Raises:
        ConfigError: An image size or number that cannot be.
        FileNotFoundError, DataError, WeightsError: A checkpoint or data that are missing or cannot be used.
        OSError: The folder cannot be written.
        ValueError: A layer that has no weights.
    """
    check_counts({"limit": request.limit}, 1)
    use_threads(request.threads)
    device = select_device(request.device or "", verbose=False)
    restore_threads()
    (detector,) = load_detectors([request.weights], request.imgsz)
    images = _images(request, detector) if request.losses else None
    model = detector.model.to(device)
    plan, spec = _plan(model), QuantizationConfig.of(model).spec
    if request.folder is not None:
        writable_project(request.folder, "--out")
    rows = study(
        model,
        gradient_layers(model, plan),
        plan,
        request.sweep,
        own=spec if quantized_weights(model) else None,
        task=None if images is None else _task(detector, images, device),
        progress=progress,
    )
    about: dict[str, Any] = {
        "weights": str(request.weights), "track": "detect", "model": detector.identity["model"],
        "label": spec.label, **records.provenance(),
    }  # fmt: skip
    if images is not None:
        about |= {"data": images.yaml.stem, "split": images.split, "n_images": len(images.images)}
    return report(about, request.sweep, rows)


def _images(request: DetectorNoiseRequest, detector: Detector) -> ImageSet:
    data = request.data or str(detector.trained.get("data") or "demo")
    images = check_data(
        find_data(data), request.split or "train", limit=request.limit or LIMIT, min_side=MIN_SIDE,
        single_cls=detector.single_cls,
    )  # fmt: skip
    check_channels(images.yaml, images.channels)
    mapped = classes_of(detector, images, request.class_map)
    return images if mapped is None else images.renumbered(mapped.rows, class_names(detector.model.names))


def _plan(model: Any) -> Plan:
    ends, keep_float = first_last_layers(model), float_layers(model)

    def plan(spec: QuantSpec) -> Mapping[str, LayerPlan]:
        return plan_quantization(model, spec, first_last_layers=ends, keep_float=keep_float, pretrained=True).swapped

    return plan


def _task(detector: Detector, images: ImageSet, device: torch.device) -> Task:
    """Returns the detector's outputs, its images as validation shows them, and the loss that it was trained with."""
    model = detector.model
    model.args = IterableSimpleNamespace(**model.args)  # as Ultralytics' losses read it
    outputs, loss = raw_outputs(model), BatchLoss(model)
    batches = [(batch["img"], loss.target(batch)) for batch in _batches(detector, images, device)]
    return Task(outputs, batches, {"detection": loss})


def _batches(detector: Detector, images: ImageSet, device: torch.device) -> Iterator[dict[str, Any]]:
    view = View(images, _BATCH, detector.view, detector.single_cls)
    parts = [slice(start, start + _BATCH) for start in range(0, len(images.images), _BATCH)]
    plain = CorruptedBatches(images, [view], parts, {})
    for number in range(len(parts)):
        _, (batch,) = plain[(CLEAN, 0), number]
        tensors = {name: batch[name].to(device) for name in ("img", "batch_idx", "cls", "bboxes")}
        yield {**tensors, "img": tensors["img"].float() / 255}


def raw_outputs(model: Any) -> Outputs:
    """Returns a detector's raw outputs `(b, n)` as a function of its layers' weights: logits of boxes and classes.

    Nothing is decoded. Of an end-to-end head those of its one-to-many branch.
    """
    outputs = outputs_of(model, lambda preds: _joined(_branch(preds)))

    def raw(weights: Weights, x: Tensor) -> Tensor:
        model.model[-1].training = True  # its layers stay in eval mode; otherwise it decodes, and keeps what it needs
        return outputs(weights, x)

    return raw


class BatchLoss:
    """The loss that a detector is trained with, from its raw outputs joined; per image, a unit per batch.

    In its derivatives what an output is to be is fixed, as in training (a weight within CIoU is not). Where the loss is
    measured that is decided anew, from the outputs at hand, so that a measured rise holds what the targets move too.

    Args:
        model: Its ``args`` hold the gains.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        dual = getattr(model.model[-1], "one2one_cv2", None) is not None
        self._criterion = v8DetectionLoss(model) if dual else model.init_criterion()

    def target(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Raw]:
        """Returns what the loss takes beside the outputs: the batch, and how the outputs lie apart (values are 0)."""
        head = self._model.model[-1]
        training = head.training
        head.training = True
        with torch.no_grad():
            preds = _branch(self._model(batch["img"]))
        head.training = training
        return batch, {name: _shaped(value, iter(map(_empty, _listed(value)))) for name, value in preds.items()}

    def __call__(self, y: Tensor, target: tuple[Mapping[str, Tensor], Raw]) -> Tensor:
        batch, form = target
        sizes = [tensor[0].numel() for tensor in _outputs(form)]
        pieces: Iterator[Tensor] = iter(y.split(sizes, 1))  # type: ignore[no-untyped-call]
        preds = {name: value if name == _FEATURES else _shaped(value, pieces) for name, value in form.items()}
        loss, _ = self._criterion(preds, batch)
        per_image: Tensor = loss.sum()[None] / len(y)
        return per_image


def _branch(preds: Any) -> Raw:
    found: Raw = preds.get("one2many", preds)
    return found


def _outputs(preds: Raw) -> list[Tensor]:
    return [tensor for name, value in preds.items() if name != _FEATURES for tensor in _listed(value)]


def _joined(preds: Raw) -> Tensor:
    return torch.cat([tensor.flatten(1) for tensor in _outputs(preds)], 1)


def _listed(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _shaped(value: Any, pieces: Iterator[Tensor]) -> Any:
    """Returns the next tensors in the form of ``value``: a tensor, or a list of them."""
    shaped = [next(pieces).reshape(tensor.shape) for tensor in _listed(value)]
    return shaped[0] if isinstance(value, Tensor) else shaped


def _empty(tensor: Tensor) -> Tensor:
    """Returns zeros of the same shape that take no memory."""
    return tensor.new_zeros(()).expand(tensor.shape)
