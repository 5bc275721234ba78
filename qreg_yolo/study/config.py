"""A study's file: the grid of trainings, the protocol of the measurements, and the analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qreg_yolo.config import sections
from qreg_yolo.config.checks import check_bools, check_counts, check_texts
from qreg_yolo.config.sections import Section
from qreg_yolo.errors import InvalidTypeError, InvalidValueError, check_choice, did_you_mean
from qreg_yolo.io.records import TRACKS
from qreg_yolo.metrics.conditions import Condition, conditions_of, parse_corruptions, parse_severities
from qreg_yolo.quant.spec import FLOAT_BITS, METHODS, QuantSpec, check_bits

BASELINE = "baseline"
"""Value of ``weights``: the fp32 baseline of the same model and seed."""
_OWNED = (
    "model", "data", "data_dir", "method", "bits", "weight_bits", "act_bits", "seed", "seeds", "hyp", "weights",
    "resume", "project", "name",
)  # fmt: skip
"""Options of a training that the other keys of the grid, or the study itself, set."""
_METHOD_KEYS = ("method", "act_bits", "weight_only", "per_channel", "first_last_bits", "signed")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Section ``grid``: a training of each model, method, width and seed, and the fp32 baseline of each model and seed.

    Raises:
        ValueError: A value outside its range or choices, an empty list, or a value given twice.
        TypeError: A value of the wrong type.
    """

    track: str = "detect"
    """`detect` | `classify`."""
    model: Sequence[str]
    """As `--model` of the track's training; one, or a list."""
    data: str = "demo"
    """As `--data`."""
    data_dir: str | None = None
    """As `--data-dir` (CIFAR)."""
    methods: Sequence[Mapping[str, Any]] = ({"method": "lsq"},)
    """Methods: names, or options such as ``{method: dorefa, weight_only: true}``; none: the baselines alone."""
    bits: Sequence[int] = (8, 4, 2)
    """Widths of weights and activations."""
    seeds: Sequence[int] = (0,)
    """Of the trainings."""
    recipe: str | None = None
    """As `--hyp`."""
    weights: str | None = None
    """Checkpoint that all trainings start from, or `baseline`; None: from scratch."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Further options and ``key=value`` of the trainings, such as ``{epochs: 11, head: anchor}``."""

    def __post_init__(self) -> None:
        for name in ("model", "methods", "bits", "seeds"):
            value = getattr(self, name)
            single = isinstance(value, (str, int, Mapping))
            if not single and not isinstance(value, (list, tuple)):
                raise InvalidTypeError(f"{name} must be a list, not {value!r}.")
            object.__setattr__(self, name, (value,) if single else tuple(value))
        check_choice("track", self.track, TRACKS)
        check_texts(self, "data", unset=("data_dir", "recipe", "weights"))
        if not isinstance(self.overrides, Mapping):
            raise InvalidTypeError(f"overrides must be a mapping, not {self.overrides!r}.")
        for name in self.overrides:
            if name in _OWNED:
                raise InvalidValueError(f"overrides: the study sets '{name}' itself. Remove it, or use the grid.")
        for bits in self.bits:
            check_bits("bits", bits)
        object.__setattr__(self, "bits", tuple(bits for bits in self.bits if bits != FLOAT_BITS))  # the baseline
        object.__setattr__(self, "methods", tuple(map(_method, self.methods)))
        for method in self.methods:
            for bits in self.bits:
                QuantSpec.from_options({**method, "bits": bits})
        if not all(isinstance(model, str) and model for model in self.model):
            raise InvalidTypeError(f"model={list(self.model)}: each must be a text.")
        if not all(type(seed) is int and seed >= 0 for seed in self.seeds):
            raise InvalidTypeError(f"seeds={list(self.seeds)}: each must be a whole number of at least 0.")
        for name in ("model", "methods", "bits", "seeds"):
            values = getattr(self, name)
            if name in ("model", "seeds") and not values:
                raise InvalidValueError(f"{name} is empty. Give at least one.")
            if any(value in values[:i] for i, value in enumerate(values)):
                raise InvalidValueError(f"{name}={list(values)} holds a value twice. Give each once.")


def _method(value: object) -> dict[str, Any]:
    """Returns the options of a method: its name alone, or a mapping."""
    options = {"method": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping) or "method" not in options:
        raise InvalidTypeError(f"methods: {value!r} is not a name or a mapping such as {{method: dorefa}}.")
    for key in options:
        if key not in _METHOD_KEYS:
            raise InvalidValueError(
                f"methods: '{key}' is not an option of a method.{did_you_mean(str(key), _METHOD_KEYS)} "
                f"Known: {', '.join(_METHOD_KEYS)}."
            )
    check_choice("method", options["method"], METHODS)
    return dict(options)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Section ``protocol``: the conditions of `robustness`.

    Raises:
        ValueError: An unknown corruption or severity, or a number below 1.
        TypeError: A value of the wrong type.
    """

    corruptions: Any = "19"
    """19, 15, a name, or a list of names."""
    severities: Any = "1-5"
    """Such as 3, 1-5 or a list."""
    preset: str | None = None
    """Constants of the corruptions; None: the track's."""
    split: str | None = None
    """Detectors: None: test, else val."""
    limit: int | None = None
    """Size of a fixed random subset; None: all images."""
    batch: int | None = None
    """Images per batch; None: as `val`."""

    def __post_init__(self) -> None:
        for name in ("corruptions", "severities"):
            value = getattr(self, name)
            texts = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            object.__setattr__(self, name, texts)
        check_texts(self, unset=("preset", "split"))
        check_counts(self, 1, unset=("limit", "batch"))
        self.conditions  # noqa: B018 - raises

    @property
    def conditions(self) -> list[Condition]:
        """Clean, then every corruption at every severity."""
        return conditions_of(parse_corruptions(self.corruptions), parse_severities(self.severities))


@dataclass(frozen=True, kw_only=True)
class Analyses:
    """Section ``analyses``: what is made of the measurements.

    Raises:
        TypeError: A value other than true or false.
    """

    table1: bool = True
    """`table --kind table1`: relative error improvements (QReg, Eq. 5)."""
    heatmaps: bool = True
    """`plot heatmap`, one per model, and `plot legend` (QReg, Fig. 3a)."""
    curves: bool = True
    """`plot curves` of the validation loss, one per model."""
    noise: bool = False
    """`noise` of each baseline, and its quantized networks' gradients against it."""

    def __post_init__(self) -> None:
        check_bools(self, "table1", "heatmaps", "curves", "noise")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study, validated on construction."""

    grid: Grid
    protocol: Protocol = field(default_factory=Protocol)
    analyses: Analyses = field(default_factory=Analyses)

    def to_dict(self) -> dict[str, Any]:
        """Returns the three sections as plain dictionaries."""
        grid = asdict(self.grid)
        for name in ("model", "methods", "bits", "seeds"):
            grid[name] = list(grid[name])
        return {"grid": grid, "protocol": asdict(self.protocol), "analyses": asdict(self.analyses)}


LAYOUT = {"grid": Section.of(Grid), "protocol": Section.of(Protocol), "analyses": Section.of(Analyses)}


def load(path: Path, given: Mapping[str, Any] | None = None) -> StudyConfig:
    """Returns the study of a YAML file.

    Args:
        path: The file.
        given: Keys of the grid from the command line; they replace the file's.

    Raises:
        ConfigError: Not readable, not YAML, an unknown section or key (the nearest is named), or a wrong value.
    """
    stored = sections.read_sections(path, LAYOUT)
    stored["grid"] |= given or {}
    stored["grid"].setdefault("model", "resnet20" if stored["grid"].get("track") == "classify" else "yolov5n.yaml")
    return StudyConfig(**sections.build(stored, str(path), LAYOUT))
