"""A classifier as one ``.safetensors`` file: tensors, and a JSON description in the header. No pickle is involved.

The checkpoint of an unfinished run also holds the optimizer's state and the epochs so far, so that one rename replaces
all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from qreg_yolo import __version__
from qreg_yolo.classify.models import build_model, is_import_path
from qreg_yolo.config.classification import LAYOUT
from qreg_yolo.config.fine_tuning import classifier_sections
from qreg_yolo.errors import MissingFileError, WeightsError
from qreg_yolo.io import files
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.convert import apply_plan, quantized_layers
from qreg_yolo.quant.spec import BEFORE_INIT, LayerPlan, QuantSpec
from qreg_yolo.training.epoch_zero import EpochZero
from qreg_yolo.training.staging import Staging
from qreg_yolo.training.tensor_file import SUFFIX, fill, keys, read, tensors_of

HEADER = "qreg_yolo_classifier"
"""Key of the description in the file's metadata; the only one, so that equal content is equal bytes."""
VERSION = 1
LACKING = "is not a classifier of qreg-yolo. Give a file that 'classify train' wrote."
_OPTIMIZER, _EXTENSIONS = "optimizer/", "extensions/"
"""Prefixes of tensors that only resuming needs."""


@dataclass(kw_only=True)
class Description:
    """Everything about a classifier but its tensors: architecture, training, results."""

    model: str
    """Name, or ``package.module:factory``."""
    classes: tuple[str, ...]
    """Names by label."""
    config: dict[str, Any]
    """The run's configuration, by section (`ClassifyConfig.to_dict`)."""
    precision: str
    """`fp32` | `bf16`: arithmetic outside the quantizers."""
    training: str = "qat"
    """`qat`, or `none`: quantized without training."""
    layers: dict[str, LayerPlan] = field(default_factory=dict)
    """The plan of every quantized layer, by full name."""
    skipped: dict[str, str] = field(default_factory=dict)
    """The other layers, with the reason."""

    @property
    def spec(self) -> QuantSpec:
        """The quantization that was requested."""
        return QuantSpec.from_options({**BEFORE_INIT, **self.config["quant"]})

    def resolve(self, model: nn.Module, unreached: Mapping[str, str]) -> None:
        """Takes the plans from a calibrated model, and the layers that calibration left in full precision."""
        self.layers = {name: layer.plan for name, layer in quantized_layers(model).items()}
        self.skipped |= unreached

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that `from_dict` reads back."""
        return {**asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Description:
        """Returns the description that `to_dict` wrote; whatever its absence or type raises is the caller's."""
        layers = {str(name): LayerPlan.from_dict(plan) for name, plan in data["layers"].items()}
        texts = {name: str(data[name]) for name in ("model", "precision")}
        texts["training"] = str(data.get("training", "qat"))
        stored, required = data["config"], ("run", "quant", "train")
        config = {name: dict(stored[name]) for name in LAYOUT if name in required or name in stored}
        classes = tuple(str(name) for name in data["classes"])
        return cls(**texts, classes=classes, config=config, layers=layers, skipped=dict(data["skipped"]))


@dataclass(kw_only=True)
class Progress:
    """The progress of a run."""

    epoch: int = 0
    """Epochs that are done."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """``results.csv`` so far, a row per epoch."""
    optimizer: dict[str, Any] | None = None
    """The optimizer's state, by the number of the parameter."""
    zero: EpochZero | None = None
    """Accuracy before training; None: it was not measured."""
    extensions: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """State of the extensions of training, by their name."""


def save_classifier(path: Path, model: nn.Module, description: Description, progress: Progress) -> None:
    """Writes one file that `load_classifier` reads back bit by bit; atomically.

    Raises:
        OSError: It cannot be written; the old file is intact.
    """
    tensors = tensors_of(model)
    resumable = progress.optimizer is not None
    for number, state in (progress.optimizer or {}).items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{number}/{key}"] = value.detach().cpu().contiguous().clone()
    for name, state in progress.extensions.items():
        for key, value in state.items():
            tensors[f"{_EXTENSIONS}{name}/{key}"] = value.detach().cpu().contiguous().clone()
    header = {
        "version": VERSION,
        "qreg_yolo": __version__,
        "description": description.to_dict(),
        "epoch": progress.epoch,
        "rows": progress.rows if resumable else None,
        **({"zero": progress.zero.to_dict()} if resumable and progress.zero is not None else {}),
    }
    files.write_bytes(path, save(tensors, {HEADER: json.dumps(header)}))


def load_classifier(path: Path, model: str | None = None) -> tuple[nn.Module, Description, Progress]:
    """Returns a classifier in eval mode on the CPU, its description and the progress of its run.

    Args:
        path: A file of `save_classifier`.
        model: The user's own factory, ``package.module:factory``. A checkpoint that names one is built with it only
            where it is given here too, because building it runs that code.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: Another kind of file, a damaged one, or one that does not fit its own description.
        ConfigError: Another model is asked for, or a factory of the user's own is not.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint '{path}'. Give the path of weights/last{SUFFIX} of a run.")
    header, tensors = read(path, HEADER, VERSION, LACKING)
    description, progress = _described(header, path)
    check_same_model(path, description, model)
    try:
        network = build_model(description.model, len(description.classes), seed=0)
        apply_plan(network, description.layers)
    except Exception as error:  # whatever a description that is well formed and wrong makes them raise
        raise WeightsError(f"'{path}' describes a model that cannot be built: {error}") from error
    if header["rows"] is not None:
        progress.optimizer = _state(tensors, _OPTIMIZER)
        progress.extensions = _state(tensors, _EXTENSIONS)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith((_OPTIMIZER, _EXTENSIONS))}
    if header["rows"] is not None and progress.epoch:
        staging(description).resume(progress.epoch - 1, network)
    fill(network, own, path)
    return network.eval(), description, progress


def _described(header: Mapping[str, Any], path: Path) -> tuple[Description, Progress]:
    try:
        description = Description.from_dict(header["description"])
        zero = EpochZero(**header["zero"]) if "zero" in header else None
        return description, Progress(epoch=int(header["epoch"]), rows=list(header["rows"] or []), zero=zero)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"The description in '{path}' is incomplete ({type(error).__name__}: {error}).") from error


def staging(description: Description) -> Staging:
    """Returns the stages of a run."""
    return Staging(description.spec.stages, int(description.config["train"]["epochs"]), description.layers)


def read_description(path: Path) -> Description:
    """Returns the description of a classifier's file, without building its model; errors as `load_classifier`."""
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint '{path}'. Give the path of weights/last{SUFFIX} of a run.")
    return _described(read(path, HEADER, VERSION, LACKING)[0], path)[0]


def inherited_settings(
    path: Path, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, dict[str, Any]] | None:
    """Returns section -> values of a checkpoint's training; None unless it is a float one of the same model and data.

    Args:
        path: The checkpoint.
        options: Given options by name.
        arguments: Given ``key=value`` words.

    Raises:
        FileNotFoundError, WeightsError: As `load_classifier`.
    """
    description = read_description(path)
    foreign = is_import_path(description.model) and options.get("model", arguments.get("model")) is None
    return None if description.layers or foreign else classifier_sections(description.config, options, arguments)


def is_classifier(path: Path) -> bool:
    """Returns whether a file is a classifier's checkpoint; False for one that cannot be read.

    Raises:
        FileNotFoundError: No such file.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint '{path}'. Give the path of one in the weights/ of a run.")
    try:
        return path.suffix == SUFFIX and HEADER in keys(path)
    except (OSError, WeightsError):
        return False


def stored_model(path: Path) -> str:
    """Returns the name of the model in a checkpoint, or its ``package.module:factory``; errors as `load_classifier`."""
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint '{path}'. Give the path of weights/last{SUFFIX} of a run.")
    return _described(read(path, HEADER, VERSION, LACKING)[0], path)[0].model


def check_same_model(path: Path, description: Description, model: str | None) -> None:
    """Raises where a command asks for another model than the checkpoint's, or does not allow its own code.

    Raises:
        ConfigError: So it is.
    """
    if model is not None and model != description.model:
        raise ConfigError(f"'{path}' holds the model '{description.model}', this command asks for '{model}'.")
    if is_import_path(description.model) and model is None:
        raise ConfigError(
            f"'{path}' holds a model of your own, '{description.model}'; building it runs that code. If it is yours, "
            f"add --model {description.model}."
        )


def _state(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """Returns the tensors named ``<prefix><group>/<key>`` by group and key."""
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            group, _, key = name.removeprefix(prefix).partition("/")
            state.setdefault(group, {})[key] = tensor
    return state
