"""Convolution and linear layers that hold a weight and an input fake-quantizer, either of them optional."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.dorefa import DoReFaInputQuantizer, DoReFaWeightQuantizer
from qreg_yolo.quant.lsq import LSQInputQuantizer, LSQWeightQuantizer
from qreg_yolo.quant.lsq_plus import LSQPlusInputQuantizer
from qreg_yolo.quant.pact import PACTInputQuantizer
from qreg_yolo.quant.range_gradient import convolve
from qreg_yolo.quant.spec import LayerPlan, QuantizerSpec

WEIGHT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "lsq": LSQWeightQuantizer,
    "lsq+": LSQWeightQuantizer,
    "dorefa": DoReFaWeightQuantizer,
}
INPUT_QUANTIZERS: dict[str, type[Quantizer]] = {
    "lsq": LSQInputQuantizer,
    "lsq+": LSQPlusInputQuantizer,
    "pact": PACTInputQuantizer,
    "dorefa": DoReFaInputQuantizer,
}

_Layer = TypeVar("_Layer", bound=nn.Module)


def _rebuild(module: nn.Module, cls: type[_Layer]) -> _Layer:
    """Returns ``module`` as a ``cls`` without running ``__init__``: same Parameter objects, hooks and mode."""
    new = cls.__new__(cls)
    new.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def _make(table: dict[str, type[Quantizer]], spec: QuantizerSpec | None, layer: nn.Module) -> Quantizer | None:
    if spec is None:
        return None
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return table[spec.method](spec, channels=weight.shape[0]).to(weight.device).train(layer.training)


def _attach(layer: QuantConv2d | QuantLinear, plan: LayerPlan) -> None:
    # register_module: a plain assignment of None would make an attribute that is no submodule.
    layer.register_module("weight_fake_quant", _make(WEIGHT_QUANTIZERS, plan.weight, layer))
    layer.register_module("input_fake_quant", _make(INPUT_QUANTIZERS, plan.input, layer))


def _plan_of(layer: QuantConv2d | QuantLinear) -> LayerPlan:
    weight, act = layer.weight_fake_quant, layer.input_fake_quant
    return LayerPlan(weight=weight.spec if weight else None, input=act.spec if act else None)


class QuantConv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` on fake-quantized weights and inputs.

    Shapes as `torch.nn.Conv2d`: input `(n, c_in, h, w)`, weight `(c_out, c_in / groups, k_h, k_w)`.
    """

    weight_fake_quant: Quantizer | None
    input_fake_quant: Quantizer | None

    @classmethod
    def from_float(cls, conv: nn.Conv2d, plan: LayerPlan) -> QuantConv2d:
        """Returns ``conv`` with quantizers; weight and bias stay the same Parameter objects."""
        layer = _rebuild(conv, cls)
        _attach(layer, plan)
        return layer

    def to_float(self) -> nn.Conv2d:
        """Returns the plain layer with the same Parameter objects."""
        conv = _rebuild(self, nn.Conv2d)
        del conv._modules["weight_fake_quant"], conv._modules["input_fake_quant"]
        return conv

    @property
    def plan(self) -> LayerPlan:
        """What the layer's quantizers do now (resolved where calibration has decided)."""
        return _plan_of(self)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight if self.weight_fake_quant is None else self.weight_fake_quant(self.weight)
        return convolve(self, self.input_fake_quant, input, weight)


class QuantLinear(nn.Linear):
    """A `torch.nn.Linear` on fake-quantized weights and inputs.

    Shapes as `torch.nn.Linear`: input `(..., c_in)`, weight `(c_out, c_in)`.
    """

    weight_fake_quant: Quantizer | None
    input_fake_quant: Quantizer | None

    @classmethod
    def from_float(cls, linear: nn.Linear, plan: LayerPlan) -> QuantLinear:
        """Returns ``linear`` with quantizers; weight and bias stay the same Parameter objects."""
        layer = _rebuild(linear, cls)
        _attach(layer, plan)
        return layer

    def to_float(self) -> nn.Linear:
        """Returns the plain layer with the same Parameter objects."""
        linear = _rebuild(self, nn.Linear)
        del linear._modules["weight_fake_quant"], linear._modules["input_fake_quant"]
        return linear

    @property
    def plan(self) -> LayerPlan:
        """What the layer's quantizers do now (resolved where calibration has decided)."""
        return _plan_of(self)

    def forward(self, input: Tensor) -> Tensor:
        if self.input_fake_quant is not None:
            input = self.input_fake_quant(input)
        weight = self.weight if self.weight_fake_quant is None else self.weight_fake_quant(self.weight)
        return F.linear(input, weight, self.bias)


QuantLayer = (QuantConv2d, QuantLinear)
"""For ``isinstance``: every layer the pass puts in."""
