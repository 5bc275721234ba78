"""Quantization correction of a trained detector: codes and statistics stay, scales and shifts are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.patches import override_configs
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.datasets.sources import find_data
from qreg_yolo.detect import evaluate, outputs, resume
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.policy import output_convolutions
from qreg_yolo.detect.preflight import check_arguments
from qreg_yolo.detect.ptq import save
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.files import new_folder, writable_project
from qreg_yolo.io.process import use_threads
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.rescale import fold_scales, scale_layers
from qreg_yolo.training.batch_norm import norms_of, reestimate
from qreg_yolo.training.tensor_file import SUFFIX

_RECIPE = {
    "optimizer": "AdamW", "momentum": 0.9, "lrf": 0.02, "weight_decay": 0.0, "warmup_epochs": 0.0, "nbs": 16,
    "patience": 0, "close_mosaic": 0, "plots": False, "val": False,
}  # fmt: skip
"""Ultralytics' arguments of a correction."""
_DROPPED = ("resume", "save_dir", "name", "project", "model", "freeze", "compile", "time", KEY)
"""Arguments of the training that the correction does not share."""


@dataclass(frozen=True, kw_only=True)
class CorrectionRequest:
    """The request of `correct`."""

    weights: Path
    """A quantized checkpoint."""
    epochs: int = 1
    """Passes over the training set; 0: no correction."""
    lr0: float = 5e-4
    """Learning rate at the start."""
    bn_batches: int = 0
    """Batches to estimate BatchNorm's statistics on, before the correction; 0: they stay."""
    data: str | None = None
    """As `find_data`; None: the training's."""
    threads: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Ultralytics' arguments."""


class CorrectionTrainer(QuantDetectionTrainer):
    """A training in which BatchNorm's affine pairs, and scale and bias of the output layers, move alone.

    Quantization correction (Gupta & Asthana, arXiv 2311.05109): each convolution's output ``h`` becomes ``g h + d``, a
    pair per channel, trained by the detection loss. Before a BatchNorm with fixed statistics the pair is that of
    BatchNorm; in an output layer it is folded into bias and step.
    """

    output_layers: Sequence[str] = ()
    """Full names of the output layers."""

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Returns the trainer's optimizer; all other parameters need no gradient."""
        moving = {id(p) for p in corrected_parameters(unwrap_model(model), self.output_layers)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        return super().build_optimizer(model, *args, **kwargs)

    def run_callbacks(self, event: str) -> None:
        """Runs the callbacks; keeps BatchNorm on its statistics."""
        super().run_callbacks(event)
        if event == "on_train_batch_start":
            for norm in norms_of(self.model):
                norm.eval()

    def save_model(self) -> bool:
        """Saves nothing: the network with its scales is no checkpoint yet."""
        return False


def corrected_parameters(model: nn.Module, output_layers: Iterable[str]) -> list[nn.Parameter]:
    """Returns the parameters that a correction moves, in a network after `scale_layers`."""
    found: list[nn.Parameter] = [p for norm in norms_of(model) for p in (norm.weight, norm.bias) if p is not None]
    for name in output_layers:
        parameters = model.get_submodule(name).named_parameters()
        found += [p for key, p in parameters if key in ("scale", "bias", "layer.bias")]
    return found


def correct(request: CorrectionRequest) -> outputs.RunResult:
    """Corrects a checkpoint, writes it as another one, validates it and records the numbers.

    Raises:
        ConfigError: A value that Ultralytics refuses.
        FileNotFoundError: The checkpoint or the data do not exist.
        DataError, WeightsError: They cannot be used; the checkpoint is in full precision.
        OSError: The project folder cannot be written.
    """
    use_threads(request.threads)
    arguments = dict(request.arguments)
    check_arguments(arguments)
    facade = evaluate.opened(request.weights)
    model, trained = facade.model, facade.trained_with
    if not isinstance(model, QuantDetectionModel) or not quantized_layers(model):
        raise WeightsError(f"'{request.weights}' is in full precision: there is nothing to correct.")
    data = request.data or str(trained.get("data") or "demo")
    evaluate.check_request(request.weights, model, data, {}, None, None)
    project = Path(writable_project(arguments.pop("project", None)))
    label = QuantizationConfig.of(model).spec.label
    folder = new_folder(project, str(arguments.pop("name", f"{request.weights.stem}-{label}-corrected")))
    kept = {key: value for key, value in trained.items() if key not in _DROPPED}
    own = {"data": str(find_data(data)), "epochs": max(request.epochs, 1), "lr0": request.lr0}
    settings = {**kept, **_RECIPE, **own, **arguments, "project": str(folder), "name": "training"}
    result = _corrected(model, request, settings)
    path = folder / "weights" / f"{request.weights.stem}-corrected.pt"
    save(result, path, {**trained, "data": str(find_data(data))})
    placed = {"project": str(folder.parent), "name": folder.name, "exist_ok": True, "plots": False}
    measured = evaluate.validate(path, data, placed, request.threads)
    return outputs.RunResult(measured.save_dir, f"{measured.table}\nCheckpoint: {path}, {path.stem}{SUFFIX}")


def _corrected(
    model: QuantDetectionModel, request: CorrectionRequest, settings: Mapping[str, Any]
) -> QuantDetectionModel:
    """Returns the corrected network; ``model`` is changed too."""
    trainer = CorrectionTrainer(overrides={**settings, "model": str(request.weights)})
    if request.bn_batches:
        count = reestimate(model, _training_batches(trainer, model, request.bn_batches), _run)
        LOGGER.info(f"Estimated BatchNorm's statistics on {count} batches as in training")
    if not request.epochs:
        return model
    trainer.output_layers = output_convolutions(model)
    names = scale_layers(model, trainer.output_layers)
    trainer.model = model
    trainer.train()
    found = deepcopy(trainer.ema.ema)
    assert isinstance(found, QuantDetectionModel)
    found.criterion = None
    fold_scales(found, names)
    found.record_plan()
    found.requires_grad_(False)
    found.eval()
    return found


def _training_batches(trainer: CorrectionTrainer, model: nn.Module, count: int) -> Iterable[torch.Tensor]:
    """Yields images of ``count`` training batches, augmented as in training."""
    trainer.model, trainer.stride = model, max(int(model.stride.max()), 32)  # type: ignore[operator]
    with resume.preserved_random_state(), override_configs(trainer.args, {"cache": False, "workers": 0}):
        loader = trainer.get_dataloader(
            trainer.data["train"], batch_size=int(trainer.args.batch), rank=-1, mode="train"
        )
        while count > 0:
            for batch in islice(loader, count):
                yield trainer.preprocess_batch(batch)["img"]
                count -= 1


def _run(model: nn.Module, images: torch.Tensor) -> object:
    return model(images)
