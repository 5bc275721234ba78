"""Convolution and linear layers with a weight and an input fake-quantizer, both optional."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.dorefa import DoReFaInputQuantizer, DoReFaWeightQuantizer
from qreg_yolo.quant.lsq import LSQInputQuantizer, LSQWeightQuantizer
from qreg_yolo.quant.lsq_plus import LSQPlusInputQuantizer
from qreg_yolo.quant.pact import PACTInputQuantizer
from qreg_yolo.quant.range_gradient import convolve
from qreg_yolo.quant.spec import LayerPlan

if TYPE_CHECKING:
    from typing_extensions import Self

WeightQuantizer: TypeAlias = LSQWeightQuantizer | DoReFaWeightQuantizer
WEIGHT_QUANTIZERS: dict[str, type[WeightQuantizer]] = {
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

_KEPT = "_kept_weight"
"""Attribute of a layer inside `weights_quantized_once`: the quantized weight, once there is one."""
_Layer = TypeVar("_Layer", bound=nn.Module)


def _rebuild(module: nn.Module, cls: type[_Layer]) -> _Layer:
    """Returns ``module`` as a ``cls`` without running ``__init__``: same Parameter objects, hooks and mode."""
    new = cls.__new__(cls)
    new.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


class QuantLayer(nn.Module):
    """Base class of the layers that replace float layers."""

    float_type: ClassVar[type[nn.Module]]
    """The type of layer that it replaces."""
    weight: Tensor
    weight_fake_quant: WeightQuantizer | None
    input_fake_quant: Quantizer | None

    @classmethod
    def from_float(cls, layer: nn.Module, plan: LayerPlan) -> Self:
        """Returns a float layer with quantizers; weight and bias stay the same Parameter objects."""
        new = _rebuild(layer, cls)
        weight = act = None
        if plan.weight is not None:
            weight = WEIGHT_QUANTIZERS[plan.weight.method](plan.weight, channels=len(new.weight))
        if plan.input is not None:
            act = INPUT_QUANTIZERS[plan.input.method](plan.input)
        for name, quantizer in (("weight_fake_quant", weight), ("input_fake_quant", act)):
            # Assigning None would make an attribute outside the submodules.
            new.register_module(name, quantizer and quantizer.to(new.weight.device).train(layer.training))
        return new

    def to_float(self) -> nn.Module:
        """Returns the float layer with the same Parameter objects."""
        layer = _rebuild(self, self.float_type)
        del layer._modules["weight_fake_quant"], layer._modules["input_fake_quant"]
        return layer

    @property
    def plan(self) -> LayerPlan:
        """The quantizers' specs, with what calibration decided."""
        weight, act = self.weight_fake_quant, self.input_fake_quant
        return LayerPlan(weight=weight.spec if weight else None, input=act.spec if act else None)

    def _active_input(self) -> Quantizer | None:
        quantizer = self.input_fake_quant
        return quantizer if quantizer is not None and quantizer.active else None

    def _quantized_weight(self) -> Tensor:
        if self.weight_fake_quant is None or not self.weight_fake_quant.active:
            return self.weight
        kept: list[Tensor] | None = self.__dict__.get(_KEPT)
        if kept is None:
            quantized: Tensor = self.weight_fake_quant(self.weight)
            return quantized
        if not kept:
            with torch.no_grad():
                kept.append(self.weight_fake_quant(self.weight))
        return kept[0]


@contextmanager
def weights_quantized_once(model: nn.Module) -> Iterator[None]:
    """Keeps the quantized weights of the first forward inside the block: for evaluation, where nothing changes them.

    Inside the block no gradient reaches a quantized weight, and the model must not be trained, moved or cast after its
    first forward.
    """
    layers = [one for one in model.modules() if isinstance(one, QuantLayer) and _KEPT not in one.__dict__]
    for layer in layers:
        layer.__dict__[_KEPT] = []
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__[_KEPT]


class QuantConv2d(QuantLayer, nn.Conv2d):
    """A `torch.nn.Conv2d` with fake-quantized weight and input.

    Input `(n, c_in, h, w)`, weight `(c_out, c_in / groups, k_h, k_w)`.
    """

    float_type = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, self._active_input(), input, self._quantized_weight())


class QuantLinear(QuantLayer, nn.Linear):
    """A `torch.nn.Linear` with fake-quantized weight and input: input `(..., c_in)`, weight `(c_out, c_in)`."""

    float_type = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        if (quantizer := self._active_input()) is not None:
            input = quantizer(input)
        return F.linear(input, self._quantized_weight(), self.bias)
