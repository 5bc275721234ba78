"""The benchmarked peers: each turns a task's float network into one that trains with fake-quantized convolutions.

A peer is given the same layers and bits as ours, and the same grid and starting step where its interface takes them.
What it does differently is its `note`, which is printed beside its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from models import Range, Task, calibrated_ranges, ours, yolov5n_with
from torch import Tensor, nn

FakeQuant = Callable[[Range, bool], nn.Module]
"""Takes the range to start from and whether it is a weight's; returns the module that fake-quantizes."""


@dataclass(frozen=True)
class Peer:
    """One way to train the network."""

    build: Callable[[Task], nn.Module]
    """Returns the network, calibrated, in training mode."""
    note: str
    """What it does, and what it does differently from LSQ as the paper defines it."""
    package: str | None = None
    """Distribution it needs, None: nothing beyond this project."""


class FakeQuantConv2d(nn.Conv2d):
    """A convolution with two fake-quantizers, for peers that bring none of their own."""

    weight_fake_quant: nn.Module
    input_fake_quant: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight_fake_quant(self.weight)
        output: Tensor = self._conv_forward(self.input_fake_quant(input), weight, self.bias)
        return output


def _swap(task: Task, fake_quant: FakeQuant) -> nn.Module:
    """Returns the network with `FakeQuantConv2d` where ours has quantized convolutions."""
    model = task.build()
    for name, (weight, act) in calibrated_ranges(task).items():
        conv = model.get_submodule(name)
        conv.__class__ = FakeQuantConv2d
        conv.weight_fake_quant = fake_quant(weight, True)
        conv.input_fake_quant = fake_quant(act, False)
    return model


def _lsq_gradient_scale(x: Tensor, quant_max: int, is_weight: bool) -> float:
    count = x.numel() if is_weight else x.numel() // x.shape[0]
    return 1.0 / math.sqrt(count * quant_max)


# ---------------------------------------------------------------------------------------------- without a package


def _fp32(task: Task) -> nn.Module:
    return task.build()


class NaiveLSQ(nn.Module):
    """LSQ as its paper's appendix B writes it down, differentiated by autograd."""

    def __init__(self, start: Range, is_weight: bool) -> None:
        super().__init__()
        self.start, self.is_weight = start, is_weight
        self.step_size = nn.Parameter(torch.tensor(start.step_size))

    def forward(self, v: Tensor) -> Tensor:
        gradient_scale = _lsq_gradient_scale(v, self.start.quant_max, self.is_weight)
        scaled_step = self.step_size * gradient_scale
        step = (self.step_size - scaled_step).detach() + scaled_step
        clipped = (v / step).clamp(self.start.quant_min, self.start.quant_max)
        return ((clipped.round() - clipped).detach() + clipped) * step


class TorchLearnable(nn.Module):
    """PyTorch's own learnable fake-quantize operator."""

    zero_point: Tensor

    def __init__(self, start: Range, is_weight: bool) -> None:
        super().__init__()
        self.start, self.is_weight = start, is_weight
        self.step_size = nn.Parameter(torch.tensor([start.step_size]))
        self.register_buffer("zero_point", torch.zeros(1))

    def forward(self, v: Tensor) -> Tensor:
        low, high = self.start.quant_min, self.start.quant_max
        gradient_scale = _lsq_gradient_scale(v, high, self.is_weight)
        kernel = torch._fake_quantize_learnable_per_tensor_affine
        return kernel(v, self.step_size, self.zero_point, low, high, gradient_scale)


# ---------------------------------------------------------------------------------------------- with a package


def _brevitas(task: Task) -> nn.Module:
    from brevitas.inject.enum import ScalingImplType
    from brevitas.nn import QuantConv2d
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

    model = task.build()
    for name, (weight, act) in calibrated_ranges(task).items():
        parent_name, _, attribute = name.rpartition(".")
        conv = model.get_submodule(name)
        layer = QuantConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=conv.bias is not None,
            weight_quant=Int8WeightPerTensorFloat,
            weight_bit_width=weight.bits,
            weight_scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS,
            input_quant=Int8ActPerTensorFloat if act.quant_min < 0 else Uint8ActPerTensorFloat,
            input_bit_width=act.bits,
            input_collect_stats_steps=1,
        )
        layer.load_state_dict(conv.state_dict(), strict=False)
        setattr(model.get_submodule(parent_name), attribute, layer)
    model.train()
    with torch.no_grad():
        for _ in range(2):  # the first collects the statistics, the second makes them the parameter
            task.loss(model, task.batch())
    return model


def _modelopt(task: Task) -> nn.Module:
    import modelopt.torch.quantization as mtq

    rules: list[dict[str, object]] = [{"quantizer_name": "*", "enable": False}]
    for name, (weight, act) in calibrated_ranges(task).items():
        for side, bits in (("weight", weight.bits), ("input", act.bits)):
            rule = {"num_bits": bits, "axis": None}
            rules.append({"quantizer_name": f"{name}.{side}_quantizer", "cfg": rule, "enable": True})
    batch = task.batch()
    config = {"quant_cfg": rules, "algorithm": "max"}
    model: nn.Module = mtq.quantize(task.build(), config, forward_loop=lambda module: task.loss(module.train(), batch))
    return model.train()


class TorchAO(nn.Module):
    """torchao's fake-quantizer with range learning; it takes matrices, so a tensor is handed over as one row."""

    def __init__(self, start: Range, is_weight: bool) -> None:
        super().__init__()
        from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

        del is_weight
        dtype = getattr(torch, f"int{start.bits}")
        config = IntxFakeQuantizeConfig(dtype, "per_channel", is_symmetric=True, is_dynamic=False, range_learning=True)
        self.fake_quant = IntxFakeQuantizer(config)

    def forward(self, v: Tensor) -> Tensor:
        out: Tensor = self.fake_quant(v.reshape(1, -1))
        return out.view(v.shape)


def _torchao(task: Task) -> nn.Module:
    from torchao.quantization.qat import initialize_fake_quantizers

    model = _swap(task, TorchAO)
    initialize_fake_quantizers(model, (task.batch(),))  # sets the ranges and makes them parameters
    return model


PEERS = {
    "fp32": Peer(_fp32, "the float network"),
    "fp32 again": Peer(_fp32, "the same once more: how far from 1 the ratio is by chance"),
    "naive LSQ": Peer(
        lambda task: _swap(task, NaiveLSQ), "plain autograd: gradient-scale trick, clamp, round and detach"
    ),
    "ours": Peer(ours, "`quantize_model` + `calibrate`, LSQ per tensor"),
    "torch learnable kernel": Peer(
        lambda task: _swap(task, TorchLearnable),
        "`torch._fake_quantize_learnable_per_tensor_affine` (what MQBench calls): learns the step, rounds before it "
        "clips, so that the half step beyond the range gets another gradient",
    ),
    "brevitas": Peer(
        _brevitas,
        "QuantConv2d: learned scales for weights (from statistics) and inputs (percentile); weights on the narrow "
        "grid -7..7; no gradient scale",
        "brevitas",
    ),
    "modelopt": Peer(
        _modelopt,
        "fixed ranges (maximum of one batch), signed; identity gradient, nothing is learned: less work than LSQ",
        "nvidia-modelopt",
    ),
    "torchao": Peer(
        _torchao,
        "IntxFakeQuantizer with range_learning (a prototype there, meant for linear layers) in our own convolution "
        "shell; signed, starts from the absolute maximum, no gradient scale",
        "torchao",
    ),
    "anchor head": Peer(lambda _: yolov5n_with("anchor"), "YOLOv5's head and loss, instead of Ultralytics'"),
}
"""In the order of the table. All have one step per tensor and leave BatchNorm as it is."""
