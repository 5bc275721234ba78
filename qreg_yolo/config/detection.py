"""The configuration of a detector's training: five sections, read from YAML and the command line, written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qreg_yolo.config import sections
from qreg_yolo.config.checks import check_bools, check_counts, check_number, check_texts
from qreg_yolo.config.distillation import DistillOptions, named_teacher
from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.config.sections import COMMAND_LINE, QUANT, Section
from qreg_yolo.config.ultralytics_keys import check_train
from qreg_yolo.errors import InvalidValueError, check_choice
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

HEADS: tuple[str, ...] = ("anchor_free", "anchor")
ACTIVATIONS: tuple[str, ...] = ("silu", "relu")
ALIASES: tuple[str, ...] = ("model", "data", "seed")
"""Options that are Ultralytics arguments too: also taken as ``key=value``."""
_ANCHOR_FREE_GAINS = ("box", "cls", "cls_pw", "dfl")
"""Ultralytics' arguments that only its own head's loss reads."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Section ``run``: the network, the dataset and the start.

    Raises:
        ValueError: A value outside its range or choices.
        TypeError: A value of the wrong type.
    """

    model: str = "yolov5n.yaml"
    """Any Ultralytics detection YAML."""
    data: str = "demo"
    """Path of a data YAML, or `demo` (built in) or `voc`."""
    weights: str | None = None
    """Float or quantized checkpoint to start from; None: from scratch."""
    activation: str = "silu"
    """`silu` | `relu`: activation function of the network."""
    seed: int = 0
    """0 or more."""
    threads: int | None = None
    """CPU threads of torch, 1 or more; None: all cores."""
    average: float | None = None
    """Span of the averaged weights, as a share of the run's steps: above 0, at most 1; None: Ultralytics' schedule."""
    epoch0: bool = True
    """Whether to measure the accuracy before training, where all weights come from a checkpoint."""
    recipe: str | None = None
    """Name of the recipe that options come from, for the records; None: without one."""
    online: bool = False
    """Whether Ultralytics may use the network."""
    log_noise: bool = False
    """Whether ``results.csv`` has each layer's weight noise."""
    val_every: int = 1
    """Epochs from one validation to the next, 1 or more; the last epoch is always validated."""

    def __post_init__(self) -> None:
        check_texts(self, "model", "data", unset=("weights", "recipe"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_counts(self, 0, "seed")
        check_counts(self, 1, "val_every", unset=("threads",))
        check_bools(self, "online", "log_noise", "epoch0")
        if self.average is not None:
            check_number(self, "average", 0, 1, above=True)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Section ``head``: the detection head. All but ``kind`` is for the anchor head; the defaults are YOLOv5's.

    Raises:
        ValueError: An unknown head, or a value outside its range.
        TypeError: A value of the wrong type.
    """

    kind: str = "anchor_free"
    """`anchor_free`: Ultralytics' own (box, class, distribution focal loss) | `anchor`: YOLOv5's, with objectness."""
    box: float = 0.05
    """Gain of the box loss, 0 or more."""
    cls: float = 0.5
    """Gain of the class loss at 80 classes, 0 or more."""
    obj: float = 1.0
    """Gain of the objectness loss at 640 px, 0 or more."""
    cls_pw: float = 1.0
    """Weight of the positive targets of the class loss, above 0."""
    obj_pw: float = 1.0
    """Weight of the positive targets of the objectness loss, above 0."""
    anchor_t: float = 4.0
    """An anchor matches an object if their widths and heights differ by a factor below this; above 1."""
    autoanchor: bool = False
    """Whether to fit the anchors to the training set before training."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, HEADS)
        for name in ("box", "cls", "obj"):
            check_number(self, name, 0)
        for name, low in (("cls_pw", 0), ("obj_pw", 0), ("anchor_t", 1)):
            check_number(self, name, low, above=True)
        check_bools(self, "autoanchor")
        if self.autoanchor and not self.has_anchors:
            raise InvalidValueError(
                "autoanchor needs kind 'anchor': the anchor_free head has no anchors. Add --head anchor."
            )

    @property
    def has_anchors(self) -> bool:
        """Whether it is the anchor head."""
        return self.kind == "anchor"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, completely resolved; validated on construction.

    Raises:
        ConfigError: A key of ``train`` that is unknown, owned by another section or of the wrong type, or that the
            head does not read.
        ValueError: Options of ``oscillation`` that the method's weights do not take, or of ``distill`` for classifiers.
    """

    run: RunOptions = field(default_factory=RunOptions)
    """The network, the dataset and the start."""
    quant: QuantSpec = field(default_factory=QuantSpec)
    """The quantization."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The detection head."""
    distill: DistillOptions = field(default_factory=DistillOptions)
    """The teacher."""
    oscillation: OscillationOptions = field(default_factory=OscillationOptions)
    """Freezing, dampening and transition rates of oscillating weights."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Ultralytics' own training arguments; absent ones keep Ultralytics' defaults."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", dict(self.train))
        check_train(self.train, "train")
        self.oscillation.check_method(self.quant)
        self.distill.check_default("temperature", reason="is for classifiers; a detector's losses have none.")
        for key in _ANCHOR_FREE_GAINS if self.head.has_anchors else ():
            if key in self.train:
                raise ConfigError(
                    f"train: {key}={self.train[key]} belongs to Ultralytics' own head, and the anchor head does not "
                    "read it. Set the anchor head's gains in a recipe, section 'head'."
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the sections as plain dictionaries; ``distill`` and ``oscillation`` unless they have the defaults."""
        return {
            "run": asdict(self.run),
            "quant": self.quant.to_dict(),
            "head": asdict(self.head),
            **self.distill.section(),
            **self.oscillation.section(),
            "train": dict(self.train),
        }


LAYOUT = {
    "run": Section.of(RunOptions),
    "quant": QUANT,
    "head": Section.of(HeadConfig),
    "distill": Section.of(DistillOptions),
    "oscillation": Section.of(OscillationOptions),
    "train": Section(dict, []),
}
HEAD_OPTIONS = {"head": "kind", "autoanchor": "autoanchor"}
"""Option -> key of section ``head``."""
DISTILL_OPTIONS = {"teacher": "teacher", "distill": "losses"}
"""Option -> key of section ``distill``."""
UNSET = "none"
"""Value of the option ``average`` that unsets a recipe's."""


def default_recipe(data: str, *, fine_tuned: bool) -> str | None:
    """Returns the name of the recipe of a dataset, from scratch or ``fine_tuned`` from weights; None: it has none."""
    return {"demo": "demo", "voc": "voc_finetune" if fine_tuned else "voc_scratch"}.get(data)


def load(path: Path) -> RunConfig:
    """Returns the configuration of a YAML file; missing keys keep their defaults.

    Raises:
        ConfigError: Not readable, not YAML, an unknown section or key (the nearest is named), or a wrong value.
    """
    return _built(sections.read_sections(path, LAYOUT), str(path))


def from_mapping(data: Mapping[str, Any], source: str) -> RunConfig:
    """Returns the configuration of a dictionary of sections.

    Raises:
        ConfigError: An unknown section or key (the nearest is named), or a wrong value.
    """
    return _built(sections.check_sections(data, source, LAYOUT), source)


def dump(config: RunConfig) -> str:
    """Returns the configuration as YAML text that `load` reads back equal."""
    return strict_yaml.dumps(config.to_dict())


def resolve(
    recipe: Path | None,
    options: Mapping[str, Any],
    overrides: Mapping[str, Any],
    inherited: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Returns the configuration of one run: defaults, then what is inherited, then the recipe, then the command line.

    Args:
        recipe: YAML file with any of the sections; None: the defaults.
        options: Options by name (``bits``, ``method``, ``seed``, ...), flat; None counts as not given.
        overrides: What `key_values.parse_overrides` read: Ultralytics' arguments, and ``model``, ``data``, ``seed``.
        inherited: Section -> values of a checkpoint's training.

    Raises:
        ConfigError: A recipe that is wrong by itself, an unknown option or argument (the nearest is named), a wrong
            value, an option and a ``key=value`` that disagree, or losses without a teacher.
    """
    flat = {key: name for name in ("run", "quant", "oscillation") for key in LAYOUT[name].keys}
    known = [*flat, *HEAD_OPTIONS, *DISTILL_OPTIONS]
    sections.check_known(options, known)
    given = sections.one_of_each(options, overrides, {*known} - {*ALIASES})
    own: dict[str, dict[str, Any]] = {name: {} for name in LAYOUT}
    renamed = {"head": HEAD_OPTIONS, "distill": DISTILL_OPTIONS}
    for name, value in given.items():
        home = next((section for section, options in renamed.items() if name in options), None)
        own[home or flat.get(name, "train")][renamed[home][name] if home else name] = value
    if own["run"].get("average") == UNSET:
        own["run"]["average"] = None
    check_train(own["train"], COMMAND_LINE)
    stored: dict[str, dict[str, Any]] = {name: {} for name in LAYOUT}
    source = COMMAND_LINE
    if recipe is not None:
        stored, source = sections.read_sections(recipe, LAYOUT), f"{COMMAND_LINE} with {recipe}"
        _built(stored, str(recipe))  # checked alone first, so that its faults are reported as its own
    stored = {name: {**(inherited or {}).get(name, {}), **values} for name, values in stored.items()}
    with sections.named(source):
        merged = sections.merged(stored, own)
        merged["distill"] = named_teacher(merged)
    if "losses" in own["distill"] and merged["distill"].get("teacher") is None:
        raise ConfigError(f"--distill {own['distill']['losses']} needs a teacher. Add --teacher CKPT.")
    return _built(merged, source)


def _built(data: Mapping[str, Mapping[str, Any]], source: str) -> RunConfig:
    check_train(data["train"], f"{source}, section 'train'")
    values = sections.build(data, source, LAYOUT)
    with sections.named(source):
        return RunConfig(**values)
