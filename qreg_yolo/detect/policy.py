"""Choice of layers by the structure of a detector: first and last layers, and layers that stay in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import Detect

from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.quant.calibration import batch_statistics, quantizers_off
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.spec import FLOAT_BITS, QuantSpec

_TWO_SIDED = ("lsq", "lsq+")
"""Methods whose input quantizers represent negative values."""


def first_convolution(model: nn.Module) -> str:
    """Returns the full name of the first registered convolution, whose input is the image."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return str(next(names))


def output_convolutions(model: nn.Module) -> list[str]:
    """Returns the full names of the output convolutions of all branches of the detection head.

    They are six for a head of three levels (box and class), three for the anchor head; one-to-one branches count too.
    """
    ends = {id(conv) for module in model.modules() if isinstance(module, Detect) for conv in _branch_ends(module)}
    return [name for name, module in model.named_modules() if id(module) in ends]


def _branch_ends(head: Detect) -> Iterator[nn.Module]:
    if isinstance(head, AnchorDetect):
        yield from head.m
    for attribute in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
        for branch in getattr(head, attribute, None) or ():
            if isinstance(branch[-1], nn.Conv2d):
                yield branch[-1]


def first_last_layers(model: nn.Module) -> list[str]:
    """Returns the full names of the first convolution and the output convolutions."""
    return [first_convolution(model), *output_convolutions(model)]


def unused_branch(model: nn.Module) -> list[str]:
    """Returns the full names of the convolutions in the branch of an end-to-end head that inference does not use.

    Such a head trains a one-to-many and a one-to-one branch, and inference takes the boxes from one of them
    (``nms=false``: one-to-one). The other one runs too, because nothing is fused.
    """
    unused = {
        id(layer)
        for head in model.modules()
        if isinstance(head, Detect) and getattr(head, "one2one_cv2", None) is not None
        for branch in (head.one2many if head.end2end else head.one2one).values()
        for layer in branch.modules()
        if isinstance(layer, nn.Conv2d)
    }
    return [name for name, module in model.named_modules() if id(module) in unused]


def float_layers(model: nn.Module) -> dict[str, str]:
    """Returns full name -> reason of the layers that are never quantized."""
    reason = "DFL: fixed weights 0, 1, 2, ... that decode boxes"
    return {
        f"{name}.conv" if name else "conv": reason for name, module in model.named_modules() if isinstance(module, DFL)
    }


def frozen_norms(model: nn.Module, freeze: int | Sequence[int | str] | None) -> set[str]:
    """Returns the full names of the BatchNorm layers that Ultralytics' argument ``freeze`` keeps in eval mode."""
    layers = range(freeze) if isinstance(freeze, int) else freeze or ()
    marks = [f"model.{layer}." for layer in layers]
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {name for name in norms if any(mark in name for mark in marks)}


def clipping_warning(model: nn.Module, spec: QuantSpec, activation: str) -> str | None:
    """Returns a warning if one-sided activation quantizers clip negative inputs, else None."""
    if spec.method in _TWO_SIDED or spec.act_bits == FLOAT_BITS:
        return None
    clip = "[0, alpha]" if spec.method == "pact" else "[0, 1]"
    if activation == "silu":
        return (
            f"method '{spec.method}' clips activations to {clip}, but this network's SiLU also gives values down to "
            "-0.28, which all become 0. Use --activation relu (as in the method's paper), --weight-only, or "
            "--method lsq or lsq+."
        )
    names = clipped_layers(model)
    if not names:
        return None
    return (
        f"method '{spec.method}' clips activations to {clip}, but {len(names)} layers of this network have no ReLU in "
        f"front of them and lose the negative part of their inputs: {', '.join(names)}. Use --weight-only or "
        "--method lsq, or give these layers 'method: lsq' in a recipe (quant: overrides)."
    )


def clipped_layers(model: nn.Module) -> list[str]:
    """Returns the full names of the layers with a one-sided input quantizer and negative inputs.

    The inputs are those of the float network on an image of noise. In attention blocks and in YOLO26's pooling block,
    some convolutions have no activation after them, whatever the network's activation is.
    """
    negative: set[str] = set()

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: negative.add(name) if bool((inputs[0] < 0).any()) else None

    layers = {
        name: layer
        for name, layer in quantized_layers(model).items()
        if layer.input_fake_quant is not None and layer.input_fake_quant.spec.method not in _TWO_SIDED
    }
    weight = model.get_submodule(first_convolution(model)).weight
    assert isinstance(weight, Tensor)
    image = torch.rand(1, weight.shape[1], 64, 64, generator=torch.Generator().manual_seed(0)).to(weight.device)
    handles = [layer.register_forward_pre_hook(watcher(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), batch_statistics(model), quantizers_off(model):
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in layers if name in negative]
