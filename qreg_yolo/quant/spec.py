"""Specification of a quantization, as frozen values (standard library only).

Three levels, each a plain dictionary on disk (``to_dict`` / ``from_dict``):

* `QuantSpec`: a user's request for a network.
* `LayerPlan`: the quantizers of one layer, for the weight and the input, both optional.
* `QuantizerSpec`: one quantizer: method, width, signedness, granularity and options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

from qreg_yolo.errors import InvalidTypeError, InvalidValueError, did_you_mean
from qreg_yolo.quant.stages import FLOAT_BITS as FLOAT_BITS
from qreg_yolo.quant.stages import Stage, as_stages, stages_to_list

Method = Literal["lsq", "lsq+", "pact", "dorefa"]
METHODS: tuple[str, ...] = ("lsq", "lsq+", "pact", "dorefa")
SIGNED_CHOICES: tuple[str, ...] = ("auto", "signed", "unsigned")
INIT_CHOICES: tuple[str, ...] = ("auto", "mse", "paper", "minmax", "percentile")
OFFSET_CHOICES: tuple[str, ...] = ("integer", "float")
GRAD_SCALE_CHOICES: tuple[str, ...] = ("sample", "batch")
AUTO_CHOICES: tuple[str | bool, ...] = ("auto", True, False)
FIRST_LAST_CHOICES: tuple[int | str | None, ...] = (None, 8, 32, "same")
WIDTHS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)

_WEIGHT_METHOD: dict[str, Method] = {"lsq": "lsq", "lsq+": "lsq+", "pact": "dorefa", "dorefa": "dorefa"}
"""PACT (arXiv 1805.06085) quantizes activations only; its weights are DoReFa's."""
BEFORE_INIT: Mapping[str, Any] = MappingProxyType({"init": "paper", "offset": "float", "clip_init": 10.0})
"""Options of the requests that were stored before they had these keys."""
_OVERRIDE_KEYS = ("bits", "weight_bits", "act_bits", "method", "per_channel", "signed", "rescale")


@dataclass(frozen=True, kw_only=True)
class QuantizerSpec:
    """One quantizer of one tensor."""

    method: Method
    """`lsq`, `lsq+` or `dorefa` (weights or inputs), or `pact` (inputs)."""
    bits: int
    """Width, 1 to 8."""
    signed: bool | None
    """Whether the grid has negative codes; None: calibration decides (`lsq` inputs only)."""
    per_channel: bool = False
    """One step per output channel (weights only) instead of one per tensor."""
    grad_scale: str = "sample"
    """`lsq` and `lsq+` inputs: whether N in 1/sqrt(N Q_P) counts one sample's features or the whole batch's."""
    max_grad: bool = False
    """`dorefa` weights: gradient through max|tanh(w)|, as in the authors' code."""
    rescale: bool | None = None
    """`dorefa` weights: keep the tensor's standard deviation; None: not resolved yet."""
    clip_init: float | None = 10.0
    """`pact` inputs: initial clipping value; None: by calibration."""
    init: str = "paper"
    """Start of a learned range: `paper` (the method's own), `mse`, `minmax` or `percentile`."""
    offset: str = "float"
    """`lsq+` inputs: `integer` (0 has a code of its own) or `float` (as in the paper)."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The quantizers of one convolution or linear layer; None is full precision."""

    weight: QuantizerSpec | None
    input: QuantizerSpec | None

    @property
    def is_float(self) -> bool:
        """Whether neither side is quantized."""
        return self.weight is None and self.input is None

    def to_dict(self) -> dict[str, Any]:
        """Returns ``{"weight": {...} | None, "input": {...} | None}``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerPlan:
        """Returns the plan that `to_dict` wrote."""

        def side(name: str) -> QuantizerSpec | None:
            return None if data[name] is None else QuantizerSpec(**data[name])

        return cls(weight=side("weight"), input=side("input"))


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """A user's request, validated on construction.

    Raises:
        ValueError: A value outside its range or choices, or a combination that contradicts itself.
        TypeError: A value of the wrong type.
    """

    method: str = "lsq"
    """`lsq` | `lsq+` | `pact` (PACT inputs + DoReFa weights) | `dorefa`."""
    weight_bits: int = 4
    """1..8, or 32 for full precision."""
    act_bits: int = 4
    """1..8, or 32 for full precision."""
    first_last_bits: int | str | None = None
    """First and last layers: 8, 32, "same", or None: 8 for `lsq` and `lsq+`, 32 for `pact` and `dorefa`."""
    per_channel: bool = False
    """Weights: one step per output channel."""
    signed: str = "auto"
    """LSQ inputs: `auto` (lower calibration error, per layer), `signed` or `unsigned`."""
    grad_scale: str = "sample"
    """LSQ and LSQ+ inputs: N of the gradient scale per `sample` or per `batch`."""
    max_grad: bool = False
    """DoReFa weights: gradient through max|tanh(w)|."""
    rescale: str | bool = "auto"
    """DoReFa weights: keep the standard deviation; `auto`: where no BatchNorm follows or float weights were loaded."""
    init: str = "auto"
    """Start of learned ranges: `mse` (least squared error), `paper` (the method's own), `minmax` or `percentile`;
    `auto`: `mse` where trained weights are loaded, else `paper`."""
    offset: str = "integer"
    """LSQ+ inputs: `integer` (0 has a code of its own, so that the grid can be deployed) or `float` (the paper's)."""
    clip_init: float | None = None
    """PACT: initial clipping value, in units of the activation; None: 10 with ``init: paper``, else by calibration."""
    clip_decay: float | None = None
    """PACT: L2 decay of the clipping value; None: the optimizer's weight decay."""
    relative_steps: str | bool = "auto"
    """Steps and clipping values learn relative to their size, offsets to the step; `auto`: under Adam's kind."""
    stages: tuple[Stage, ...] = ()
    """Shares of the epochs at other widths, before the last stage; in a dictionary, a list or a text (`as_stages`)."""
    include: tuple[str, ...] = ()
    """Layer patterns (fnmatch on the full name); empty: all."""
    exclude: tuple[str, ...] = ()
    """Layer patterns that stay in full precision."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Pattern -> {bits, weight_bits, act_bits, method, per_channel, signed, rescale}; the last match wins."""

    def __post_init__(self) -> None:
        for name in ("include", "exclude"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        if not isinstance(self.overrides, Mapping) or not all(isinstance(v, Mapping) for v in self.overrides.values()):
            raise InvalidTypeError(
                f"overrides must map layer patterns to options, such as {{'head.*': {{'bits': 8}}}}, "
                f"not {self.overrides!r}."
            )
        object.__setattr__(self, "overrides", {k: dict(v) for k, v in self.overrides.items()})
        object.__setattr__(self, "stages", as_stages(self.stages))
        _check_choice("method", self.method, METHODS)
        _check_choice("signed", self.signed, SIGNED_CHOICES)
        _check_choice("init", self.init, INIT_CHOICES)
        _check_choice("offset", self.offset, OFFSET_CHOICES)
        _check_choice("grad_scale", self.grad_scale, GRAD_SCALE_CHOICES)
        _check_choice("rescale", self.rescale, AUTO_CHOICES)
        _check_choice("relative_steps", self.relative_steps, AUTO_CHOICES)
        _check_choice("first_last_bits", self.first_last_bits, FIRST_LAST_CHOICES)
        check_bits("weight_bits", self.weight_bits)
        check_bits("act_bits", self.act_bits)
        for name in ("per_channel", "max_grad"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidTypeError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        if self.clip_init is not None:
            _check_number("clip_init", self.clip_init, "a positive number", False)
        if self.clip_decay is not None:
            _check_number("clip_decay", self.clip_decay, "0 or more", self.clip_decay == 0)
        refused = {"lsq": (), "lsq+": ("signed", "unsigned")}.get(self.method, ("signed",))
        if self.signed in refused and self.act_bits != FLOAT_BITS:
            why = "a learned offset places its grid" if self.method == "lsq+" else "its activations are clipped at 0"
            raise InvalidValueError(
                f"signed='{self.signed}' does not go with method='{self.method}': {why} by definition. "
                "Use method='lsq', weight_only, or leave signed at 'auto'."
            )
        for pattern, override in self.overrides.items():
            self._overridden(pattern, override)  # validates the override by building what it asks for

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> QuantSpec:
        """Returns the spec of a dictionary as users write it.

        Besides the fields it takes ``bits`` (both widths; ``weight_bits`` and ``act_bits`` override it),
        ``weight_only`` (full-precision activations), and ``edge_bits``, the older name of ``first_last_bits``.

        Raises:
            ValueError: An unknown key (the nearest is named), or ``weight_only`` with quantized ``act_bits``.
        """
        options = dict(options)
        known = [f.name for f in fields(cls)]
        for key in options:
            if key not in (*known, "bits", "weight_only", "edge_bits"):
                raise InvalidValueError(
                    f"'{key}' is not a quantization option.{did_you_mean(key, known)} "
                    f"Known: bits, weight_only, {', '.join(known)}."
                )
        return cls(**spelled_out(options))

    def to_dict(self) -> dict[str, Any]:
        """Returns a YAML-safe dictionary that `from_options` reads back."""
        lists = {"include": list(self.include), "exclude": list(self.exclude), "stages": stages_to_list(self.stages)}
        return {**asdict(self), **lists}

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized, by default or by override (the fp32 baseline)."""
        widths = [self.weight_bits, self.act_bits]
        widths += [o[k] for o in self.overrides.values() for k in ("bits", "weight_bits", "act_bits") if k in o]
        return all(w == FLOAT_BITS for w in widths)

    @property
    def label(self) -> str:
        """Short name for files, such as `lsq-w4a4`, `lsqplus-w4a4` or `fp32`."""
        return "fp32" if self.is_float else f"{self.method.replace('+', 'plus')}-w{self.weight_bits}a{self.act_bits}"

    def initial(self, *, pretrained: bool) -> str:
        """Returns the start of learned ranges: `init`, with `auto` resolved."""
        return self.init if self.init != "auto" else "mse" if pretrained else "paper"

    def started(self, *, pretrained: bool) -> str | None:
        """Returns `initial` for the records; None if no range is learned."""
        return None if self.is_float or self.method == "dorefa" else self.initial(pretrained=pretrained)

    def first_last(self) -> QuantSpec:
        """Returns the spec of the first and last layers (a side in full precision stays so)."""
        bits = (
            self.first_last_bits
            if self.first_last_bits is not None
            else (8 if self.method in ("lsq", "lsq+") else FLOAT_BITS)
        )
        if bits == "same":
            return self
        assert isinstance(bits, int)
        return replace(
            self,
            weight_bits=FLOAT_BITS if self.weight_bits == FLOAT_BITS else bits,
            act_bits=FLOAT_BITS if self.act_bits == FLOAT_BITS else bits,
        )

    def for_layer(self, fqn: str, *, first_or_last: bool = False) -> QuantSpec:
        """Returns the spec of the layer ``fqn``: first or last layer's widths, then all matching overrides."""
        local = self.first_last() if first_or_last else self
        for pattern, override in self.overrides.items():
            if fnmatchcase(fqn, pattern):
                local = local._overridden(pattern, override)
        return local

    def _overridden(self, pattern: str, override: Mapping[str, Any]) -> QuantSpec:
        for key in override:
            if key not in _OVERRIDE_KEYS:
                raise InvalidValueError(
                    f"Override '{pattern}': '{key}' is not an option of a layer.{did_you_mean(key, _OVERRIDE_KEYS)} "
                    f"Known: {', '.join(_OVERRIDE_KEYS)}."
                )
        return replace(self, overrides={}, stages=(), **spelled_out(override))

    def layer_plan(self, *, rescale: bool | None, pretrained: bool = False) -> LayerPlan:
        """Returns the quantizers of a layer under this spec.

        Args:
            rescale: Value of `rescale='auto'` for this layer; None: resolved later.
            pretrained: Whether trained float weights are (or will be) loaded, for `init='auto'`.
        """
        init = self.initial(pretrained=pretrained)
        weight = act = None
        if self.weight_bits != FLOAT_BITS:
            method = _WEIGHT_METHOD[self.method]
            weight = QuantizerSpec(
                method=method,
                bits=self.weight_bits,
                signed=True,
                per_channel=self.per_channel,
                max_grad=self.max_grad if method == "dorefa" else False,
                rescale=(rescale if self.rescale == "auto" else bool(self.rescale)) if method == "dorefa" else None,
                init="paper" if method == "dorefa" else init,
            )
        if self.act_bits != FLOAT_BITS:
            signed = {"auto": None, "signed": True, "unsigned": False}[self.signed] if self.method == "lsq" else False
            act = QuantizerSpec(
                method=self.method,  # type: ignore[arg-type]
                bits=self.act_bits,
                signed=signed,
                grad_scale=self.grad_scale,
                clip_init=10.0 if self.clip_init is None and init == "paper" else self.clip_init,
                init="paper" if self.method == "dorefa" else init,
                offset=self.offset if self.method == "lsq+" else "float",
            )
        return LayerPlan(weight=weight, input=act)


def spelled_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with ``bits`` and ``weight_only`` as widths, and ``edge_bits`` under its current name.

    Raises:
        ValueError: ``bits`` is not a width, or ``weight_only`` with quantized ``act_bits``.
        TypeError: ``weight_only`` is not true or false.
    """
    options = {"first_last_bits" if name == "edge_bits" else name: value for name, value in options.items()}
    bits, weight_only = options.pop("bits", None), options.pop("weight_only", False)
    if not isinstance(weight_only, bool):
        raise InvalidTypeError(f"weight_only must be true or false, not {weight_only!r}.")
    if bits is not None:
        check_bits("bits", bits)
        options = {"weight_bits": bits, **({} if weight_only else {"act_bits": bits}), **options}
    if weight_only:
        if options.get("act_bits", FLOAT_BITS) != FLOAT_BITS:
            raise InvalidValueError(
                f"weight_only means act_bits=32, but act_bits={options['act_bits']} was given. Drop one of them."
            )
        options["act_bits"] = FLOAT_BITS
    return options


def check_bits(name: str, value: object) -> None:
    """Raises `InvalidValueError` unless ``value`` is a width: 1 to 8, or 32."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in WIDTHS:
        raise InvalidValueError(f"{name}={value!r} is not a width. Use 1 to 8, or 32 for full precision.")


def _patterns(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(pattern, str) for pattern in value):
        raise InvalidTypeError(f"{name} must be a list of layer patterns, such as ['model.0.*'], not {value!r}.")
    return tuple(value)


def _check_choice(name: str, value: object, choices: tuple[Any, ...]) -> None:
    if not any(value == c and type(value) is type(c) for c in choices):
        said = str(value).replace("plus", "+")  # folders are called lsqplus-...
        hint = did_you_mean(said, [c for c in choices if isinstance(c, str)])
        shown = ", ".join(str(c).lower() for c in choices if c is not None)
        raise InvalidValueError(f"{name}={value!r} is not one of: {shown}.{hint}")


def _check_number(name: str, value: object, wanted: str, zero: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (zero or 0 < value < float("inf")):  # type: ignore[operator]
        raise InvalidValueError(f"{name} must be {wanted}, not {value!r}.")
