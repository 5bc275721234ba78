"""The three sections of a classification run as validated values: what is trained, how it is quantized, the recipe."""

from __future__ import annotations

import functools
import math
import operator
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from qreg_yolo.config.detection import AMP_CHOICES, check_count
from qreg_yolo.config.key_values import Kind, check_folder_name
from qreg_yolo.errors import InvalidTypeError, InvalidValueError, check_choice
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

DATA: tuple[str, ...] = ("demo", "cifar10", "cifar100")
AUGMENTATIONS: tuple[str, ...] = ("crop-flip", "none")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Section ``run``: what is trained, on what, from where.

    Raises:
        ValueError: A value outside its range or choices.
        TypeError: A value of the wrong type.
    """

    model: str = "resnet20"
    """`resnet20` | `resnet18` | `resnet50` | `mobilenetv1`, or a factory as `package.module:factory`."""
    data: str = "demo"
    """`demo` (built in) | `cifar10` | `cifar100`."""
    data_dir: str | None = None
    """Folder that holds `cifar-10-batches-py` or `cifar-100-python`."""
    verify: bool = True
    """Whether the data files have to be the official ones, by md5."""
    weights: str | None = None
    """Checkpoint to start from, float or quantized; None: from scratch."""
    seed: int = 0
    """0 or more."""
    threads: int | None = None
    """CPU threads of torch, 1 or more; None: all cores."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:1`; None: a GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("model", "data_dir", "weights", "device"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name != "model" and value is None):
                raise InvalidTypeError(f"{name}={value!r} is not a name or a path. Give a text.")
        check_choice("data", self.data, DATA)
        _check_bool("verify", self.verify)
        check_count("seed", self.seed, minimum=0)
        if self.threads is not None:
            check_count("threads", self.threads, minimum=1)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Section ``train``: the recipe; the defaults are QReg's (arXiv 2206.12372, section 4).

    Raises:
        ValueError: A value outside its range or choices.
        TypeError: A value of the wrong type.
    """

    epochs: int = 200
    """Passes over the training set."""
    milestones: tuple[int, ...] = (50, 90, 130, 180)
    """Epochs after which the learning rate is multiplied by `gamma`, ascending, each below `epochs`."""
    gamma: float = 0.2
    """Factor of the learning rate at each milestone."""
    lr0: float = 0.1
    """Learning rate before the first milestone, per optimizer step."""
    momentum: float = 0.9
    """Fraction of the velocity kept per step."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 1e-4
    """L2 coefficient of all parameters but the quantizers', per step."""
    batch: int = 128
    """Images per optimizer step, all processes together."""
    aug: str = "crop-flip"
    """`crop-flip`: 4 black pixels of padding, a random crop, a random left-right flip; `none`."""
    amp: str = "off"
    """`off`: fp32; `bf16`: bfloat16 convolutions; `auto`: bf16 where the hardware has it."""
    channels_last: bool = True
    """Memory format of images and weights."""
    compile: bool = False
    """Whether the network is compiled (`torch.compile`; minutes before the first step)."""
    log_noise: bool = False
    """Whether ``results.csv`` has everything about each layer's weight noise, not its variance alone."""
    project: str | None = None
    """Folder of the run's folder; None: `runs`."""
    name: str | None = None
    """Name of the run's folder; None: by model, data, widths and seed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", as_milestones(self.milestones))
        check_count("epochs", self.epochs, minimum=1)
        check_count("batch", self.batch, minimum=1)
        _check_number("gamma", self.gamma, 0.0, 1.0)
        _check_number("lr0", self.lr0, 0.0, math.inf)
        _check_number("momentum", self.momentum, 0.0, 1.0)
        _check_number("weight_decay", self.weight_decay, 0.0, math.inf)
        check_choice("aug", self.aug, AUGMENTATIONS)
        check_choice("amp", self.amp, AMP_CHOICES)
        for name in ("nesterov", "channels_last", "compile", "log_noise"):
            _check_bool(name, getattr(self, name))
        if self.nesterov and self.momentum == 0:
            raise InvalidValueError("nesterov=true needs a momentum above 0. Drop one of them.")
        for name in ("project", "name"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise InvalidTypeError(f"{name}={value!r} is not a text. Give one.")
            check_folder_name(name, value or "")
        late = [m for m in self.milestones if m >= self.epochs]
        if late:
            raise InvalidValueError(
                f"milestones={list(self.milestones)}: {late[0]} is not below epochs={self.epochs}. Give milestones "
                "before the end, or leave them out: then the recipe's are scaled to the epochs."
            )

    def learning_rate(self, epoch: int) -> float:
        """Returns the rate of an epoch, counted from 0."""
        return self.lr0 * self.gamma ** sum(m <= epoch for m in self.milestones)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """One run, completely resolved; validated on construction."""

    run: ClassifyOptions = field(default_factory=ClassifyOptions)
    """What is trained, on what, from where."""
    quant: QuantSpec = field(default_factory=QuantSpec)
    """What is quantized and how."""
    train: TrainOptions = field(default_factory=TrainOptions)
    """The recipe."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the three sections as plain dictionaries."""
        train = {**asdict(self.train), "milestones": list(self.train.milestones)}
        return {"run": asdict(self.run), "quant": self.quant.to_dict(), "train": train}


def _kind(hint: Any) -> Kind:
    """Returns the types that a ``key=value`` of a field may have."""
    parts = typing.get_args(hint) or (hint,)
    kinds = {str: Kind.TEXT, int: Kind.WHOLE, float: Kind.NUMBER, bool: Kind.BOOL, type(None): Kind.NONE}
    if typing.get_origin(hint) is tuple:
        return Kind.WHOLE | Kind.LIST
    found = [kinds[part] for part in parts]
    return Kind.TEXT if Kind.TEXT in found else functools.reduce(operator.or_, found)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        name: _kind(hint)
        for options in (ClassifyOptions, TrainOptions)
        for name, hint in typing.get_type_hints(options).items()
    }
)
"""Key -> the types that a ``key=value`` of it may have."""


def as_milestones(value: object) -> tuple[int, ...]:
    """Returns ascending epochs from a list, or from a text such as ``50,90``."""
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    try:
        numbers = [int(part) if isinstance(part, str) and part.strip() else part for part in parts]  # type: ignore[attr-defined]
        right = all(type(n) is int and n > 0 for n in numbers) and sorted(set(numbers)) == numbers
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ConfigError(f"milestones={value!r} is no ascending list of epochs from 1 up. Write 50,90 or [50, 90].")
    return tuple(numbers)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    """Raises unless ``value`` is a finite number from ``low`` up to ``high``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:  # type: ignore[operator]
        span = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InvalidValueError(f"{name}={value!r} is not a number {span}.")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name}={value!r} is not true or false.")
