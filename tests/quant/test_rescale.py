"""Scales that are folded into a layer's weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.rescale import ScaledLayer, can_be_scaled, fold_scales, scale_layers
from qreg_yolo.quant.spec import QuantSpec


def network(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=options.pop("bias", True)), nn.Flatten(), nn.Linear(4 * 36, 5))
    if options:
        quantize_model(model, QuantSpec.from_options({"first_last_bits": "same", **options}), pretrained=True)
        calibrate(model, [torch.rand(2, 3, 8, 8)])
    return model.eval()


OPTIONS = [
    {}, {"bits": 4}, {"bits": 1}, {"bits": 8, "per_channel": True}, {"bits": 2, "method": "lsq+"},
    {"bits": 3, "weight_only": True}, {"bits": 4, "bias": False},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_folding_keeps_the_codes_and_gives_the_scaled_output(options):
    model, x = network(**options), torch.rand(2, 3, 8, 8)
    before = {name: layer.weight_fake_quant.to_int(layer.weight) for name, layer in quantized_layers(model).items()}
    names = scale_layers(model, ["0", "2"])
    assert names == ["0", "2"]
    with torch.no_grad():
        plain = model(x)
        for name in names:
            scaled = model.get_submodule(name)
            assert isinstance(scaled, ScaledLayer)
            scaled.scale.copy_(torch.rand(scaled.scale.shape) + 0.5)
        expected = model(x)
        assert not torch.allclose(plain, expected)
        fold_scales(model, names)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    after = {name: layer.weight_fake_quant.to_int(layer.weight) for name, layer in quantized_layers(model).items()}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], codes) for name, codes in before.items())
    assert all(layer.plan.weight.per_channel for layer in quantized_layers(model).values())


def test_a_scale_of_one_changes_nothing_and_a_negative_one_is_clamped():
    model, x = network(bits=4), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        fold_scales(model, scale_layers(model, ["0", "2"]))
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
        names = scale_layers(model, ["2"])
        model[2].scale.fill_(-1.0)
        expected = model(x)
        fold_scales(model, names)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-6)
    assert (model[2].weight_fake_quant.step_size > 0).all()


def test_dorefas_weights_cannot_be_scaled():
    model = network(bits=4, method="dorefa")
    assert not can_be_scaled(model[0])
    assert scale_layers(model, ["0", "2"]) == []
    assert can_be_scaled(nn.Linear(2, 2))
