"""Noise of quantized weights: its distribution, its parts, and its value for each method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.layers import WEIGHT_QUANTIZERS
from qreg_yolo.quant.spec import QuantizerSpec, QuantSpec
from qreg_yolo.quant.weight_noise import (
    WeightNoise,
    float_weight,
    layer_noise,
    no_noise,
    noise_columns,
    noise_of,
    pooled,
    ptq_weights,
    weight_noise,
)
from tests.quant.synthetic_networks import mixed


def weights(*shape: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise(method: str, bits: int, weight: torch.Tensor, *, per_channel: bool = False) -> WeightNoise:
    spec = QuantizerSpec(method=method, bits=bits, signed=True, per_channel=per_channel, rescale=True)
    quantizer = WEIGHT_QUANTIZERS[method](spec, channels=weight.shape[0])
    quantizer.calibrate(weight)
    return weight_noise(quantizer, weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_unclipped_lsq_has_the_uniform_variance_of_its_step(bits: int) -> None:
    """sigma^2 = s^2/12 within 3 %, and the distribution is uniform."""
    found = noise("lsq", bits, weights(64, 64, 3, 3))
    assert found.step is not None
    assert found.clipped < 1e-4
    assert found.sigma2 == pytest.approx(found.step**2 / 12, rel=0.03)
    assert found.sigma2_uniform == pytest.approx(found.step**2 / 12, rel=1e-3)
    assert found.kurtosis == pytest.approx(1.8, abs=0.03)


def test_at_two_bits_the_uniform_model_holds_for_what_is_not_clipped_alone() -> None:
    found = noise("lsq", 2, weights(64, 64, 3, 3))
    assert found.step is not None
    assert 0.04 < found.clipped < 0.07, "LSQ's initial step clips the normal distribution's tail beyond 1.59 sigma"
    assert found.sigma2 != pytest.approx(found.step**2 / 12, rel=0.03)
    assert found.sigma2 - found.sigma2_clipped == pytest.approx(found.sigma2_uniform, rel=0.1)
    assert found.sigma2_uniform == pytest.approx((1 - found.clipped) * found.step**2 / 12, rel=1e-4)


def test_every_number_against_numpy() -> None:
    weight = weights(8, 4, 3, 3)
    spec = QuantizerSpec(method="lsq", bits=2, signed=True)
    quantizer = WEIGHT_QUANTIZERS["lsq"](spec, channels=8)
    quantizer.calibrate(weight)
    found = weight_noise(quantizer, weight)
    w, step = weight.double().numpy().ravel(), float(quantizer.step_size.detach())
    codes = np.round(np.clip(w / step, -2, 1))
    delta, beyond = codes * step - w, (w / step < -2) | (w / step > 1)
    spread = (delta - delta.mean()) ** 2
    shares = np.unique(codes, return_counts=True)[1] / w.size
    expected = {
        "weights": w.size, "bits": 2, "step": step, "sigma2": delta.var(),
        "sigma2_uniform": step**2 / 12 * (~beyond).mean(), "sigma2_clipped": spread[beyond].sum() / w.size,
        "clipped": beyond.mean(), "variance": w.var(), "signal": (w**2).mean(), "error": (delta**2).mean(),
        "kurtosis": (spread**2).mean() / delta.var() ** 2, "entropy": -(shares * np.log2(shares)).sum(),
        "codes_used": len(shares), "ratio": delta.var() / w.var(),
        "sqnr_db": 10 * np.log10((w**2).mean() / (delta**2).mean()),
    }  # fmt: skip
    assert found.to_dict() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_is_measured_against_what_its_levels_round(bits: int) -> None:
    weight = weights(16, 8, 3, 3)
    found = noise("dorefa", bits, weight)
    w = weight.double().numpy()
    unit = np.tanh(w) / np.abs(np.tanh(w)).max()
    levels = 2**bits - 1
    delta = 2 * np.round((unit / 2 + 0.5) * levels) / levels - 1 - unit
    assert found.step == pytest.approx(2 / levels)
    assert found.sigma2 == pytest.approx(delta.var(), rel=1e-3)
    assert found.variance == pytest.approx(unit.var(), rel=1e-4)
    assert found.sigma2_uniform == pytest.approx((2 / levels) ** 2 / 12)
    assert found.sigma2_clipped == found.clipped == 0


def test_one_bit_dorefa_has_the_weights_own_unit() -> None:
    weight = weights(16, 8, 3, 3)
    found = noise("dorefa", 1, weight)
    mean = float(weight.abs().mean())
    assert found.sigma2 == pytest.approx(float((torch.sign(weight) * mean - weight).var(correction=0)), rel=1e-4)
    assert found.step == pytest.approx(2 * mean)
    assert found.codes_used == 2


def test_steps_per_channel_are_each_its_own() -> None:
    weight = weights(4, 5000) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None]
    apart = noise("lsq", 4, weight, per_channel=True)
    steps = 2 * weight.abs().mean(1) / 7**0.5
    assert apart.step == pytest.approx(float(steps.mean()))
    assert apart.sigma2_uniform == pytest.approx(float(steps.square().mean()) / 12, rel=0.01)
    assert apart.sigma2 - apart.sigma2_clipped == pytest.approx(apart.sigma2_uniform, rel=0.05)


def test_more_bits_less_noise_for_every_method() -> None:
    weight = weights(32, 16, 3, 3)
    for method in ("lsq", "lsq+", "dorefa"):
        found = [noise(method, bits, weight) for bits in range(2, 9)]
        ratios = [one.ratio for one in found]
        assert ratios == sorted(ratios, reverse=True)
        assert [one.sqnr_db for one in found] == sorted(one.sqnr_db for one in found)
        assert all(one.entropy <= one.bits and one.codes_used <= 2**one.bits for one in found)


def test_nothing_rounded_is_no_noise() -> None:
    found = no_noise(weights(3, 3))
    assert (found.sigma2, found.ratio, found.sqnr_db, found.kurtosis, found.entropy) == (0, 0, math.inf, None, None)
    assert found.to_dict()["sqnr_db"] is None
    constant = noise("lsq", 4, torch.zeros(3, 3))
    assert (constant.sigma2, constant.ratio, constant.kurtosis) == (0, None, None)


def test_layers_pool_weight_by_weight() -> None:
    parts = [noise("lsq", 4, weights(4, 10)), noise("lsq", 4, weights(30, 10, seed=1, scale=2.0))]
    found = pooled(parts)
    assert found.weights == 340
    assert found.bits == 4
    assert found.sigma2 == pytest.approx((40 * parts[0].sigma2 + 300 * parts[1].sigma2) / 340)
    assert found.kurtosis == pytest.approx((40 * parts[0].kurtosis + 300 * parts[1].kurtosis) / 340)
    assert found.ratio == pytest.approx(found.sigma2 / found.variance)
    assert pooled([parts[0], noise("lsq", 2, weights(4, 10))]).bits is None


def test_a_layer_without_weights_is_named() -> None:
    plan = QuantSpec(weight_bits=4, act_bits=32).layer_plan(rescale=True)
    with pytest.warns(UserWarning, match="zero-element"):
        model = nn.Sequential(nn.Linear(0, 3))
    rounding = ptq_weights(model, {"0": plan})
    with pytest.raises(ValueError, match=r"Layer '0': .*\[3, 0\] has no elements.*Leave it out"):
        noise_of(rounding)


def test_a_model_is_rounded_after_training_without_being_touched() -> None:
    model, quantized = mixed(), mixed()
    plans = quantize_model(quantized, QuantSpec(weight_bits=3, act_bits=32)).swapped
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in quantized.modules():
        quantizer = getattr(layer, "weight_fake_quant", None)
        if quantizer is not None:
            quantizer.calibrate(layer.weight)
    own = layer_noise(quantized)
    assert list(own) == ["stem", "twice", "block.0", "head"], "a layer under several names comes once"
    assert noise_of(ptq_weights(model, {name: plans[name] for name in own})) == own
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert noise_of(ptq_weights(quantized, {name: plans[name] for name in own})) == own, "latent weights"


def test_dorefa_without_rescaling_makes_a_network_of_another_scale() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    weight = model[0].weight.detach().clone()
    plans = quantize_model(model, QuantSpec(method="dorefa", weight_bits=4, act_bits=32)).swapped
    assert plans["0"].weight is not None
    assert plans["0"].weight.rescale is False
    unit = torch.tanh(weight) / torch.tanh(weight).abs().max()
    assert torch.allclose(float_weight(model, "0"), unit)
    dorefa = QuantSpec(method="dorefa", weight_bits=2, act_bits=32).layer_plan(rescale=True)
    quantizer, rounded = ptq_weights(model, {"0": dorefa})["0"]
    assert quantizer.spec.rescale is False, "as it was trained"
    assert torch.equal(rounded, weight)
    _, rounded = ptq_weights(model, {"0": QuantSpec(weight_bits=2, act_bits=32).layer_plan(rescale=None)})["0"]
    assert torch.allclose(rounded, unit), "another method rounds what the network uses"


def test_columns_are_few_unless_everything_is_asked_for() -> None:
    model = mixed()
    assert noise_columns(model, everything=True) == {}
    quantize_model(model, QuantSpec(weight_bits=3, act_bits=32))
    for layer in model.modules():
        quantizer = getattr(layer, "weight_fake_quant", None)
        if quantizer is not None:
            quantizer.calibrate(layer.weight)
    few, all_ = noise_columns(model, everything=False), noise_columns(model, everything=True)
    assert set(few) == {f"{kind}/{name}" for kind in ("noise", "noise_ratio") for name in layer_noise(model)}
    assert few.items() <= all_.items()
    assert len(all_) == 8 * (4 + 1)
    assert all_["noise/total"] == pooled(layer_noise(model).values()).sigma2
    assert all(math.isfinite(value) for value in all_.values())
