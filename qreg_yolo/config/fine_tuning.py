"""Defaults that come with a float checkpoint to start from: the settings of its own training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qreg_yolo.config.detection import HeadConfig, RunConfig
from qreg_yolo.config.ultralytics_keys import host_defaults

RECIPES: Mapping[str, str] = MappingProxyType({"detect": "qat_finetune", "classify": "cifar_finetune"})
"""Track -> name of the recipe that takes them, and that is the default at low bits."""
_ARGUMENTS = (
    "imgsz", "batch", "single_cls", "box", "cls", "dfl", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale",
    "shear", "perspective", "flipud", "fliplr", "bgr", "mosaic", "mixup", "cutmix", "copy_paste", "multi_scale",
    "close_mosaic", "amp",
)  # fmt: skip
"""Ultralytics' arguments that are taken from the checkpoint's training: size, batch, gains, augmentation, amp."""
_STRIDE = 32
"""Ultralytics rounds sizes up to a multiple of it (px)."""
_ANCHOR_FREE = ("box", "cls", "dfl")
"""Those that only Ultralytics' own head reads."""
_CLASSIFIER = {
    "run": ("model", "data", "data_dir", "verify", "train_images"),
    "train": ("batch", "aug", "weight_decay", "channels_last"),
}
"""Section -> options that are taken from a classifier's training."""


def inherits(track: str, hyp: str | None, *, is_float: bool) -> bool:
    """Returns whether a training from weights takes the settings of a float checkpoint: with the track's recipe.

    Args:
        track: `detect` | `classify`.
        hyp: Recipe that was asked for; None: the default.
        is_float: Whether nothing is to be quantized.
    """
    return not is_float if hyp is None else Path(hyp).stem == RECIPES[track]


@dataclass(frozen=True, kw_only=True)
class TrainedSettings:
    """The settings that a float detector was trained with."""

    model: str
    activation: str
    data: str
    head: HeadConfig
    arguments: Mapping[str, Any]
    """Ultralytics' arguments, the defaults among them."""

    @classmethod
    def of(cls, config: RunConfig) -> TrainedSettings:
        """Returns the settings that a checkpoint will have after a training with a configuration."""
        head = config.head if config.head.has_anchors else HeadConfig()  # a checkpoint keeps an anchor head's alone
        arguments, run = {**host_defaults(), **config.train}, config.run
        size = arguments["imgsz"]
        arguments["imgsz"] = -(-(max(size, default=0) if isinstance(size, list) else size) // _STRIDE) * _STRIDE
        return cls(model=run.model, activation=run.activation, data=run.data, head=head, arguments=arguments)

    def fit(self, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
        """Returns whether a training has the same model, head and activation; what is not given is as here."""
        own = {"model": self.model, "head": self.head.kind, "activation": self.activation}
        given = {name: str(options.get(name) or arguments.get(name) or value) for name, value in own.items()}
        return all(Path(given[name]).name == Path(value).name for name, value in own.items())

    def sections(self) -> dict[str, dict[str, Any]]:
        """Returns section -> values, the defaults of a training that they `fit`."""
        train = {name: self.arguments[name] for name in _ARGUMENTS if self.arguments.get(name) is not None}
        if self.head.has_anchors:
            train = {name: value for name, value in train.items() if name not in _ANCHOR_FREE}
        run = {"model": self.model, "activation": self.activation, "data": self.data}
        return {"run": run, "head": asdict(self.head), "train": train}


def classifier_sections(
    config: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, dict[str, Any]] | None:
    """Returns section -> values of a float classifier's training; None for a training of another model or data.

    Args:
        config: The sections of its configuration.
        options: Given options by name.
        arguments: Given ``key=value`` words.
    """
    given = {name: options.get(name, arguments.get(name)) for name in ("model", "data")}
    if any(value not in (None, config["run"][name]) for name, value in given.items()):
        return None
    return {
        section: {name: value for name in names if (value := config[section].get(name)) is not None}
        for section, names in _CLASSIFIER.items()
    }
