"""Reports of layers: a layer with several names counts once, and the sums agree."""

from __future__ import annotations

import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.report import count_macs, layer_reports, model_size
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import Mixed, image, mixed

LAYERS = ["stem", "twice", "block.0", "up", "odd", "line", "head"]
"""Of `Mixed`; `again` is `twice`, and `other.conv` is `block.0`."""


def quantized() -> Mixed:
    model = mixed()
    quantize_model(model, QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, [image()])
    return model


def test_a_layer_under_several_names_has_one_report() -> None:
    for model in (mixed(), quantized()):
        reports = layer_reports(model)
        assert [report.name for report in reports] == LAYERS
        weights = [m.weight for m in model.modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))]
        assert sum(report.weights for report in reports) == sum(weight.numel() for weight in weights)


def test_a_layer_that_is_called_twice_counts_twice_and_no_more() -> None:
    expected = {
        "stem": 4 * 64 * 27, "twice": 2 * 4 * 64 * 36, "block.0": 2 * 4 * 64 * 4, "up": 4 * 256 * 4,
        "odd": 4 * 256 * 4, "line": 4 * 256 * 4, "head": 5 * 4,
    }  # fmt: skip
    for model in (mixed(), quantized()):
        macs = count_macs(model, lambda model=model: model(image(batch=1)))
        assert macs == expected
        assert {report.name: report.macs for report in layer_reports(model, macs)} == expected


def test_the_size_counts_each_tensor_once_at_its_width() -> None:
    model, plain = quantized(), mixed()
    floats = sum(t.numel() for t in (*plain.parameters(), plain.norm.running_mean, plain.norm.running_var))
    assert model_size(plain).quantized_mb == model_size(plain).float_mb == floats * 32 / 8e6
    narrow = sum(m.weight.numel() for m in (plain.stem, plain.twice, plain.block[0], plain.head))
    steps = 2 * 4
    assert model_size(model).float_mb == floats * 32 / 8e6
    assert model_size(model).quantized_mb == ((floats - narrow + steps) * 32 + narrow * 4) / 8e6


def test_layers_that_did_not_run_have_no_operations() -> None:
    model = mixed()
    macs = count_macs(model, lambda: model.stem(torch.zeros(1, 3, 8, 8)))
    assert [report.bit_operations for report in layer_reports(model, macs)] == [4 * 64 * 27 * 32 * 32] + [0] * 6
    assert [report.bit_operations for report in layer_reports(model)] == [None] * 7
