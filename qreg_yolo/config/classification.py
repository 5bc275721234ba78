"""The configuration of a classifier's training: four sections, read from YAML and the command line, written back.

Milestones belong to the number of epochs they were given with: where only the epochs change afterwards, they are
scaled.
"""

from __future__ import annotations

import functools
import math
import operator
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qreg_yolo.config import sections
from qreg_yolo.config.checks import AMP_CHOICES, check_bools, check_counts, check_number, check_texts
from qreg_yolo.config.distillation import DistillOptions, named_teacher
from qreg_yolo.config.key_values import Kind, check_folder_name
from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.config.sections import COMMAND_LINE, QUANT, Section
from qreg_yolo.errors import InvalidValueError, check_choice
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

DATA: tuple[str, ...] = ("demo", "cifar10", "cifar100")
AUGMENTATIONS: tuple[str, ...] = ("crop-flip", "none")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Section ``run``: the network, the dataset and the start.

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
    train_images: int | None = None
    """Training images, as many of each class: the same ones for every `seed`; None: all."""
    weights: str | None = None
    """Checkpoint to start from, float or quantized; None: from scratch."""
    seed: int = 0
    """0 or more."""
    threads: int | None = None
    """CPU threads of torch, 1 or more; None: all cores."""
    epoch0: bool = True
    """Whether to measure the accuracy before training, where the weights come from a checkpoint."""
    recipe: str | None = None
    """Name of the recipe that options come from, for the records; None: without one."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:1`; None: a GPU where there is one."""

    def __post_init__(self) -> None:
        check_texts(self, "model", unset=("data_dir", "weights", "device", "recipe"))
        check_choice("data", self.data, DATA)
        check_bools(self, "verify", "epoch0")
        check_counts(self, 0, "seed")
        check_counts(self, 1, unset=("threads", "train_images"))


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
    val_every: int = 1
    """Epochs from one validation to the next, 1 or more; the last epoch is always validated."""
    project: str | None = None
    """Folder of the run's folder; None: `runs`."""
    name: str | None = None
    """Name of the run's folder; None: by model, data, widths and seed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", as_milestones(self.milestones))
        check_counts(self, 1, "epochs", "batch", "val_every")
        for name, high in (("gamma", 1.0), ("lr0", math.inf), ("momentum", 1.0), ("weight_decay", math.inf)):
            check_number(self, name, 0.0, high)
        check_choice("aug", self.aug, AUGMENTATIONS)
        check_choice("amp", self.amp, AMP_CHOICES)
        check_bools(self, "nesterov", "channels_last", "compile", "log_noise")
        if self.nesterov and self.momentum == 0:
            raise InvalidValueError("nesterov=true needs a momentum above 0. Remove one of them.")
        check_texts(self, unset=("project", "name"))
        for name in ("project", "name"):
            check_folder_name(name, getattr(self, name) or "")
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
    """One run, completely resolved; validated on construction.

    Raises:
        ValueError: Options of ``oscillation`` that the method's weights do not take, or of ``distill`` for detectors.
    """

    run: ClassifyOptions = field(default_factory=ClassifyOptions)
    """The network, its data and its start."""
    quant: QuantSpec = field(default_factory=QuantSpec)
    """The quantization."""
    distill: DistillOptions = field(default_factory=DistillOptions)
    """The teacher; of its losses a classifier has the one of logits."""
    oscillation: OscillationOptions = field(default_factory=OscillationOptions)
    """Freezing, dampening and transition rates of oscillating weights."""
    train: TrainOptions = field(default_factory=TrainOptions)
    """The recipe."""

    def __post_init__(self) -> None:
        self.oscillation.check_method(self.quant)
        self.distill.check_default(
            "losses", "features", "projector", reason="is for detectors; a classifier distils logits alone."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the sections as plain dictionaries; ``distill`` and ``oscillation`` unless they have the defaults."""
        train = {**asdict(self.train), "milestones": list(self.train.milestones)}
        optional = {**self.distill.section(), **self.oscillation.section()}
        return {"run": asdict(self.run), "quant": self.quant.to_dict(), **optional, "train": train}


LAYOUT = {
    "run": Section.of(ClassifyOptions),
    "quant": QUANT,
    "distill": Section.of(DistillOptions),
    "oscillation": Section.of(OscillationOptions),
    "train": Section.of(TrainOptions),
}


def default_recipe(data: str) -> str:
    """Returns the name of the recipe of a dataset."""
    return "cifar_demo" if data == "demo" else "cifar_paper"


def load(path: Path) -> ClassifyConfig:
    """Returns the configuration of a YAML file; missing keys keep their defaults.

    Raises:
        ConfigError: Not readable, not YAML, an unknown section or key (the nearest is named), or a wrong value.
    """
    return resolve(path, {}, {})[0]


def dump(config: ClassifyConfig) -> str:
    """Returns the configuration as YAML text that `load` reads back equal."""
    return strict_yaml.dumps(config.to_dict())


def from_mapping(data: Mapping[str, Any], source: str) -> ClassifyConfig:
    """Returns the configuration of a dictionary of sections.

    Raises:
        ConfigError: An unknown section or key (the nearest is named), or a wrong value.
    """
    values = sections.build(sections.check_sections(data, source, LAYOUT), source, LAYOUT)
    with sections.named(source):
        return ClassifyConfig(**values)


def resolve(
    recipe: Path | None,
    options: Mapping[str, Any],
    overrides: Mapping[str, Any],
    inherited: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[ClassifyConfig, list[str]]:
    """Returns the configuration of one run, and notices about scaled milestones.

    Args:
        recipe: YAML file with any of the sections; None: the defaults.
        options: Options by name (``bits``, ``epochs``, ``seed``, ...), flat; None counts as not given.
        overrides: The ``key=value`` arguments; keys of all sections but ``quant``.
        inherited: Section -> values of a checkpoint's training, below the recipe.

    Raises:
        ConfigError: A recipe that is wrong by itself, an unknown option or key (the nearest is named), a wrong value,
            or an option and a ``key=value`` that disagree.
    """
    given = together(options, overrides)
    own = {name: {k: v for k, v in given.items() if k in section.keys} for name, section in LAYOUT.items()}
    stored: dict[str, dict[str, Any]] = {name: {} for name in LAYOUT}
    notices: list[str] = []
    default, source = TrainOptions(), COMMAND_LINE
    if recipe is not None:
        stored, source = sections.read_sections(recipe, LAYOUT), f"{COMMAND_LINE} with {recipe}"
        _scale(stored["train"], {"epochs": default.epochs, "milestones": default.milestones}, notices)
        from_mapping(stored, str(recipe))  # checked alone first, so that its faults are reported as its own
    stored = {name: {**(inherited or {}).get(name, {}), **values} for name, values in stored.items()}
    _scale(own["train"], stored["train"], notices)
    with sections.named(source):
        merged = sections.merged(stored, own)
        merged["distill"] = named_teacher(merged)
    return from_mapping(merged, source), notices


def together(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options and ``key=value`` arguments as one dictionary; errors as `resolve`."""
    if "milestones" in overrides:
        overrides = {**overrides, "milestones": list(as_milestones(overrides["milestones"]))}
    found = sections.one_of_each(options, overrides, LAYOUT["quant"].keys)
    sections.check_known(found, [key for section in LAYOUT.values() for key in section.keys])
    return found


def scaled_milestones(milestones: Sequence[int], old: int, new: int) -> tuple[list[int], list[int]]:
    """Returns the milestones of ``old`` epochs scaled to ``new``, and those that have no place there any more.

    One that falls on 0 or on the end, or on the one before it, is dropped.

    >>> scaled_milestones([50, 90, 130, 180], 200, 8)
    ([2, 4, 5, 7], [])
    >>> scaled_milestones([50, 90, 130, 180], 200, 3)
    ([1, 2], [90, 180])
    """
    kept: list[int] = []
    dropped = []
    for milestone in milestones:
        place = math.floor(milestone * new / old + 0.5)
        if 0 < place < new and place not in kept:
            kept.append(place)
        else:
            dropped.append(milestone)
    return kept, dropped


def _scale(train: dict[str, Any], before: Mapping[str, Any], notices: list[str]) -> None:
    """Gives a section that sets other epochs and no milestones those from ``before``, scaled."""
    new, old = train.get("epochs"), before.get("epochs", TrainOptions.epochs)
    if "milestones" in train or not isinstance(new, int) or new < 1 or new == old:
        return  # a wrong number of epochs is reported where the section is checked
    present = as_milestones(before.get("milestones", TrainOptions.milestones))
    train["milestones"], dropped = scaled_milestones(present, old, new)
    notice = f"Milestones {list(present)} of {old} epochs become {train['milestones']} of {new}"
    notices.append(notice + (f"; dropped: {dropped}." if dropped else "."))


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
        for options in (ClassifyOptions, DistillOptions, OscillationOptions, TrainOptions)
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
        raise ConfigError(f"milestones={value!r} does not list ascending epochs from 1 up. Write 50,90 or [50, 90].")
    return tuple(numbers)
