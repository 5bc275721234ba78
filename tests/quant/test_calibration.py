from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import (
    CalibrationReport,
    batch_statistics,
    calibrate,
    quantizers_off,
    uninitialized_quantizers,
)
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import image, mixed


def quantized(**options):
    model = mixed()
    quantize_model(model, QuantSpec(**options))
    return model


def buffers(model):
    return {n: b.clone() for n, b in model.named_buffers() if "fake_quant" not in n}


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_modes_are_as_before(training):
    model = quantized().train(training)
    model.head.train(not training)
    before, modes = buffers(model), [m.training for m in model.modules()]
    batches_seen = model.norm.num_batches_tracked.item()
    calibrate(model, [image(), image(seed=1)])
    after = buffers(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], b) for n, b in before.items())
    assert model.norm.num_batches_tracked.item() == batches_seen
    assert [m.training for m in model.modules()] == modes


def test_they_are_restored_after_an_error_too():
    model = quantized().train()
    before = buffers(model)

    def forward(module, batch):
        module(batch)
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        calibrate(model, [image()], forward=forward)
    assert all(torch.equal(b, before[n]) for n, b in buffers(model).items())
    assert all(m.training for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_batch_norm_runs_on_batch_statistics_and_the_rest_in_eval_mode():
    """An untrained network in eval mode would pass its first normalization unchanged."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))
    quantize_model(model, QuantSpec(signed="signed"))
    x = torch.randn(64, 3) * 100 + 7
    calibrate(model.train(), [x])
    normed = (x - x.mean(0)) / (x.var(0, correction=0) + model[0].eps).sqrt()
    expected = 2 * normed.abs().mean().item() / math.sqrt(7)
    assert model[2].input_fake_quant.step_size.item() == pytest.approx(expected, rel=1e-5)
    with batch_statistics(model):
        assert [m.training for m in model.children()] == [True, False, False]


def test_inputs_are_watched_on_the_float_network():
    model, x = quantized(weight_bits=1, act_bits=1), image()
    calibrate(model, [x])
    seen = {name: [] for name in quantized_layers(model)}
    for name, layer in quantized_layers(model).items():
        layer.register_forward_pre_hook(lambda m, inputs, name=name: seen[name].append(inputs[0].detach()))
    with quantizers_off(model), batch_statistics(model):
        model(x)
    for name, layer in quantized_layers(model).items():
        means = [v.double().abs().mean().item() for v in seen[name]]
        assert len(means) == (1 if name in ("stem", "head") else 2)
        factor = 1 if layer.input_fake_quant.spec.signed else 2
        expected = factor * sum(means) / len(means)
        assert layer.input_fake_quant.step_size.item() == pytest.approx(expected, rel=1e-5)


def test_returns_the_number_initialised_and_does_nothing_the_second_time():
    model = quantized()
    layers = {id(m) for m in quantized_layers(model).values()}
    assert len(uninitialized_quantizers(model)) == 2 * len(layers)
    assert calibrate(model, [image()]) == CalibrationReport(initialized=2 * len(layers))
    assert uninitialized_quantizers(model) == []
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def batches():
        raise AssertionError("the batches were read")
        yield

    assert calibrate(model, batches()) == CalibrationReport()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_weights_need_no_batches():
    model = quantized(act_bits=32)
    calibrate(model)
    model(image())


@pytest.mark.parametrize("method", ["pact", "dorefa"])
def test_what_learns_no_range_needs_none(method):
    model = quantized(method=method)
    assert calibrate(model) == CalibrationReport()
    model(image())


def test_no_batches_is_an_error():
    with pytest.raises(RuntimeError, match=r"input quantizers need data.*calibrate\(model, batches\)"):
        calibrate(quantized(), [])


def test_values_that_are_not_finite_are_an_error_with_the_layers_name():
    with pytest.raises(RuntimeError, match=r"Layer 'stem': .*not finite"):
        calibrate(quantized(), [image() * math.nan])


def test_an_uninitialised_model_does_not_run():
    with pytest.raises(RuntimeError, match=r"has no range yet.*calibrate\(model, batches\)"):
        quantized()(image())


def test_a_custom_forward_takes_any_batch():
    model = quantized()
    calibrate(model, [{"img": image(), "cls": 3}], forward=lambda m, batch: m(batch["img"]))
    model(image())


def test_signs_are_decided_per_layer():
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    quantize_model(model, QuantSpec())
    calibrate(model, [torch.randn(100, 8)])
    assert [layer.plan.input.signed for layer in quantized_layers(model).values()] == [True, False]


def test_calibration_needs_no_gradient_and_leaves_none():
    model = quantized()
    calibrate(model, [image()])
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_function_is_not_hidden_by_a_module_of_its_name():
    """`from qreg_yolo.quant import calibrate` is the function whatever was imported before."""
    code = (
        "import qreg_yolo.quant.calibration, qreg_yolo, qreg_yolo.quant as q\n"
        "from qreg_yolo.quant import *\n"
        "from qreg_yolo.quant import calibrate\n"
        "from inspect import isfunction, isclass\n"
        "assert isfunction(calibrate) and calibrate is q.calibrate is qreg_yolo.calibrate\n"
        "assert all(isfunction(getattr(q, n)) or isclass(getattr(q, n)) for n in q.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_frozen_batch_norm_uses_the_statistics_that_training_uses():
    """Ranges are those of what the next layer is fed in training, where the frozen norm is in eval mode."""

    def network():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
        net[1].running_var.fill_(100.0)
        quantize_model(net, QuantSpec(method="lsq", weight_bits=8, act_bits=8, first_last_bits="same", signed="signed"))
        return net

    images = image()
    fed = []
    plain = network()
    plain.get_submodule("2").register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    with torch.no_grad(), quantizers_off(plain):
        plain.train()[1].eval()
        plain(images)
    frozen, free = network(), network()
    calibrate(frozen, [images], frozen=["1"])
    calibrate(free, [images])
    step, other = (net[2].input_fake_quant.step_size.item() for net in (frozen, free))
    assert step == pytest.approx(2 * fed[0].abs().mean().item() / math.sqrt(127), rel=1e-5)
    assert other > 5 * step, "the running variance of 100 makes no difference"
