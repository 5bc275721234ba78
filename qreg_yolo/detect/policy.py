"""Where to quantize a detector: which convolutions stay out or form the edge, chosen by structure, never by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import Detect

from qreg_yolo.quant.spec import FLOAT_BITS, QuantSpec


def first_convolution(model: nn.Module) -> str:
    """Returns the full name of the convolution that takes the image: the first one registered."""
    names = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return str(next(names))


def output_convolutions(model: nn.Module) -> list[str]:
    """Returns the full names of the bare convolutions that end a detection head's branches.

    Six for a head of three levels (box and class each); the one-to-one branches of end-to-end heads count too.
    """
    ends = {id(conv) for module in model.modules() if isinstance(module, Detect) for conv in _branch_ends(module)}
    return [name for name, module in model.named_modules() if id(module) in ends]


def _branch_ends(head: Detect) -> Iterator[nn.Module]:
    for attribute in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
        for branch in getattr(head, attribute, None) or ():
            if isinstance(branch[-1], nn.Conv2d):
                yield branch[-1]


def edge_layers(model: nn.Module) -> list[str]:
    """Returns the full names of the first convolution and the output convolutions."""
    return [first_convolution(model), *output_convolutions(model)]


def float_layers(model: nn.Module) -> dict[str, str]:
    """Returns the layers that are never quantized, with the reason: the fixed integral of the box distribution."""
    reason = "DFL: fixed weights 0, 1, 2, ... that decode boxes"
    return {
        f"{name}.conv" if name else "conv": reason for name, module in model.named_modules() if isinstance(module, DFL)
    }


def silu_warning(spec: QuantSpec, activation: str) -> str | None:
    """Returns what is lost when one-sided activation quantizers meet SiLU, or None where nothing is."""
    if spec.method == "lsq" or spec.act_bits == FLOAT_BITS or activation != "silu":
        return None
    clip = "[0, alpha]" if spec.method == "pact" else "[0, 1]"
    return (
        f"method '{spec.method}' clips activations to {clip}, but this network's SiLU also gives values down to "
        "-0.28, which all become 0. Use --activation relu (what the paper of the method has), --weight-only, or "
        "--method lsq."
    )
