"""Oscillating weights against sequences of codes by hand, slow loops over single weights, and autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qreg_yolo.quant.layers import WEIGHT_QUANTIZERS
from qreg_yolo.quant.oscillation import (
    CodeHistory,
    TransitionRate,
    cosine,
    dampening_gradient,
    dampening_loss,
    frozen_step_gradient,
    hold_frozen,
    near_threshold,
)
from qreg_yolo.quant.spec import QuantizerSpec


def history(*codes: int, freezable: bool = True) -> CodeHistory:
    return CodeHistory.begin(torch.tensor(codes), freezable=freezable)


def lsq(bits: int, step: float | list[float]) -> torch.nn.Module:
    """Returns the quantizer of a weight with this step, or with these, one per channel."""
    per_channel = isinstance(step, list)
    spec = QuantizerSpec(method="lsq", bits=bits, signed=True, per_channel=per_channel)
    quantizer = WEIGHT_QUANTIZERS["lsq"](spec, channels=len(step) if per_channel else 1)
    with torch.no_grad():
        quantizer.step_size.copy_(torch.tensor(step))
    quantizer.mark_initialized()
    return quantizer


# ---------------------------------------------------------------------------------------------- change, oscillation


def test_changes_and_oscillations_of_codes_by_hand() -> None:
    """Four weights: at rest, to and fro, up step by step, up with a pause before it turns back."""
    sequence = [[2, 0, -2, 0], [2, 1, -1, 1], [2, 0, 0, 1], [2, 1, 1, 1], [2, 1, 2, 0]]
    changed = [[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    oscillated = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    found, frequency = history(*sequence[0]), np.zeros(4)
    for codes, moved, turned in zip(sequence[1:], changed, oscillated, strict=True):
        assert found.update(torch.tensor(codes)).tolist() == [bool(one) for one in moved]
        frequency = 0.01 * np.array(turned) + 0.99 * frequency
        assert found.frequency.tolist() == pytest.approx(list(frequency), abs=1e-9)
    assert (found.frequency > 0.005).tolist() == [False, True, False, True]
    assert found.codes.tolist() == sequence[-1]


def test_random_codes_against_a_loop_over_single_weights() -> None:
    generator = np.random.default_rng(0)
    sequence = generator.integers(-8, 8, (60, 50))
    found = history(*sequence[0], freezable=False)
    previous, last, frequency = sequence[0], [0] * 50, [0.0] * 50
    for codes in sequence[1:]:
        found.update(torch.tensor(codes))
        for i in range(50):
            d = int(np.sign(previous[i] - codes[i]))
            o = int(d != 0 and d == -last[i])
            last[i] = d if d != 0 else last[i]
            frequency[i] = 0.01 * o + 0.99 * frequency[i]
        previous = codes
    assert found.frequency.tolist() == pytest.approx(frequency, abs=1e-6)
    assert found.mean_codes is found.frozen is None


def test_codes_of_eight_unsigned_bits_do_not_overflow() -> None:
    found = history(255, 0)
    assert found.update(torch.tensor([0, 255])).tolist() == [True, True]
    assert found.update(torch.tensor([255, 0])).tolist() == [True, True]
    assert found.frequency.tolist() == pytest.approx([0.01, 0.01])


# ---------------------------------------------------------------------------------------------- freezing


def test_a_weight_is_frozen_at_the_code_where_it_was_most_of_the_time() -> None:
    """Three steps at 1, one at 0, again and again: f grows by two oscillations in four steps, the mean is near 1."""
    found, mean = history(1, 3), 1.0
    for number in range(8):
        code = 0 if number % 4 == 3 else 1
        mean = 0.01 * code + 0.99 * mean
        found.update(torch.tensor([code, 3]))
        found.freeze(0.015, quant_min=-8, quant_max=7)
        assert found.frozen is not None
        # Oscillations at numbers 4 (back to 1) and 7 (down again): f = 0.99^3 * 0.01 + 0.01 = 0.0197.
        assert found.frozen.tolist() == [number == 7, False], number
    assert found.mean_codes is not None
    assert float(found.mean_codes[0]) == pytest.approx(mean)
    assert found.codes.tolist() == [1, 3], "the last code was 0"
    assert found.update(torch.tensor([0, 4])).tolist() == [False, True], "frozen for good"
    assert found.codes.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("bits", "binary", "mean", "code"),
    [(2, False, 1.9, 1), (2, False, -2.4, -2), (1, True, 0.2, 1), (1, True, -0.2, -1)],
)
def test_a_frozen_code_is_one_of_the_grid(bits: int, binary: bool, mean: float, code: int) -> None:
    found = history(1)
    assert found.mean_codes is not None
    found.mean_codes.fill_(mean)
    found.frequency.fill_(0.5)
    low, high = (-1, 1) if binary else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    found.freeze(0.1, quant_min=low, quant_max=high, binary=binary)
    assert found.codes.tolist() == [code]


def test_a_threshold_is_exceeded_not_reached() -> None:
    found = history(0)
    found.frequency.fill_(0.25)
    found.freeze(0.25, quant_min=-8, quant_max=7)
    assert not found.frozen.any()


@pytest.mark.parametrize("step", [0.0123, [0.0123, 0.7, 3.1]])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_frozen_weights_are_on_their_level_whatever_the_step(bits: int, step: float | list[float]) -> None:
    quantizer = lsq(bits, step)
    codes = torch.randint(quantizer.quant_min, quantizer.quant_max + 1, (3, 40))
    codes = torch.where(codes == 0, 1, codes) if bits == 1 else codes
    found = CodeHistory.begin(codes, freezable=True)
    found.frozen[:, ::2] = True
    weight = torch.randn(3, 40)
    before = weight.clone()
    for factor in (1.0, 1.37):
        with torch.no_grad():
            quantizer.step_size.mul_(factor)
        hold_frozen(weight, quantizer, found)
        level = codes * torch.tensor(step).mul(factor).view(-1, 1)
        assert torch.allclose(weight[:, ::2], level[:, ::2], rtol=1e-6)
        assert torch.equal(quantizer.to_int(weight)[:, ::2], codes[:, ::2].int())
    assert torch.equal(weight[:, 1::2], before[:, 1::2])


@pytest.mark.parametrize("step", [0.3, [0.3, 0.11]])
def test_the_steps_gradient_is_that_of_code_times_step(step: float | list[float]) -> None:
    """With every weight frozen, LSQ's own part is 0 or, beyond the last level by a rounding, the whole."""
    quantizer = lsq(3, step)
    codes = torch.randint(-4, 4, (2, 50), generator=torch.Generator().manual_seed(3))
    found = CodeHistory.begin(codes, freezable=True)
    found.frozen.fill_(True)
    weight = torch.zeros(2, 50).requires_grad_()
    with torch.no_grad():
        hold_frozen(weight, quantizer, found)
    factor = torch.randn(2, 50, generator=torch.Generator().manual_seed(4))
    (quantizer(weight) * factor).sum().backward()
    total = quantizer.step_size.grad + frozen_step_gradient(weight.grad, quantizer, found)
    plain = torch.tensor(step, requires_grad=True)
    (codes * plain.view(-1, 1) * factor).sum().backward()
    count = 50 if isinstance(step, list) else 100
    assert torch.allclose(total, plain.grad / math.sqrt(count * 3), rtol=1e-4, atol=1e-6)
    assert total.shape == quantizer.step_size.shape


# ---------------------------------------------------------------------------------------------- dampening


def test_dampening_by_hand() -> None:
    """s = 0.5, codes -2 to 1: the levels are -1, -0.5, 0 and 0.5; beyond -1 and 0.5 nothing pulls."""
    weight = torch.tensor([[-3.0, -1.0, -0.7, -0.3, 0.1, 0.5, 0.6]], requires_grad=True)
    quantizer = lsq(2, 0.5)
    loss = dampening_loss(weight, quantizer)
    assert loss.item() == pytest.approx(0.2**2 + 0.2**2 + 0.1**2)
    expected = [0.0, 0.0, 2 * -0.2, 2 * 0.2, 2 * 0.1, 0.0, 0.0]
    assert dampening_gradient(weight, quantizer)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("step", [0.4, [0.4, 0.2]])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_gradient_of_dampening_is_autograds_and_leaves_the_step_alone(bits: int, step: float | list[float]) -> None:
    quantizer = lsq(bits, step)
    weight = torch.randn(2, 200, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dampening_loss(weight, quantizer).backward()
    assert torch.allclose(weight.grad, dampening_gradient(weight, quantizer), rtol=1e-5, atol=1e-6)
    assert (weight.grad != 0).any()
    assert (weight.grad == 0).any()
    assert quantizer.step_size.grad is None


# ---------------------------------------------------------------------------------------------- near a threshold


def test_near_a_threshold_by_hand() -> None:
    """s = 0.1, codes -2 to 1: thresholds at -0.15, -0.05 and 0.05; near is within 0.005."""
    weight = torch.tensor([[0.046, 0.054, 0.0449, 0.0551, -0.146, -0.154, 0.1, 0.146, 0.15, -0.25, -0.246, 0.0]])
    near = [True, True, False, False, True, True, False, False, False, False, False, False]
    assert near_threshold(weight, lsq(2, 0.1))[0].tolist() == near


def test_near_the_only_threshold_of_one_bit() -> None:
    weight = torch.tensor([[0.009, -0.009, 0.011, 0.1, 0.195, -3.0]])  # levels -0.1 and 0.1
    assert near_threshold(weight, lsq(1, 0.1))[0].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("bits", [2, 3])
def test_dorefas_thresholds_are_those_of_what_its_levels_round(bits: int) -> None:
    weight = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    spec = QuantizerSpec(method="dorefa", bits=bits, signed=True, rescale=True)
    found = near_threshold(weight, WEIGHT_QUANTIZERS["dorefa"](spec, channels=4))
    w = np.tanh(weight.double().numpy())
    scaled = (w / np.abs(w).max() / 2 + 0.5) * (2**bits - 1)
    expected = np.abs(scaled - np.floor(scaled) - 0.5) < 0.05
    assert 0.05 < expected.mean() < 0.15
    assert (found.numpy() == expected).mean() > 0.999, "but for those on the very border"


def test_one_bit_dorefa_has_no_threshold_beyond_its_levels() -> None:
    spec = QuantizerSpec(method="dorefa", bits=1, signed=True)
    weight = torch.tensor([[0.04, -0.04, 1.0, -1.0, 1.96, -1.96]])  # levels -1 and 1
    assert near_threshold(weight, WEIGHT_QUANTIZERS["dorefa"](spec, channels=1))[0].tolist() == [True] * 2 + [False] * 4


# ---------------------------------------------------------------------------------------------- transition rates


def test_transition_rates_by_hand() -> None:
    found = TransitionRate(bits=4, scale=0.005, eta=10.0)
    assert [found.target(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.01, 0.005, 0.0])
    rate, factor = 0.0, 1.0
    for changed, progress in ((0.0, 0.1), (0.5, 0.2), (1.0, 0.5), (1.0, 1.0)):
        found.update(changed, progress)
        rate = 0.99 * rate + 0.01 * changed
        factor = max(0.0, factor + 10.0 * (0.01 * (1 + math.cos(math.pi * progress)) / 2 - rate))
        assert (found.rate, found.factor) == pytest.approx((rate, factor))
    for _ in range(20):
        found.update(1.0, 1.0)
    assert found.factor == 0.0, "a learning rate is never negative"


def test_a_cosine_ends_where_it_is_told_to() -> None:
    assert [cosine(0.1, 0.01, p) for p in (0.0, 1.0, 1.5)] == pytest.approx([0.1, 0.01, 0.01])
    assert cosine(0.0, 0.2, 0.25) == pytest.approx(0.2 * (1 - math.cos(math.pi / 4)) / 2)
