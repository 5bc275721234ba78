"""Quantization of a detector: ``model.yaml["qreg"]``, a plain dictionary on disk, as validated values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from torch import nn

from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.config.distillation import KEY as DISTILL
from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.config.oscillation import KEY as OSCILLATION
from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.errors import InvalidTypeError, InvalidValueError, check_choice, did_you_mean
from qreg_yolo.quant.spec import BEFORE_INIT, FLOAT_BITS, LayerPlan, QuantSpec

KEY = "qreg"
"""The key in ``model.yaml`` and in the trainer's arguments."""
LOG_NOISE, VAL_EVERY = "log_noise", "val_every"
"""Keys of the trainer's request only: whether to log the weight noise of each epoch, and epochs per validation."""
AVERAGE = "average"
"""Key of the trainer's request: span of the averaged weights, as a share of the steps."""
EPOCH0 = "epoch0"
"""Key of the trainer's request: whether to measure the accuracy before training."""
RECIPE = "recipe"
"""Key of the trainer's request: the name of the recipe, for the records."""
VERSION = 1
_Options = TypeVar("_Options", DistillOptions, HeadConfig, OscillationOptions)
_ACTIVATIONS = {"silu": None, "relu": "nn.ReLU()"}
"""Our name -> value of Ultralytics' ``activation``; None: its default, SiLU."""


@dataclass(frozen=True)
class QuantizationConfig:
    """The request and the plan made from it; the default is a float model.

    ``layers`` is None before the replacement pass. Afterwards rebuilding, resuming and evaluating use it as it is.
    """

    spec: QuantSpec = field(default_factory=lambda: QuantSpec(weight_bits=FLOAT_BITS, act_bits=FLOAT_BITS))
    """The request."""
    activation: str = "silu"
    """`silu` | `relu`."""
    pretrained: bool = False
    """Whether trained weights were loaded; DoReFa keeps their scale then."""
    precision: str = "fp32"
    """Arithmetic of training outside the quantizers."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The detection head."""
    training: str = "qat"
    """`qat`, or `none`: quantized without training."""
    recipe: str | None = None
    """Name of the training's recipe."""
    layers: Mapping[str, LayerPlan] | None = None
    """Full name -> plan of every quantized layer."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Full name -> reason of the other layers."""

    @classmethod
    def from_request(cls, request: Mapping[str, Any], *, pretrained: bool = False) -> QuantizationConfig:
        """Returns the configuration of a user's options: `QuantSpec`'s, ``activation`` and ``head``.

        ``head`` is a kind, or a mapping of `HeadConfig`'s fields. ``log_noise``, ``val_every``, ``distill`` and
        ``oscillation`` are only checked.

        Raises:
            ValueError: An unknown option (the nearest is named) or a wrong value.
        """
        options = dict(request)
        activation = options.pop("activation", "silu")
        if not isinstance(log_noise := options.pop(LOG_NOISE, False), bool):
            raise InvalidTypeError(f"{LOG_NOISE} must be true or false, not {log_noise!r}.")
        if type(every := options.pop(VAL_EVERY, 1)) is not int or every < 1:
            raise InvalidValueError(f"{VAL_EVERY}={every!r} is not a whole number of at least 1.")
        recipe = options.pop(RECIPE, None)
        for name in (AVERAGE, EPOCH0):
            options.pop(name, None)
        check_choice("activation", activation, tuple(_ACTIVATIONS))
        _fields(DISTILL, options.pop(DISTILL, None) or {}, DistillOptions)
        oscillation = _fields(OSCILLATION, options.pop(OSCILLATION, {}), OscillationOptions)
        head = _head(options.pop("head", None))
        spec = QuantSpec.from_options(options)
        oscillation.check_method(spec)
        return cls(spec=spec, activation=activation, pretrained=pretrained, head=head, recipe=recipe)

    @classmethod
    def read(cls, model_yaml: Mapping[str, Any]) -> QuantizationConfig:
        """Returns the configuration in a model's YAML dictionary, by default that of a float model.

        Raises:
            ValueError: An unsupported version.
        """
        data = model_yaml.get(KEY)
        if data is None:
            return cls(layers={})
        if data.get("version") != VERSION:
            raise InvalidValueError(
                f"The model's '{KEY}' section has version {data.get('version')!r}, this qreg-yolo reads {VERSION}. "
                "Use the qreg-yolo that wrote it."
            )
        layers = data["layers"]
        return cls(
            spec=QuantSpec.from_options({**BEFORE_INIT, **data["spec"]}),
            activation=data["activation"],
            pretrained=data["pretrained"],
            precision=data["precision"],
            head=HeadConfig(**data.get("head", {})),
            training=data.get("training", "qat"),
            recipe=data.get("recipe"),
            layers=None if layers is None else {name: LayerPlan.from_dict(plan) for name, plan in layers.items()},
            skipped=dict(data["skipped"]),
        )

    @classmethod
    def of(cls, model: nn.Module) -> QuantizationConfig:
        """Returns the configuration of a detector; errors as `read`."""
        yaml: Any = getattr(model, "yaml", None)
        return cls.read(yaml or {})

    def write(self, model_yaml: dict[str, Any]) -> None:
        """Writes the configuration and Ultralytics' ``activation`` into a model's YAML dictionary."""
        layers = None if self.layers is None else {name: plan.to_dict() for name, plan in self.layers.items()}
        model_yaml[KEY] = {
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "activation": self.activation,
            "pretrained": self.pretrained,
            "precision": self.precision,
            **({"head": asdict(self.head)} if self.head.has_anchors else {}),
            "training": self.training,
            "recipe": self.recipe,
            "layers": layers,
            "skipped": dict(self.skipped),
        }
        if _ACTIVATIONS[self.activation] is not None:
            model_yaml["activation"] = _ACTIVATIONS[self.activation]


def _head(given: str | Mapping[str, Any] | None) -> HeadConfig:
    if not isinstance(given, Mapping):
        return HeadConfig() if given is None else HeadConfig(kind=given)
    return _fields("head", given, HeadConfig)


def _fields(section: str, given: Mapping[str, Any], options: type[_Options]) -> _Options:
    known = [one.name for one in fields(options)]
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise InvalidValueError(f"{section} has no '{name}'.{hint} Known: {', '.join(known)}.")
    return options(**given)
