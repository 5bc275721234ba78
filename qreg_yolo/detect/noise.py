"""Weight noise of a detector's checkpoint, and its effect on the training loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.torch_utils import select_device

from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import check_channels, find_data
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import MIN_SIDE, ImageSet, check_data
from qreg_yolo.detect.detectors import Detector, classes_of, load_detectors
from qreg_yolo.detect.policy import first_last_layers, float_layers
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.views import clean_batches
from qreg_yolo.io.process import use_threads
from qreg_yolo.noise.jacobian import Outputs, Weights, outputs_of
from qreg_yolo.noise.perturbation import Task
from qreg_yolo.noise.study import NoiseRequest, Plan, study_report
from qreg_yolo.quant.convert import plan_quantization
from qreg_yolo.quant.spec import LayerPlan, QuantSpec
from qreg_yolo.robustness.request import check_counts
from qreg_yolo.terminal import Progress, no_progress

LIMIT = 16
"""Default number of images that gradients and losses are measured on."""
_BATCH = 8
"""Images per batch; the loss of each batch is one unit of the sample."""
Raw = Mapping[str, Any]
"""Outputs of a head in training: name -> tensor or list of tensors."""
_FEATURES = "feats"
"""Name of the head's inputs among its outputs; Ultralytics' loss reads their shapes."""


@dataclass(frozen=True, kw_only=True)
class DetectorNoiseRequest(NoiseRequest):
    """The request of `measure`; None: as the checkpoint was trained, or the default."""

    imgsz: int | None = None
    """Px; None: the training's."""
    class_map: str | None = None
    """As `datasets.classes.class_map`; None: classes match by name."""


def measure(request: DetectorNoiseRequest, progress: Progress = no_progress) -> dict[str, Any]:
    """Returns the report of a checkpoint as plain values (`study_report`).

    Raises:
        ConfigError: An invalid image size or number.
        FileNotFoundError, DataError, WeightsError: A checkpoint or data that are missing or unusable.
        OSError: The folder cannot be written.
        ValueError: A layer without weights.
    """
    check_counts({"limit": request.limit}, 1)
    use_threads(request.threads)
    device = select_device(request.device or "", verbose=False)
    restore_threads()
    (detector,) = load_detectors([request.weights], request.imgsz)
    images = _images(request, detector) if request.losses else None
    model = detector.model.to(device)
    about = {"track": "detect", "model": detector.identity["model"]}
    data = None if images is None else {"data": images.yaml.stem, "split": images.split, "n_images": len(images.images)}
    task = None if images is None else partial(_task, detector, images, device)
    spec = QuantizationConfig.of(model).spec
    return study_report(model, _plan(model), request, spec=spec, task=task, about=about, data=data, progress=progress)


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
    """Returns the detector's outputs, the images as in validation, and the training loss."""
    model = detector.model
    model.args = IterableSimpleNamespace(**model.args)  # the type that Ultralytics' losses read
    outputs, loss = raw_outputs(model), BatchLoss(model)
    batches = [(batch["img"], loss.target(batch)) for batch in _batches(detector, images, device)]
    return Task(outputs, batches, {"detection": loss})


def _batches(detector: Detector, images: ImageSet, device: torch.device) -> Iterator[dict[str, Any]]:
    for batch in clean_batches(images, _BATCH, detector.view, detector.single_cls):
        tensors = {name: batch[name].to(device) for name in ("img", "batch_idx", "cls", "bboxes")}
        yield {**tensors, "img": tensors["img"].float() / 255}


def raw_outputs(model: Any) -> Outputs:
    """Returns a detector's raw outputs `(b, n)` as a function of its weights; of an end-to-end head, one-to-many."""
    outputs = outputs_of(model, lambda preds: _joined(_branch(preds)))

    def raw(weights: Weights, x: Tensor) -> Tensor:
        model.model[-1].training = True  # so that the head does not decode; its layers stay in eval mode
        return outputs(weights, x)

    return raw


class BatchLoss:
    """Training loss of a detector per image, as a function of its joined raw outputs; one value per batch.

    Derivatives treat the targets of the outputs as constant, as training does (except a weight within CIoU). A measured
    loss assigns the targets anew, so that a measured increase includes the effect of changed targets.

    Args:
        model: Has the gains in its ``args``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        dual = getattr(model.model[-1], "one2one_cv2", None) is not None
        self._criterion = v8DetectionLoss(model) if dual else model.init_criterion()

    def target(self, batch: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Raw]:
        """Returns the other arguments of the loss: the batch, and a form of the outputs with values of 0."""
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
    """Returns zeros of the same shape without memory."""
    return tensor.new_zeros(()).expand(tensor.shape)
