"""Replacement of float layers by quantized ones, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from qreg_yolo.errors import InvalidValueError, did_you_mean
from qreg_yolo.quant.layers import QuantConv2d, QuantLayer, QuantLinear
from qreg_yolo.quant.spec import LayerPlan, QuantizerSpec, QuantSpec

_SWAPS: dict[type[nn.Module], type[QuantLayer]] = {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}


@dataclass(frozen=True)
class ConversionReport:
    """Result of `quantize_model`: the plans by full layer name, and the reasons for the other layers."""

    swapped: dict[str, LayerPlan] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns one line per layer."""
        lines = [f"{len(self.swapped)} layers quantized, {len(self.skipped)} left in full precision"]
        lines += [f"  {name}: {_sides(plan)}" for name, plan in self.swapped.items()]
        lines += [f"  {name}: skipped, {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def _sides(plan: LayerPlan) -> str:
    sides = (("weight", plan.weight), ("input", plan.input))
    return ", ".join(f"{side} {s.method} {s.bits} bits" if s else f"{side} fp32" for side, s in sides)


def candidate_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Yields ``(fqn, parent, attribute, layer)`` of every convolution and linear layer, quantized or not.

    The order is that of registration. A layer registered in several places is yielded once for each.
    """
    seen = set()
    for fqn, layer in list(model.named_modules(remove_duplicate=False)):
        if fqn and isinstance(layer, (_ConvNd, nn.Linear)):
            parent_name, _, attribute = fqn.rpartition(".")
            parent = model.get_submodule(parent_name)
            if (parent, attribute) not in seen:
                seen.add((parent, attribute))
                yield fqn, parent, attribute, layer


def distinct_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every convolution and linear layer once, under the first of its names."""
    names: dict[nn.Module, str] = {}
    for name, _, _, layer in candidate_layers(model):
        names.setdefault(layer, name)
    return {name: layer for layer, name in names.items()}


def followed_by_batch_norm(parent: nn.Module, attribute: str) -> bool:
    """Returns whether the module registered right after ``attribute`` is a BatchNorm of as many channels."""
    names = [name for name, child in parent._modules.items() if child is not None]
    following = names[names.index(attribute) + 1 : names.index(attribute) + 2]
    layer = parent.get_submodule(attribute)
    channels = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    norms = [parent.get_submodule(name) for name in following]
    return any(isinstance(n, nn.modules.batchnorm._BatchNorm) and n.num_features == channels for n in norms)


def plan_quantization(
    model: nn.Module,
    spec: QuantSpec,
    *,
    first_last_layers: Sequence[str] = (),
    keep_float: Mapping[str, str] | None = None,
    pretrained: bool = False,
) -> ConversionReport:
    """Returns the result of `quantize_model` without changing the model; same arguments and errors."""
    layers = {fqn: (parent, attribute, layer) for fqn, parent, attribute, layer in candidate_layers(model)}
    keep_float = keep_float or {}
    _check_names(spec, first_last_layers, keep_float, list(layers))
    report = ConversionReport()
    for fqn, (parent, attribute, layer) in layers.items():
        reason = keep_float.get(fqn) or _unsupported(parent, layer) or _left_out(fqn, spec)
        if reason:
            report.skipped[fqn] = reason
            continue
        local = spec.for_layer(fqn, first_or_last=fqn in first_last_layers)
        rescale = pretrained or not followed_by_batch_norm(parent, attribute)
        plan = local.layer_plan(rescale=rescale, pretrained=pretrained)
        if plan.is_float:
            report.skipped[fqn] = "first or last layer, in full precision" if fqn in first_last_layers else "32 bits"
        else:
            report.swapped[fqn] = plan
    return report


def apply_plan(model: nn.Module, plans: Mapping[str, LayerPlan]) -> None:
    """Replaces layers by quantized ones according to their plans, in place; those that already agree stay.

    Raises:
        ValueError: An unknown layer, one that cannot be quantized, or one that is quantized differently.
    """
    layers = {fqn: (parent, attribute, layer) for fqn, parent, attribute, layer in candidate_layers(model)}
    swaps = []
    for fqn, plan in plans.items():
        if fqn not in layers:
            raise InvalidValueError(f"The model has no layer '{fqn}'.{did_you_mean(fqn, layers)}")
        parent, attribute, layer = layers[fqn]
        if not isinstance(layer, QuantLayer):
            reason = _unsupported(parent, layer)
            if reason:
                raise InvalidValueError(f"Layer '{fqn}' cannot be quantized: {reason}.")
            swaps.append((parent, attribute, layer, plan))
        elif not plans_agree(layer.plan, plan):
            raise InvalidValueError(
                f"Layer '{fqn}' is quantized already, as {layer.plan}. Call dequantize_model first to change it."
            )
    done: dict[tuple[int, LayerPlan], nn.Module] = {}  # a layer with several names stays one layer
    for parent, attribute, layer, plan in swaps:
        key = (id(layer), plan)
        if key not in done:
            done[key] = _SWAPS[type(layer)].from_float(layer, plan)
        setattr(parent, attribute, done[key])


def quantize_model(
    model: nn.Module,
    spec: QuantSpec,
    *,
    first_last_layers: Sequence[str] = (),
    keep_float: Mapping[str, str] | None = None,
    pretrained: bool = False,
) -> ConversionReport:
    """Replaces every `Conv2d` and `Linear` by its quantized form, in place; returns the plans and skipped layers.

    Parameters keep their objects and names. A second call with the same spec changes nothing. Layers of other types,
    subclasses included (they may read the weight themselves), are skipped with the reason.

    Args:
        model: Any module.
        spec: The request; its patterns are matched against full layer names.
        first_last_layers: Full names of the first and last layers, which get ``spec.first_last_bits``.
        keep_float: Full name -> reason, for layers that stay in full precision.
        pretrained: Whether trained float weights are (or will be) loaded: DoReFa then keeps their scale.

    Raises:
        ValueError: A pattern or name that matches no layer (the nearest is given), or a layer that is already quantized
            differently. The model is unchanged then.
    """
    report = plan_quantization(
        model, spec, first_last_layers=first_last_layers, keep_float=keep_float, pretrained=pretrained
    )
    apply_plan(model, report.swapped)
    return report


def dequantize_model(model: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Undoes `quantize_model` in place, keeping the Parameter objects; returns the names of the float layers.

    Args:
        model: Any module.
        names: Full names of the layers (all names of a layer with several); None: every quantized layer.

    Raises:
        ValueError: A name of no quantized layer (the nearest is given). The model is unchanged then.
    """
    quantized = quantized_layers(model)
    for name in names or ():
        if name not in quantized:
            raise InvalidValueError(f"The model has no quantized layer '{name}'.{did_you_mean(name, quantized)}")
    done: dict[nn.Module, nn.Module] = {}  # a layer with several names stays one layer
    undone = []
    for fqn, parent, attribute, layer in candidate_layers(model):
        if isinstance(layer, QuantLayer) and (names is None or fqn in names):
            if layer not in done:
                done[layer] = layer.to_float()
            setattr(parent, attribute, done[layer])
            undone.append(fqn)
    return undone


def quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Returns the quantized layers by full name."""
    return {fqn: layer for fqn, _, _, layer in candidate_layers(model) if isinstance(layer, QuantLayer)}


def _unsupported(parent: nn.Module, layer: nn.Module) -> str | None:
    name = type(layer).__name__
    if isinstance(parent, nn.TransformerEncoderLayer):
        return f"{name}: TransformerEncoderLayer's inference path reads its weight without calling it"
    if type(layer) in _SWAPS or isinstance(layer, QuantLayer):
        return None
    if isinstance(parent, nn.MultiheadAttention):
        return f"{name}: MultiheadAttention reads its weight without calling it"
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return f"{name}: a subclass may compute with its weight in its own way"
    return f"{name}: only Conv2d and Linear are quantized"


def _left_out(fqn: str, spec: QuantSpec) -> str | None:
    for pattern in spec.exclude:
        if fnmatchcase(fqn, pattern):
            return f"excluded by '{pattern}'"
    if spec.include and not any(fnmatchcase(fqn, pattern) for pattern in spec.include):
        return "not included"
    return None


def _check_names(
    spec: QuantSpec, first_last_layers: Sequence[str], keep_float: Mapping[str, str], names: list[str]
) -> None:
    groups = (("include", spec.include), ("exclude", spec.exclude), ("overrides", tuple(spec.overrides)))
    for option, patterns in groups:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InvalidValueError(f"{option} pattern '{pattern}' matches no layer.{did_you_mean(pattern, names)}")
    for argument, given in (("first_last_layers", first_last_layers), ("keep_float", keep_float)):
        for name in given:
            if name not in names:
                raise InvalidValueError(f"{argument}: the model has no layer '{name}'.{did_you_mean(name, names)}")


def plans_agree(present: LayerPlan, wanted: LayerPlan) -> bool:
    """Returns whether the plans agree, whatever the start of the ranges; any signedness agrees with an open one."""
    return all(_agree(one, other) for one, other in ((present.weight, wanted.weight), (present.input, wanted.input)))


def _agree(present: QuantizerSpec | None, wanted: QuantizerSpec | None) -> bool:
    if present is None or wanted is None:
        return present is wanted
    signed = present.signed if wanted.signed is not None else None
    return replace(present, signed=signed, init=wanted.init, clip_init=wanted.clip_init) == wanted
