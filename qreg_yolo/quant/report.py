"""Reports of layers: widths, codes in use, clipping, signal to noise, size and operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.calibration import quantizers_off
from qreg_yolo.quant.convert import distinct_layers, quantized_layers
from qreg_yolo.quant.layers import QuantLayer
from qreg_yolo.quant.lsq_plus import LSQPlusInputQuantizer
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan
from qreg_yolo.quant.weight_noise import weight_noise


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One convolution or linear layer; fields that do not apply are None."""

    name: str
    """Full name."""
    weights: int
    """Number of weights."""
    macs: int | None
    """Multiply-accumulates per image; None: not measured."""
    weight_method: str | None
    """`lsq` | `lsq+` | `dorefa`; None: full precision."""
    weight_bits: int
    """1..8, or 32."""
    weight_step: float | None
    """LSQ's step size (mean over channels), in the weight's unit."""
    weight_codes_used: int | None
    """Distinct codes in the tensor, at most 2^bits."""
    weight_clipped: float | None
    """Share of the weights beyond the range, 0..1."""
    weight_sqnr_db: float | None
    """Signal to quantization noise, dB (`weight_noise`); of `dorefa` in the unit of its grid."""
    input_method: str | None
    """`lsq` | `lsq+` | `pact` | `dorefa`; None: full precision."""
    input_bits: int
    """1..8, or 32."""
    input_signed: bool | None
    """Whether the input's grid has negative codes."""
    input_step: float | None
    """Step between neighbouring levels, in the input's unit."""
    input_offset: float | None
    """Value of code 0, where it is learned (`lsq+`), in the input's unit."""

    @property
    def bit_operations(self) -> int | None:
        """``MACs * weight bits * input bits``; None where the MACs are not known."""
        return None if self.macs is None else self.macs * self.weight_bits * self.input_bits

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields and the bit-operations as a plain dictionary."""
        return {**asdict(self), "bit_operations": self.bit_operations}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Storage of a model's parameters and BatchNorm statistics, MB (10^6 bytes)."""

    quantized_mb: float
    """Quantized weights at their widths, everything else in 32 bits."""
    float_mb: float
    """The same network without quantizers, in 32 bits."""


def layer_reports(model: nn.Module, macs: dict[str, int] | None = None) -> list[LayerReport]:
    """Returns a report of every convolution and linear layer, in the order of registration.

    A layer with several names has one report, under the first of them.

    Args:
        model: A calibrated model.
        macs: Multiply-accumulates by layer name (`count_macs`).
    """
    return [
        _report(name, layer, None if macs is None else macs.get(name, 0))
        for name, layer in distinct_layers(model).items()
    ]


def _report(name: str, layer: nn.Module, macs: int | None) -> LayerReport:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    quantizer = layer.weight_fake_quant if isinstance(layer, QuantLayer) else None
    act = layer.input_fake_quant if isinstance(layer, QuantLayer) else None
    noise = weight_noise(quantizer, weight) if quantizer else None
    return LayerReport(
        name=name,
        weights=weight.numel(),
        macs=macs,
        weight_method=quantizer.spec.method if quantizer else None,
        weight_bits=quantizer.bits if quantizer else FLOAT_BITS,
        weight_step=step_size(quantizer) if quantizer else None,
        weight_codes_used=noise.codes_used if noise else None,
        weight_clipped=noise.clipped if noise else None,
        weight_sqnr_db=noise.sqnr_db if noise else None,
        input_method=act.spec.method if act else None,
        input_bits=act.bits if act else FLOAT_BITS,
        input_signed=act.spec.signed if act else None,
        input_step=step_size(act) if act else None,
        input_offset=act.value_of_code_0 if isinstance(act, LSQPlusInputQuantizer) else None,
    )


def step_size(quantizer: Quantizer) -> float | None:
    """Returns the learned step size (mean over channels); None if the method has none."""
    parameters = dict(quantizer.named_parameters(recurse=False))
    if "step_size" in parameters:
        return float(parameters["step_size"].detach().mean())
    if "clip_value" in parameters:
        return float(parameters["clip_value"].detach()) / quantizer.quant_max
    return None


def count_macs(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Returns the multiply-accumulates of every convolution and linear layer during ``run()``.

    A layer with several names has one entry, under the first of them, for all of its calls.

    Args:
        model: Any module; its quantizers are off meanwhile.
        run: Runs the model once, such as ``lambda: model(image)``.
    """
    macs: dict[str, int] = {}

    def counter(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            # A transposed convolution multiplies each input by a filter; other layers compute each output with one.
            transposed = isinstance(layer, _ConvNd) and layer.transposed
            filters = inputs[0].numel() if transposed else output.numel()
            macs[name] = macs.get(name, 0) + filters * weight[0].numel()

        return count

    handles = [layer.register_forward_hook(counter(name)) for name, layer in distinct_layers(model).items()]
    try:
        with torch.no_grad(), quantizers_off(model):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return macs


def model_size(model: nn.Module) -> ModelSize:
    """Returns the storage of ``model`` at its bit widths, and of the same network in fp32.

    Quantizers' own parameters count at 32 bits; flags and counters do not count.
    """
    quantizers = {id(p) for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters(recurse=False)}
    widths = {
        id(layer.weight): layer.weight_fake_quant.bits
        for layer in quantized_layers(model).values()
        if layer.weight_fake_quant is not None
    }
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    bits = sum(t.numel() * widths.get(id(t), FLOAT_BITS) for t in tensors)
    float_bits = sum(t.numel() * FLOAT_BITS for t in tensors if id(t) not in quantizers)
    return ModelSize(quantized_mb=bits / 8e6, float_mb=float_bits / 8e6)


def plan_summary(layers: Mapping[str, LayerPlan], skipped: Mapping[str, str], *, noun: str = "layers") -> str:
    """Returns a few lines on the quantized layers, and on the others with the reasons.

    Args:
        layers: Full name -> plan, with the signedness that calibration chose.
        skipped: Full name of each other layer -> reason.
        noun: Plural of a quantized layer.
    """
    if not layers:
        return "Quantized: nothing (full precision)"
    kinds: dict[str, int] = {}
    for plan in layers.values():
        sides = [
            f"{side[0].upper()}{q.bits} {q.method}" if q else f"{side[0].upper()}32"
            for side, q in (("weights", plan.weight), ("activations", plan.input))
        ]
        kinds[" ".join(sides)] = kinds.get(" ".join(sides), 0) + 1
    inputs = [plan.input for plan in layers.values() if plan.input]
    signs = [("with an offset" if q.method == "lsq+" else "signed" if q.signed else "unsigned") for q in inputs]
    lines = [
        f"Quantized: {len(layers)} {noun} (" + ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) + ")"
    ]
    if signs:
        lines.append("Inputs: " + ", ".join(f"{signs.count(sign)} {sign}" for sign in sorted(set(signs))))
    lines += [f"Full precision: {name} ({reason})" for name, reason in skipped.items()]
    return "\n".join(lines)
