"""Stages of a training as values, and widths of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.spec import QuantSpec
from qreg_yolo.quant.stages import Stage, as_stages, stage_at
from qreg_yolo.quant.widths import set_widths, widths_in


def test_a_text_and_a_list_say_the_same():
    expected = (
        Stage(share=0.2, weight_bits=32, act_bits=32),
        Stage(share=0.3, weight_bits=4, act_bits=8),
        Stage(share=0.1, weight_bits=6, act_bits=6),
    )
    assert as_stages("0.2:fp32, 0.3:w4a8, 0.1:6") == expected
    listed = [{"share": 0.2}, {"share": 0.3, "weight_bits": 4, "act_bits": 8}, {"share": 0.1, "bits": 6}]
    assert as_stages(listed) == expected
    assert [stage.label for stage in expected] == ["fp32", "w4a8", "w6a6"]
    spec = QuantSpec.from_options({"bits": 4, "stages": "0.2:fp32,0.3:w4a8"})
    assert QuantSpec.from_options(spec.to_dict()) == spec
    assert as_stages("none") == as_stages(None) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.2", "'0.2' is not a stage"),
        ("0.2:fp16", "'0.2:fp16' is not a stage"),
        ("0.5:8,0.5:4", "add up to 1"),
        ("0:8", "share=0.0 is not a share"),
        ("0.1:9", "weight_bits=9 is not a width"),
        (0.5, "is not a list"),
        ([{"share": 0.5, "bit": 4}], "'bit' is not a key. Did you mean 'bits'?"),
        ([{"share": True}], "share=True"),
        ([{"share": 0.5, "include": "model.*"}], "is not a list of layer patterns"),
        (["fp32"], "is not a mapping"),
    ],
)
def test_what_is_not_a_stage_is_refused(value, words):
    with pytest.raises((TypeError, ValueError)) as refused:
        QuantSpec.from_options({"stages": value})
    assert words in str(refused.value)


@pytest.mark.parametrize("epochs", range(1, 13))
def test_the_last_stage_is_never_empty_and_stages_ascend(epochs):
    for text in ("0.5:fp32", "0.9:fp32", "0.3:fp32,0.3:8,0.39:w4a8", "0.05:8"):
        stages = as_stages(text)
        numbers = [stage_at(stages, epoch, epochs) for epoch in range(epochs)]
        assert numbers == sorted(numbers)
        assert numbers[-1] == len(stages)


def test_widths_of_a_stage():
    stage = Stage(share=0.5, weight_bits=4, act_bits=8, include=("body.*",))
    assert widths_in(stage, {"first": (8, 8), "body.0": (2, 2), "body.1": (8, 32)}) == {
        "first": (32, 32), "body.0": (4, 8), "body.1": (8, 32),
    }  # fmt: skip
    assert widths_in(None, {"a": (2, 2)}) == {"a": (2, 2)}


@pytest.mark.parametrize("method", ["lsq", "lsq+", "pact", "dorefa"])
def test_a_network_runs_at_the_widths_that_are_set(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    x = torch.rand(2, 3, 9, 9)
    exact = model(x)
    quantize_model(model, QuantSpec.from_options({"bits": 2, "method": method}), pretrained=True)
    calibrate(model, [x])
    planned = {"0": (2, 2), "2": (2, 2)}
    coarse = model(x)
    off = set_widths(model, dict.fromkeys(planned, (32, 32)))
    assert off == []
    torch.testing.assert_close(model(x), exact)
    woken = set_widths(model, dict.fromkeys(planned, (8, 32)))
    assert woken == [model[0].weight_fake_quant, model[2].weight_fake_quant]
    for quantizer in woken:
        quantizer.forget()
    calibrate(model, [x])
    assert 0 < (model(x) - exact).abs().max() < 0.5 * (coarse - exact).abs().max()
    assert [layer.weight_fake_quant.bits for layer in (model[0], model[2])] == [8, 8]
    changed = set_widths(model, planned)
    assert len(changed) == 4
    for quantizer in changed:
        quantizer.forget()
    calibrate(model, [x])
    torch.testing.assert_close(model(x), coarse)
    assert set_widths(model, planned) == []
