"""Layers that no calibration batch reaches: converted back and reported, or an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.quant.calibration import calibrate, uninitialized_quantizers
from qreg_yolo.quant.convert import dequantize_model, quantize_model, quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import image, mixed

WEIGHT_ONLY = [{"act_bits": 32}, {"method": "dorefa", "act_bits": 32}]
ALL = [
    {},
    {"method": "lsq+"},
    {"method": "pact"},
    {"method": "dorefa"},
    {"weight_bits": 1, "act_bits": 1},
    *WEIGHT_ONLY,
]


class Reader(nn.Module):
    """Layers whose weight is read without a call, that run in training alone, by `forward`, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(6, 6)
        self.read = nn.Linear(6, 6)
        self.by_name = nn.Linear(6, 6)
        self.auxiliary = nn.Linear(6, 6)
        self.never = nn.Conv2d(6, 6, 1)
        self.alias = self.never

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(input=x).relu()
        x = F.linear(x, self.read.weight, self.read.bias)
        x = self.by_name.forward(x)
        return self.auxiliary(x) if self.training else x


LEFT = ["read", "auxiliary", "never", "alias"]


def reader(**options: object) -> Reader:
    torch.manual_seed(0)
    model = Reader()
    quantize_model(model, QuantSpec(**options))
    return model


def rows(seed: int = 0) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", ALL, ids=str)
def test_it_is_left_in_full_precision_and_reported(options):
    model = reader(**options)
    parameters = {id(p) for name, p in model.named_parameters() if "fake_quant" not in name}
    report = calibrate(model.train(), [rows()])
    assert list(report.unreached) == LEFT
    assert all("no calibration batch called it" in reason for reason in report.unreached.values())
    assert all(name in str(report) for name in LEFT)
    assert list(quantized_layers(model)) == ["called", "by_name"]
    assert type(model.read) is nn.Linear
    assert model.never is model.alias
    assert type(model.never) is nn.Conv2d
    assert {id(p) for name, p in model.named_parameters() if "fake_quant" not in name} == parameters
    assert not any("fake_quant" in key for key in model.state_dict() if not key.startswith(("called", "by_name")))
    assert uninitialized_quantizers(model) == []
    assert model.training
    assert not any(type(module).__name__ == "_Watcher" for module in model.modules())
    model(rows())


@pytest.mark.parametrize("options", ALL, ids=str)
def test_it_can_be_an_error(options):
    model = reader(**options)
    with pytest.raises(
        RuntimeError, match=r"4 quantized layers .* first is 'read': no calibration batch called it.*Exclude"
    ):
        calibrate(model, [rows()], unreached="error")
    assert len(quantized_layers(model)) == 6, "the model is as it was"
    dequantize_model(model, ["read", "auxiliary", "never", "alias"])
    assert calibrate(model, [rows()], unreached="error").unreached == {}
    with pytest.raises(ValueError, match="unreached='warn' is not one of: float, error"):
        calibrate(model, unreached="warn")


@pytest.mark.parametrize("options", WEIGHT_ONLY, ids=str)
def test_without_batches_nothing_is_known_and_nothing_left_out(options):
    model = reader(**options)
    assert calibrate(model).unreached == {}
    assert len(quantized_layers(model)) == 6


def test_no_batch_at_all_is_an_error_still():
    with pytest.raises(RuntimeError, match=r"input quantizers need data.*calibrate\(model, batches\)"):
        calibrate(reader())


@pytest.mark.parametrize("options", [{}, {"method": "lsq+"}], ids=str)
def test_a_layer_that_some_batches_reach_is_calibrated_on_those(options):
    def forward(model, batch):
        first, x = batch
        return model.called(x) if first else model.by_name(x)

    model, alone = reader(**options), reader(**options)
    report = calibrate(model, [(True, rows(1)), (False, rows(2)), (True, rows(3))], forward=forward)
    assert not {"called", "by_name"} & report.unreached.keys()
    calibrate(alone, [rows(2)], forward=lambda module, x: module.by_name(x))
    for key, value in alone.by_name.state_dict().items():
        assert torch.equal(model.by_name.state_dict()[key], value)


@pytest.mark.parametrize("method", ["lsq", "lsq+"])
def test_empty_inputs_say_nothing_about_a_range(method):
    def forward(model, x):
        model.called(x[:0])
        return model.by_name(x[:0]), model.by_name(x)

    model, plain = reader(method=method), reader(method=method)
    report = calibrate(model, [rows()], forward=forward)
    assert report.unreached["called"] == "calibration batches gave it empty inputs only"
    calibrate(plain, [rows()], forward=lambda module, x: module.by_name(x))
    for key, value in plain.by_name.state_dict().items():
        assert torch.equal(model.by_name.state_dict()[key], value)
    model = reader(method=method, act_bits=32)
    assert "called" not in calibrate(model, [rows()], forward=forward).unreached, "its weights need no input"


def test_two_layers_that_share_a_weight_are_two_layers():
    model = nn.ModuleDict({"used": nn.Linear(6, 6), "tied": nn.Linear(6, 6)})
    model["tied"].weight = model["used"].weight
    quantize_model(model, QuantSpec())
    report = calibrate(model, [rows()], forward=lambda module, x: module["used"](x))
    assert list(report.unreached) == ["tied"]
    assert model["tied"].weight is model["used"].weight
    assert list(quantized_layers(model)) == ["used"]


def test_ranges_that_were_learned_are_kept_whatever_a_later_call_reaches():
    model = reader()
    calibrate(model, [rows()])
    quantize_model(model, QuantSpec(include=("read",)))
    report = calibrate(model, [rows()], forward=lambda module, x: module.read(x))
    assert report.unreached == {}
    assert report.initialized == 2
    assert list(quantized_layers(model)) == ["called", "read", "by_name"]


def test_in_a_network_with_a_shared_layer():
    model = mixed()
    quantize_model(model, QuantSpec())
    report = calibrate(model, [image()], forward=lambda m, x: m.block(m.other["conv"](m.again(m.stem(x)))))
    assert list(report.unreached) == ["head"]
    assert model.twice is model.again


def test_the_optimizer_sees_no_quantizer_of_it():
    model = reader()
    calibrate(model, [rows()])
    owners = {name.partition(".")[0] for name, _ in model.named_parameters() if "fake_quant" in name}
    assert owners == {"called", "by_name"}


def test_part_of_a_model_can_be_dequantized():
    model = reader()
    with pytest.raises(ValueError, match=r"no quantized layer 'raed'.*read"):
        dequantize_model(model, ["called", "raed"])
    assert len(quantized_layers(model)) == 6
    assert dequantize_model(model, ["never", "alias"]) == ["never", "alias"]
    assert model.never is model.alias
    assert dequantize_model(model, []) == []
    assert len(dequantize_model(model)) == 4


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"method": "dorefa", "act_bits": 32}, marks=pytest.mark.slow)], ids=str
)
def test_swin_of_torchvision(options):
    """Its attention reads `qkv.weight` and `proj.weight` and calls neither layer."""
    from torchvision.models import swin_t

    torch.manual_seed(0)
    model = swin_t(weights=None, num_classes=5)
    swapped = quantize_model(model, QuantSpec(**options)).swapped
    images = torch.rand(2, 3, 64, 64)
    report = calibrate(model, [images])
    direct = {name for name in swapped if name.endswith(("attn.qkv", "attn.proj"))}
    assert len(direct) == 24
    assert report.unreached.keys() == direct
    assert quantized_layers(model).keys() == swapped.keys() - direct
    assert model.train()(images).isfinite().all()
