"""Copies, pickles and state dictionaries."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate, uninitialized_quantizers
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.layers import weights_quantized_once
from qreg_yolo.quant.spec import QuantSpec


def build(calibrated=True, positive=False, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 36, 5))
    quantize_model(model, QuantSpec(**options))
    if calibrated:
        x = torch.randn(4, 3, 8, 8)
        calibrate(model, [x.abs() if positive else x])
    return model


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CASES = [
    {"method": "lsq"},
    {"method": "lsq", "per_channel": True},
    {"method": "lsq+"},
    {"method": "pact"},
    {"method": "dorefa"},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_share_nothing(options, copier):
    model = build(**options)
    copied = copier(model)
    assert torch.equal(copied(X), model(X))
    assert [layer.plan for layer in quantized_layers(copied).values()] == [
        layer.plan for layer in quantized_layers(model).values()
    ]
    assert not {id(p) for p in model.parameters()} & {id(p) for p in copied.parameters()}
    assert not uninitialized_quantizers(copied)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_state_dict_carries_ranges_flags_and_signs(options, tmp_path):
    trained, fresh = build(**options), build(calibrated=False, **options)
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    result = fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert not uninitialized_quantizers(fresh)
    assert torch.equal(fresh(X), trained(X))
    for mine, theirs in zip(quantized_layers(fresh).values(), quantized_layers(trained).values(), strict=True):
        assert mine.plan == theirs.plan
        assert mine.input_fake_quant.quant_min == theirs.input_fake_quant.quant_min


def test_lsq_state_dict_keys():
    """A contract: checkpoints are read by these names."""
    keys = [k for k in build().state_dict() if k.startswith("0.")]
    assert keys == [
        "0.weight",
        "0.bias",
        "0.weight_fake_quant.step_size",
        "0.weight_fake_quant.initialized",
        "0.input_fake_quant.step_size",
        "0.input_fake_quant.initialized",
        "0.input_fake_quant.is_signed",
    ]
    keys = [k for k in build(method="lsq+").state_dict() if k.startswith("0.input")]
    assert keys == ["0.input_fake_quant.step_size", "0.input_fake_quant.offset", "0.input_fake_quant.initialized"]
    keys = [k for k in build(method="pact").state_dict() if k.startswith("0.")]
    assert keys == [
        "0.weight",
        "0.bias",
        "0.weight_fake_quant.initialized",
        "0.input_fake_quant.clip_value",
        "0.input_fake_quant.initialized",
    ]


def test_an_uninitialised_state_loads_as_uninitialised():
    fresh = build(calibrated=False)
    model = build()
    model.load_state_dict(fresh.state_dict())
    assert len(uninitialized_quantizers(model)) == 6


@pytest.mark.parametrize(("positive", "was", "forced"), [(False, "signed", "unsigned"), (True, "unsigned", "signed")])
def test_a_state_of_the_other_sign_is_refused(positive, was, forced):
    trained = build(positive=positive)
    assert trained[0].input_fake_quant.spec.signed is (was == "signed")
    other = build(calibrated=False, signed=forced)
    with pytest.raises(RuntimeError, match=rf"0\.input_fake_quant\.step_size was trained on the {was} grid.*'auto'"):
        other.load_state_dict(trained.state_dict())


def test_missing_ranges_are_reported_by_strict_loading():
    state = {k: v for k, v in build().state_dict().items() if "step_size" not in k}
    with pytest.raises(RuntimeError, match="step_size"):
        build(calibrated=False).load_state_dict(state)


def test_repr_names_method_width_and_sign():
    model = build()
    text = repr(model)
    assert "LSQWeightQuantizer(lsq, 4 bits, signed)" in text
    assert "LSQInputQuantizer(lsq, 4 bits, signed)" in text
    assert "LSQPlusInputQuantizer(lsq+, 4 bits, integer offset)" in repr(build(method="lsq+"))
    assert "signed=?" in repr(build(calibrated=False))
    assert "4 channels" in repr(build(per_channel=True))


@pytest.mark.parametrize("method", ["lsq", "dorefa"])
def test_inside_the_context_each_weight_is_quantized_once(method):
    model = build(positive=True, method=method)
    quantizers = [layer.weight_fake_quant for layer in quantized_layers(model).values()]
    calls = Counter()
    for quantizer in quantizers:
        quantizer.register_forward_hook(lambda module, *_: calls.update([module]))
    with torch.no_grad():
        expected = model(X.abs())
        before = Counter(calls)
        with weights_quantized_once(model):
            assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict()), "nothing is added to the state"
            for _ in range(3):
                with weights_quantized_once(model):  # the inner block leaves it to the outer one
                    assert torch.equal(model(X.abs()), expected)
        within = calls - before
        assert set(within.values()) == {1}
        model(X.abs())
    assert calls - before - within == before, "outside, each forward quantizes"


def test_weights_that_changed_are_quantized_anew_after_the_context():
    model = build()
    with weights_quantized_once(model):
        first = model(X.abs())
    with torch.no_grad():
        for layer in quantized_layers(model).values():
            layer.weight.mul_(-1)
    second = model(X.abs())
    assert not torch.equal(first, second)
    second.sum().backward()
    assert all(layer.weight.grad is not None for layer in quantized_layers(model).values())
