"""The replacement pass: swapped layers, kept layers, and the way back."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from qreg_yolo.quant.calibration import calibrate, quantizers_off
from qreg_yolo.quant.convert import (
    apply_plan,
    candidate_layers,
    dequantize_model,
    followed_by_batch_norm,
    plan_quantization,
    quantize_model,
    quantized_layers,
)
from qreg_yolo.quant.layers import QuantConv2d, QuantLinear
from qreg_yolo.quant.spec import LayerPlan, QuantSpec
from tests.quant.synthetic_networks import OddConv, image, mixed

METHODS = ["lsq", "lsq+", "pact", "dorefa"]


def snapshot(model):
    """Types, Parameter objects, buffers and modes by name, duplicates included."""
    modules = {n: (type(m), m.training) for n, m in model.named_modules(remove_duplicate=False)}
    return modules, {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}, list(model.state_dict())


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).eval()


def test_resnet18_swaps_every_layer_and_keeps_the_parameters():
    model = resnet()
    layers = {n: type(m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    parameters = dict(model.named_parameters())
    report = quantize_model(model, QuantSpec())
    assert list(report.swapped) == list(layers)
    assert len(layers) == 21
    assert report.skipped == {}
    for name, kind in layers.items():
        assert type(model.get_submodule(name)) is {nn.Conv2d: QuantConv2d, nn.Linear: QuantLinear}[kind]
    now = dict(model.named_parameters())
    assert all(now[name] is parameter for name, parameter in parameters.items())
    assert all("fake_quant" in name for name in now.keys() - parameters.keys())


@pytest.mark.parametrize("method", METHODS)
def test_resnet18_runs_trains_and_goes_back_bit_for_bit(method):
    model, x = resnet(), image(2, 32)
    before, expected = snapshot(model), model(x)
    state = copy.deepcopy(model.state_dict())
    quantize_model(model, QuantSpec(method=method, weight_bits=2, act_bits=2))
    calibrate(model, [x])
    out = model(x)
    assert not torch.allclose(out, expected)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with quantizers_off(model):
        assert torch.equal(model(x), expected)
    assert torch.equal(model(x), out)
    assert len(dequantize_model(model)) == 21
    assert snapshot(model) == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), expected)


def test_a_vit_block_skips_what_attention_reads_itself():
    torch.manual_seed(0)
    block = torchvision.models.vision_transformer.EncoderBlock(2, 8, 16, 0.0, 0.0, nn.LayerNorm).eval()
    x = torch.randn(2, 5, 8)
    expected = block(x)
    report = quantize_model(block, QuantSpec(weight_bits=2, act_bits=2))
    assert list(report.swapped) == ["mlp.0", "mlp.3"]
    assert list(report.skipped) == ["self_attention.out_proj"]
    assert "MultiheadAttention reads its weight without calling it" in report.skipped["self_attention.out_proj"]
    calibrate(block, [x])
    assert not torch.allclose(block(x), expected)
    dequantize_model(block)
    assert torch.equal(block(x), expected)


def test_torchs_transformer_layer_is_skipped_because_its_fast_path_ignores_submodules():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    report = quantize_model(layer, QuantSpec())
    assert not report.swapped
    assert set(report.skipped) == {"self_attn.out_proj", "linear1", "linear2"}
    assert "without calling it" in report.skipped["linear1"]


def test_mixed_network_reasons():
    model = mixed()
    report = quantize_model(model, QuantSpec())
    assert list(report.swapped) == ["stem", "twice", "again", "block.0", "other.conv", "head"]
    assert {name: reason.split(":")[0] for name, reason in report.skipped.items()} == {
        "up": "ConvTranspose2d",
        "odd": "OddConv",
        "line": "Conv1d",
    }
    assert "subclass" in report.skipped["odd"]
    assert type(model.odd) is OddConv


def test_a_shared_layer_stays_one_layer_there_and_back():
    model, x = mixed().eval(), image()
    before, expected = snapshot(model), model(x)
    quantize_model(model, QuantSpec(weight_bits=2, act_bits=2))
    assert model.twice is model.again
    assert model.block[0] is model.other["conv"]
    assert model.block is model.other["block"]
    calibrate(model, [x])
    assert not torch.allclose(model(x), expected)
    dequantize_model(model)
    assert snapshot(model) == before
    assert model.twice is model.again
    assert model.block[0] is model.other["conv"]
    assert torch.equal(model(x), expected)


def test_names_of_a_shared_layer_may_have_plans_of_their_own():
    model = mixed()
    spec = QuantSpec(overrides={"again": {"bits": 8}})
    quantize_model(model, spec)
    assert model.twice.weight_fake_quant.bits == 4
    assert model.again.weight_fake_quant.bits == 8
    assert model.twice.weight is model.again.weight
    quantize_model(model, spec)


@pytest.mark.parametrize("method", METHODS)
def test_again_with_the_same_spec_changes_nothing(method):
    model, spec = mixed(), QuantSpec(method=method)
    first = quantize_model(model, spec)
    objects = [id(m) for m in model.modules()]
    assert quantize_model(model, spec) == first
    calibrate(model, [image()])
    after = quantize_model(model, spec)  # the signs are decided now
    assert list(after.swapped) == list(first.swapped)
    assert [id(m) for m in model.modules()] == objects


def test_another_spec_on_a_quantized_model_is_refused_and_leaves_it_alone():
    model = mixed()
    quantize_model(model, QuantSpec(include=("stem",)))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"'stem' is quantized already.*dequantize_model first"):
        quantize_model(model, QuantSpec(weight_bits=8))
    assert snapshot(model) == before


@pytest.mark.parametrize("options", [{"weight_only": True}, {"act_bits": 4, "weight_bits": 32}])
@pytest.mark.parametrize("method", METHODS)
def test_one_side_only_goes_there_and_back(method, options):
    model, x = mixed().eval(), image()
    before, expected = snapshot(model), model(x)
    quantize_model(model, QuantSpec.from_options({"method": method, **options}))
    for layer in quantized_layers(model).values():
        assert (layer.input_fake_quant is None) is ("weight_only" in options)
        assert (layer.weight_fake_quant is None) is ("weight_only" not in options)
    calibrate(model, [x])
    assert not torch.equal(model(x), expected)
    with quantizers_off(model):
        assert torch.equal(model(x), expected)
    dequantize_model(model)
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_32_bits_swap_nothing():
    model, x = mixed().eval(), image()
    before, expected = snapshot(model), model(x)
    report = quantize_model(model, QuantSpec(weight_bits=32, act_bits=32))
    assert report.swapped == {}
    assert report.skipped["stem"] == "32 bits"
    assert snapshot(model) == before
    assert torch.equal(model(x), expected)


def test_quantizers_are_switched_on_again_after_an_error():
    model = mixed()
    quantize_model(model, QuantSpec())
    held = [layer.weight_fake_quant for layer in quantized_layers(model).values()]

    def fail():
        with quantizers_off(model):
            assert all(layer.weight_fake_quant is None for layer in quantized_layers(model).values())
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        fail()
    assert [layer.weight_fake_quant for layer in quantized_layers(model).values()] == held


def test_the_plan_changes_nothing_and_its_dictionary_rebuilds_the_model():
    model = mixed()
    before = snapshot(model)
    plan = plan_quantization(model, QuantSpec(method="pact", per_channel=True), pretrained=True)
    assert snapshot(model) == before
    plans = {name: LayerPlan.from_dict(p.to_dict()) for name, p in plan.swapped.items()}
    assert plans == plan.swapped
    apply_plan(model, plans)
    assert {name: layer.plan for name, layer in quantized_layers(model).items()} == plan.swapped


def test_apply_plan_refuses_unknown_and_unsupported_names_before_it_starts():
    model = mixed()
    plan = plan_quantization(model, QuantSpec()).swapped
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"no layer 'stemm'. Did you mean 'stem'\?"):
        apply_plan(model, {**plan, "stemm": plan["stem"]})
    with pytest.raises(ValueError, match="'odd' cannot be quantized: OddConv"):
        apply_plan(model, {**plan, "odd": plan["stem"]})
    assert snapshot(model) == before


def test_hooks_modes_and_devices_come_along():
    model = mixed().eval()
    seen = []
    handle = model.stem.register_forward_hook(lambda m, i, o: seen.append(type(m)))
    quantize_model(model, QuantSpec())
    assert not any(m.training for m in model.modules())
    calibrate(model, [image()])
    model(image())
    dequantize_model(model)
    model(image())
    assert seen == [QuantConv2d, QuantConv2d, nn.Conv2d]
    handle.remove()
    model(image())
    assert len(seen) == 3


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"groups": 2}, {"stride": 2, "dilation": 2}])
def test_convolution_options_are_kept(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, **options))
    x = torch.randn(2, 4, 9, 9)
    quantize_model(model, QuantSpec(weight_bits=8, act_bits=8))
    calibrate(model, [x])
    layer = model[0]
    expected = nn.Conv2d(4, 6, 3, padding=1, **options)
    expected.load_state_dict({"weight": layer.weight_fake_quant(layer.weight), "bias": layer.bias})
    torch.testing.assert_close(model(x), expected(layer.input_fake_quant(x)))


def test_followed_by_batch_norm_looks_at_the_next_module():
    model = mixed()
    assert followed_by_batch_norm(model, "stem")
    assert not followed_by_batch_norm(model, "twice")
    assert not followed_by_batch_norm(model, "head")
    model = resnet()
    convs = {n: (p, a) for n, p, a, m in candidate_layers(model) if isinstance(m, nn.Conv2d)}
    assert all(followed_by_batch_norm(*place) for place in convs.values())
    assert not followed_by_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(8)), "0")


def test_rescale_is_on_where_no_batch_norm_follows_or_weights_are_pretrained():
    def rescaled(pretrained, **options):
        spec = QuantSpec(method="dorefa", **options)
        swapped = plan_quantization(mixed(), spec, pretrained=pretrained).swapped
        return {name: plan.weight.rescale for name, plan in swapped.items() if name in ("stem", "twice", "head")}

    assert rescaled(False) == {"stem": False, "twice": True, "head": True}
    assert rescaled(True) == {"stem": True, "twice": True, "head": True}
    assert rescaled(True, rescale=False) == {"stem": False, "twice": False, "head": False}
    assert rescaled(False, rescale=True) == {"stem": True, "twice": True, "head": True}
