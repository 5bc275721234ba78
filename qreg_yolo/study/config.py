"""A study's file: the grid of trainings, the protocol of the measurements, and the analyses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
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
"""Value of ``weights`` and ``teacher``: the fp32 baseline of the same model and seed."""
_OWNED = (
    "model", "data", "data_dir", "method", "bits", "weight_bits", "act_bits", "seed", "seeds", "hyp", "weights",
    "resume", "project", "name",
)  # fmt: skip
"""Options of a training that the other keys of the grid, or the study itself, set."""
_OWNED_OF_VARIANTS = tuple({*_OWNED} - {"method", "weight_bits", "act_bits", "hyp", "weights"})
"""The same for a variant."""
_NAME = re.compile(r"[A-Za-z0-9][^=/\x00-\x1f]*")
"""A name that can be a folder and stand before ``=CHECKPOINT``."""
METHOD_KEYS = ("method", "act_bits", "weight_only", "per_channel", "first_last_bits", "signed")
"""Options of a method."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training that starts from the fp32 baseline: of each model, width and seed.

    Raises:
        ValueError: A value outside its range or choices, an empty list, or a value given twice.
        TypeError: A value of the wrong type.
    """

    name: str
    """As in the tables, such as ``lsq+ per channel``."""
    bits: Sequence[int] | None = None
    """Widths of weights and activations; 32: full precision, trained on. None: the grid's."""
    seeds: Sequence[int] | None = None
    """Some of the grid's; None: all of them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options and ``key=value`` of the training; ``weights`` and ``teacher`` may be `baseline`, and ``weights`` is by
    default. The grid's ``recipe`` and ``overrides`` do not apply."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name in ("name", "project"):
            raise InvalidValueError(
                f"variants: name={self.name!r} cannot be a name. Begin with a letter or digit, without '=' and '/'."
            )
        where = f"variant '{self.name}'"
        for name in ("bits", "seeds"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _listed(f"{where}: {name}", getattr(self, name)))
                _check_distinct(f"{where}: {name}", getattr(self, name))
        for bits in self.bits or ():
            check_bits(f"{where}: bits", bits)
        _check_options(f"{where}: options", self.options, _OWNED_OF_VARIANTS)

    @property
    def label(self) -> str:
        """The name, for files: ``lsqplus-per-channel``."""
        return re.sub(r"[^a-z0-9_.]+", "-", self.name.lower().replace("+", "plus")).strip("-")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Section ``grid``: the fp32 baseline of each model and seed, a training of each method and width, and variants.

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
    methods: Sequence[Mapping[str, Any]] | None = None
    """Methods: names, or options such as ``{method: dorefa, weight_only: true}``, trained as the baselines are; none:
    the baselines (and variants) alone. None: `lsq`, but none where there are variants."""
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
    variants: Sequence[Variant] = ()
    """Trainings from the baselines, each a mapping with the keys of `Variant`."""
    variant_options: Mapping[str, Any] = field(default_factory=dict)
    """``options`` of all variants; a variant's own replace them."""

    def __post_init__(self) -> None:
        if self.methods is None:
            object.__setattr__(self, "methods", () if self.variants else ({"method": "lsq"},))
        for name in ("model", "methods", "bits", "seeds", "variants"):
            object.__setattr__(self, name, _listed(name, getattr(self, name)))
        check_choice("track", self.track, TRACKS)
        check_texts(self, "data", unset=("data_dir", "recipe", "weights"))
        _check_options("overrides", self.overrides, _OWNED)
        _check_options("variant_options", self.variant_options, _OWNED_OF_VARIANTS)
        for bits in self.bits:
            check_bits("bits", bits)
        object.__setattr__(self, "bits", tuple(bits for bits in self.bits if bits != FLOAT_BITS))  # the baseline
        object.__setattr__(self, "methods", tuple(map(_method, self.methods or ())))
        object.__setattr__(self, "variants", tuple(map(self._variant, self.variants)))
        for method in self.methods or ():
            for bits in self.bits:
                QuantSpec.from_options({**method, "bits": bits})
        if not all(isinstance(model, str) and model for model in self.model):
            raise InvalidTypeError(f"model={list(self.model)}: each must be a text.")
        if not all(type(seed) is int and seed >= 0 for seed in self.seeds):
            raise InvalidTypeError(f"seeds={list(self.seeds)}: each must be a whole number of at least 0.")
        for name in ("model", "methods", "bits", "seeds", "variants"):
            _check_distinct(name, getattr(self, name), empty=name not in ("model", "seeds"))

    def _variant(self, value: object) -> Variant:
        """Returns a variant from its mapping."""
        if isinstance(value, Variant):
            found = value
        else:
            if not isinstance(value, Mapping) or "name" not in value:
                raise InvalidTypeError(f"variants: {value!r} is not a mapping such as {{name: lsq+, bits: [4]}}.")
            _check_keys("variants", value, [one.name for one in fields(Variant)])
            found = Variant(**value)
        for seed in found.seeds or ():
            if seed not in self.seeds:
                raise InvalidValueError(
                    f"variant '{found.name}': seed {seed} has no baseline. Add it to the grid's seeds, which are "
                    f"{list(self.seeds)}."
                )
        return found


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    """Returns one value, or a list of them, as a tuple."""
    single = isinstance(value, (str, int, Mapping))
    if not single and not isinstance(value, (list, tuple)):
        raise InvalidTypeError(f"{name} must be a list, not {value!r}.")
    return (value,) if single else tuple(value)


def _check_distinct(name: str, values: Sequence[Any], *, empty: bool = False) -> None:
    """Raises if a value occurs twice, or if the list is empty, unless ``empty`` allows it."""
    if not values and not empty:
        raise InvalidValueError(f"{name} is empty. Give at least one.")
    if any(one in values[:i] for i, one in enumerate(values)):
        raise InvalidValueError(f"{name}={list(values)} holds a value twice. Give each once.")


def _check_keys(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises if a key is not known; the nearest is named."""
    for key in given:
        if key not in known:
            raise InvalidValueError(
                f"{name}: there is no option '{key}'.{did_you_mean(str(key), known)} Known: {', '.join(known)}."
            )


def _check_options(where: str, options: object, owned: Sequence[str]) -> None:
    """Raises unless a value is a mapping of options that the study does not set itself."""
    if not isinstance(options, Mapping):
        raise InvalidTypeError(f"{where} must be a mapping, not {options!r}.")
    for name in options:
        if name in owned:
            raise InvalidValueError(f"{where}: the study sets '{name}' itself. Remove it, or use the grid.")


def _method(value: object) -> dict[str, Any]:
    """Returns the options of a method: its name alone, or a mapping."""
    options = {"method": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping) or "method" not in options:
        raise InvalidTypeError(f"methods: {value!r} is not a name or a mapping such as {{method: dorefa}}.")
    _check_keys("methods", options, METHOD_KEYS)
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
    """19, 15, a name, a list of names, or `none` (or an empty list): clean images alone."""
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
            object.__setattr__(self, name, texts if texts or name == "severities" else "none")
        check_texts(self, unset=("preset", "split"))
        check_counts(self, 1, unset=("limit", "batch"))
        self.conditions  # noqa: B018 - raises

    @property
    def conditions(self) -> list[Condition]:
        """Clean, then every corruption at every severity."""
        return conditions_of(parse_corruptions(self.corruptions, none=True), parse_severities(self.severities))


@dataclass(frozen=True, kw_only=True)
class Analyses:
    """Section ``analyses``: what is made of the measurements.

    Raises:
        TypeError: A value other than true or false, or a reference that is not a name.
        ValueError: A reference without `accuracy`.
    """

    table1: bool = True
    """`table --kind table1`: relative error improvements (QReg, Eq. 5)."""
    heatmaps: bool = True
    """`plot heatmap`, one per model, and `plot legend` (QReg, Fig. 3a)."""
    curves: bool = True
    """`plot curves` of the validation loss, one per model."""
    noise: bool = False
    """`noise` of each baseline, and its quantized networks' gradients against it."""
    accuracy: bool = False
    """`table --kind accuracy`: clean accuracies against a reference."""
    reference: str | None = None
    """Name of the variant that `accuracy` compares with; None: the fp32 baselines."""

    def __post_init__(self) -> None:
        check_bools(self, "table1", "heatmaps", "curves", "noise", "accuracy")
        check_texts(self, unset=("reference",))
        if self.reference is not None and not self.accuracy:
            raise InvalidValueError(f"reference={self.reference!r} is for the table of accuracies. Add accuracy: true.")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study, validated on construction."""

    grid: Grid
    protocol: Protocol = field(default_factory=Protocol)
    analyses: Analyses = field(default_factory=Analyses)

    def to_dict(self) -> dict[str, Any]:
        """Returns the three sections as plain dictionaries."""
        grid = asdict(self.grid)
        for name in ("model", "methods", "bits", "seeds", "variants"):
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
