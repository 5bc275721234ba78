"""LSQ+ in whole networks: calibration, training, averages of models, the report."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.report import layer_reports
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import image, mixed


def network(bits=3):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    quantize_model(model, QuantSpec(method="lsq+", weight_bits=bits, act_bits=bits))
    calibrate(model, [image(16), image(16, seed=1)])
    return model


def test_calibration_is_deterministic_and_leaves_random_states_alone():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    first = network().state_dict()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = mixed()
    quantize_model(model, QuantSpec(method="lsq+"))
    torch.set_rng_state(before)
    calibrate(model, [image()])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, first[k]) for k, v in network().state_dict().items())
    torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("optimizer", "options"), [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.AdamW, {"lr": 0.02})]
)
def test_a_small_network_trains(optimizer, options):
    model = network()
    offsets = {n: p for n, p in model.named_parameters() if n.endswith("offset")}
    assert len(offsets) == 3
    assert any(p.item() < 0 for p in offsets.values())
    before = {n: p.item() for n, p in offsets.items()}
    groups = quantizer_parameter_groups(model, weight_decay=1e-4)
    rest = split_quantizer_parameters(model, model.parameters())
    trained = optimizer([{"params": rest}, *groups], **options)
    StepSizeRule(model).attach(trained)
    x, target = image(16), torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        trained.zero_grad()
        loss.backward()
        trained.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.item() != before[n] for n, p in offsets.items())
    assert any(p.item() < 0 for p in offsets.values()), "the rule for steps made the offsets positive"
    for layer in quantized_layers(model).values():
        assert layer.input_fake_quant(torch.randn(2000)).unique().numel() <= 8
        assert layer.input_fake_quant.step_size.item() > 0


def test_an_average_of_models_and_half_precision_keep_the_offset():
    model = network()
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    averaged.update_parameters(model)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            if name.endswith("offset"):
                p.add_(1.0)
    averaged.update_parameters(moved)
    names = [n for n, _ in model.named_parameters() if n.endswith("offset")]
    for name in names:
        expected = model.get_parameter(name).item() + 0.5
        assert averaged.module.get_parameter(name).item() == pytest.approx(expected, rel=1e-6)
    assert all(model.half().get_parameter(name).dtype == torch.float32 for name in names)


def test_the_report_has_the_offset_where_there_is_one():
    model = network()
    by_name = {report.name: report for report in layer_reports(model)}
    assert list(by_name) == ["0", "3", "7"]
    for name, report in by_name.items():
        quantizer = model.get_submodule(name).input_fake_quant
        assert report.input_method == report.weight_method == "lsq+"
        assert report.input_offset == pytest.approx(quantizer.offset.item())
        assert report.input_step == pytest.approx(quantizer.step_size.item())
        weight = model.get_submodule(name).weight.detach().double()
        noise = (model.get_submodule(name).weight_fake_quant(weight).detach() - weight).square().sum()
        assert report.weight_sqnr_db == pytest.approx(10 * math.log10(weight.square().sum() / noise), rel=1e-4)
        assert report.to_dict()["input_offset"] == report.input_offset
    lsq = mixed()
    quantize_model(lsq, QuantSpec())
    calibrate(lsq, [image()])
    assert {report.input_offset for report in layer_reports(lsq)} == {None}
