"""What one run is: four validated sections, read from YAML and the command line, written back as resolved.

Order of precedence: the defaults below, then a recipe (``hyp/*.yaml``), then the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from qreg_yolo.config.head import HeadConfig
from qreg_yolo.config.sections import check_sections, read_sections
from qreg_yolo.config.ultralytics_keys import check_train, host_defaults
from qreg_yolo.errors import InvalidTypeError, InvalidValueError, check_choice, did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

__all__ = [
    "ConfigError",
    "HeadConfig",
    "RunConfig",
    "RunOptions",
    "check_train",
    "dump",
    "from_mapping",
    "host_defaults",
    "load",
    "resolve",
]

ACTIVATIONS: tuple[str, ...] = ("silu", "relu")
_HOST_GAINS = ("box", "cls", "cls_pw", "dfl")
"""Ultralytics' arguments that only its own head's loss reads."""
ALIASES: tuple[str, ...] = ("model", "data", "seed")
"""Options of ours that are Ultralytics arguments too: also taken as ``key=value``."""
COMMAND_LINE = "command line"
AMP_CHOICES: tuple[str, ...] = ("off", "bf16", "auto")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Section ``run``: what is trained, on what, from where.

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
    """`silu` | `relu`: what the network is built with."""
    seed: int = 0
    """0 or more."""
    threads: int | None = None
    """CPU threads of torch, 1 or more; None: all cores."""
    online: bool = False
    """Whether Ultralytics may use the network."""
    log_noise: bool = False
    """Whether ``results.csv`` has each layer's weight noise."""

    def __post_init__(self) -> None:
        for name in ("model", "data", "weights"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name == "weights" and value is None):
                raise InvalidTypeError(f"{name}={value!r} is not a name or a path. Give a text.")
        check_choice("activation", self.activation, ACTIVATIONS)
        check_count("seed", self.seed, minimum=0)
        if self.threads is not None:
            check_count("threads", self.threads, minimum=1)
        for name in ("online", "log_noise"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidTypeError(f"{name}={getattr(self, name)!r} is not true or false.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, completely resolved; validated on construction.

    Raises:
        ConfigError: A key of ``train`` that is unknown, owned by another section or of the wrong type, or that the
            head does not read.
    """

    run: RunOptions = field(default_factory=RunOptions)
    """What is trained, on what, from where."""
    quant: QuantSpec = field(default_factory=QuantSpec)
    """What is quantized and how."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The detection head."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Ultralytics' own training arguments; what is absent keeps Ultralytics' default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", dict(self.train))
        check_train(self.train, "train")
        for key in _HOST_GAINS if self.head.has_anchors else ():
            if key in self.train:
                raise ConfigError(
                    f"train: {key}={self.train[key]} belongs to Ultralytics' own head, and the anchor head does not "
                    "read it. Set the anchor head's gains in a recipe, section 'head'."
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the four sections as plain dictionaries."""
        return {
            "run": asdict(self.run),
            "quant": self.quant.to_dict(),
            "head": asdict(self.head),
            "train": dict(self.train),
        }


_SECTIONS: dict[str, list[str]] = {
    "run": [f.name for f in fields(RunOptions)],
    "quant": ["bits", "weight_only", *(f.name for f in fields(QuantSpec))],
    "head": [f.name for f in fields(HeadConfig)],
    "train": [],  # Ultralytics' keys: `legal_keys`
}
"""Section -> the keys it takes."""
_HEAD_OPTIONS = {"head": "kind", "autoanchor": "autoanchor"}
"""Option -> key of section ``head``."""


def load(path: Path) -> RunConfig:
    """Returns the configuration of a YAML file; what the file leaves out has its default.

    Raises:
        ConfigError: Not readable, not YAML, an unknown section or key (the nearest is named), or a wrong value.
    """
    return from_mapping(read_sections(path, _SECTIONS), str(path))


def dump(config: RunConfig) -> str:
    """Returns the configuration as YAML text that `load` reads back equal."""
    return strict_yaml.dumps(config.to_dict())


def from_mapping(data: Mapping[str, Any], source: str) -> RunConfig:
    """Returns the configuration of a dictionary of sections.

    Args:
        data: ``{"run": {...}, "quant": {...}, "head": {...}, "train": {...}}``, each optional.
        source: Where it comes from, for the error text.

    Raises:
        ConfigError: An unknown section or key (the nearest is named), or a wrong value.
    """
    sections = check_sections(data, source, _SECTIONS)
    check_train(sections["train"], f"{source}, section 'train'")
    with named(f"{source}, section 'run'"):
        run = RunOptions(**sections["run"])
    with named(f"{source}, section 'quant'"):
        quant = QuantSpec.from_options(sections["quant"])
    with named(f"{source}, section 'head'"):
        head = HeadConfig(**sections["head"])
    with named(source):
        return RunConfig(run=run, quant=quant, head=head, train=sections["train"])


def resolve(recipe: Path | None, options: Mapping[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    """Returns the configuration of one run: defaults, then the recipe, then the command line.

    Args:
        recipe: YAML file with any of the four sections; None: the defaults.
        options: Options by name (``bits``, ``method``, ``seed``, ...), flat; None counts as not given.
        overrides: What `key_values.parse_overrides` read: Ultralytics' arguments, and ``model``, ``data``, ``seed``.

    Raises:
        ConfigError: A recipe that is wrong by itself, an unknown option or argument (the nearest is named), a wrong
            value, or an option and a ``key=value`` that disagree.
    """
    base = {} if recipe is None else read_sections(recipe, _SECTIONS)
    if recipe is not None:
        from_mapping(base, str(recipe))  # a recipe has to stand by itself: its faults are reported as its own
    sections = check_sections(base, str(recipe), _SECTIONS)
    run, quant, head = _split_options({k: v for k, v in options.items() if v is not None})
    for key in ALIASES:
        if key in overrides and run.get(key, overrides[key]) != overrides[key]:
            raise ConfigError(f"--{key} {run[key]} and {key}={overrides[key]} disagree. Give one of them.")
    run |= {key: overrides[key] for key in ALIASES if key in overrides}
    train = {key: value for key, value in overrides.items() if key not in ALIASES}
    for key in train:
        if key in [*_SECTIONS["run"], *_SECTIONS["quant"], *_HEAD_OPTIONS]:
            raise ConfigError(f"{COMMAND_LINE}: '{key}' is an option, not a key=value. Use --{key.replace('_', '-')}.")
    check_train(train, COMMAND_LINE)
    merged = {
        "run": {**sections["run"], **run},
        "quant": merge_quant(sections["quant"], quant),
        "head": {**sections["head"], **head},
        "train": {**sections["train"], **train},
    }
    return from_mapping(merged, COMMAND_LINE if recipe is None else f"{COMMAND_LINE} with {recipe}")


@contextmanager
def named(source: str) -> Iterator[None]:
    """Puts ``source`` in front of the text of a wrong value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns the options of the sections ``run``, ``quant`` and ``head``."""
    known = [*_SECTIONS["run"], *_SECTIONS["quant"], *_HEAD_OPTIONS]
    for key in options:
        if key not in known:
            raise ConfigError(f"'{key}' is not an option.{did_you_mean(key, known)} Known: {', '.join(known)}.")
    run = {key: value for key, value in options.items() if key in _SECTIONS["run"]}
    head = {name: options[key] for key, name in _HEAD_OPTIONS.items() if key in options}
    return run, {key: value for key, value in options.items() if key not in {**run, **_HEAD_OPTIONS}}, head


def merge_quant(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recipe's section with the options on top; a new width drops the recipe's widths that it replaces."""
    dropped = {"weight_bits", "act_bits"} if "bits" in options else set()
    if "act_bits" in options:
        dropped.add("weight_only")
    if options.get("weight_only"):
        dropped.add("act_bits")
    return {**{key: value for key, value in recipe.items() if key not in dropped}, **options}


def check_count(name: str, value: object, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidValueError(f"{name}={value!r} is not a whole number of at least {minimum}.")
