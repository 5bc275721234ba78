"""Freezing, dampening and transition rates around the steps of a small network's optimizer, and what is logged."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.oscillation import TransitionRate, dampening_loss
from qreg_yolo.quant.spec import QuantSpec
from qreg_yolo.training.extensions import Extensions
from qreg_yolo.training.oscillation import oscillation_extensions

ALL = OscillationOptions(freeze_codes=0.005, dampen=0.02, transition_rate=0.2, transition_eta=3.0)
STEPS = 30


def network(**options: Any) -> nn.Module:
    """Returns a quantized network of the layers 0, 2 and 4."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(6 * 4, 5))
    quantize_model(model, QuantSpec(**{"weight_bits": 3, "act_bits": 8, **options}))
    calibrate(model, [torch.randn(8, 3, 6, 6)])
    return model


def build(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    common = {"lr": lr, "momentum": 0.5}
    network = split_quantizer_parameters(model, model.parameters())
    groups = [{"params": network, **common, "weight_decay": 1e-3}]
    optimizer = torch.optim.SGD([*groups, *quantizer_parameter_groups(model, weight_decay=1e-3, **common)])
    StepSizeRule(model).attach(optimizer)
    return optimizer


class Loop:
    """A training loop with an averaged model; each step has a batch of its own."""

    def __init__(self, model: nn.Module, options: OscillationOptions, *, log: bool = False, lr: float = 0.1) -> None:
        self.model, self.averaged = model, deepcopy(model)
        self.optimizer = build(model, lr)
        self.extensions = oscillation_extensions(model, options, log=log)
        self.extensions.attach(self.optimizer)
        self.number = 0

    def loss(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.number)
        images, targets = torch.randn(4, 3, 6, 6, generator=generator), torch.randn(4, 5, generator=generator)
        return (self.model(images) - targets).square().mean()

    def step(self, scale: float = 1.0) -> None:
        self.number += 1
        self.optimizer.zero_grad()
        (self.loss() * scale).backward()
        self.extensions.before_step(self.number / STEPS, scale)
        self.optimizer.step()
        for mean, live in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.data.lerp_(live.data, 0.2)
        self.extensions.after_step(self.averaged)

    def run(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            self.step()


def codes(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight_fake_quant.to_int(layer.weight) for name, layer in quantized_layers(model).items()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---------------------------------------------------------------------------------------------- freezing


def test_a_frozen_weight_stays_on_its_level_while_the_step_moves_and_in_the_average_too() -> None:
    loop = Loop(network(), OscillationOptions(freeze_codes=0.005), lr=0.5)
    frozen: dict[str, Tensor] = {}
    moved = 0
    for _ in range(STEPS):
        before = codes(loop.model)
        steps = {
            name: layer.weight_fake_quant.step_size.clone() for name, layer in quantized_layers(loop.model).items()
        }
        loop.step()
        after, state = codes(loop.model), loop.extensions.state()["oscillation"]
        for name, mask in frozen.items():
            assert torch.equal(before[name][mask], after[name][mask])
            layer = quantized_layers(loop.model)[name]
            level = after[name] * layer.weight_fake_quant.step_size
            assert torch.allclose(layer.weight[mask], level[mask], rtol=1e-6, atol=0)
            moved += int(mask.any() and not torch.equal(steps[name], layer.weight_fake_quant.step_size))
        frozen = {name: state[f"frozen/{name}"].clone() for name in after}
        for name, average in codes(loop.averaged).items():
            assert torch.equal(average[frozen[name]], after[name][frozen[name]])
    share = sum(int(mask.sum()) for mask in frozen.values()) / sum(mask.numel() for mask in frozen.values())
    assert 0.05 < share < 0.95
    assert moved, "a frozen weight follows the step"
    assert loop.extensions.columns() == {"frozen/total": pytest.approx(share)}


def test_weights_of_more_than_four_bits_are_not_frozen() -> None:
    loop = Loop(
        network(overrides={"0": {"bits": 5}, "2": {"bits": 4}, "4": {"bits": 8}}),
        OscillationOptions(freeze_codes=0.005),
    )
    kinds = {key for key in loop.extensions.state()["oscillation"] if key.startswith("frozen/")}
    assert kinds == {"frozen/2"}
    loop = Loop(network(weight_bits=8), OscillationOptions(freeze_codes=0.005))
    loop.run(2)
    assert math.isnan(loop.extensions.columns()["frozen/total"])


# ---------------------------------------------------------------------------------------------- dampening


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_dampening_equals_its_loss_in_the_graph(scale: float) -> None:
    """Of the mean loss of an image: a loss that sums over 64 images has a gradient 64 times as large."""
    found = Loop(network(), OscillationOptions(dampen=0.05), lr=0.1 / scale)
    by_hand = Loop(deepcopy(found.model), OscillationOptions(), lr=0.1 / scale)
    plain = Loop(deepcopy(found.model), OscillationOptions(), lr=0.1 / scale)
    for number in range(1, 6):
        found.step(scale)
        plain.step(scale)
        by_hand.number += 1
        by_hand.optimizer.zero_grad()
        factor = 0.05 * (1 - math.cos(math.pi * number / STEPS)) / 2
        layers = quantized_layers(by_hand.model).values()
        loss = by_hand.loss() + factor * sum(dampening_loss(layer.weight, layer.weight_fake_quant) for layer in layers)
        (loss * scale).backward()
        by_hand.optimizer.step()
    one, two, without = (weights(loop.model) for loop in (found, by_hand, plain))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-5, atol=1e-7), name
    assert not torch.allclose(one["2.weight"], without["2.weight"], rtol=1e-4)
    (column,) = found.extensions.columns().items()
    layers = quantized_layers(found.model).values()
    expected = sum(dampening_loss(layer.weight, layer.weight_fake_quant).item() for layer in layers)
    assert column == ("dampening/total", pytest.approx(expected))


# ---------------------------------------------------------------------------------------------- transition rates


def test_latent_weights_move_by_their_own_rate_and_the_rest_by_the_schedules() -> None:
    options = OscillationOptions(transition_rate=0.02, transition_eta=20.0)
    loop = Loop(network(overrides={"0": {"bits": 8}, "4": {"bits": 2}}), options, lr=0.05)
    control = {bits: TransitionRate(bits, 0.02, 20.0) for bits in (3, 2)}
    widths = {"2": 3, "4": 2}
    assert [group.get("latent_bits") for group in loop.optimizer.param_groups] == [None, None, 2, 3]
    for number in range(1, 7):
        for group in loop.optimizer.param_groups:
            group["lr"] = 0.01 * number  # a schedule
        before, start = weights(loop.model), codes(loop.model)
        buffers = {
            id(p): s["momentum_buffer"].clone() for p, s in loop.optimizer.state.items() if "momentum_buffer" in s
        }
        loop.step()
        assert [group["lr"] for group in loop.optimizer.param_groups] == [0.01 * number] * 4
        after = codes(loop.model)
        for name, parameter in loop.model.named_parameters():
            layer, _, kind = name.partition(".")
            if layer in widths and kind == "weight_fake_quant.step_size":
                assert torch.equal(parameter, before[name]), "fixed"
                continue
            own = layer in widths and kind == "weight"
            rate = 0.05 * control[widths[layer]].factor if own else 0.01 * number
            buffer = loop.optimizer.state[parameter]["momentum_buffer"]
            assert torch.allclose(parameter, before[name] - rate * buffer, rtol=1e-5, atol=1e-7), name
            assert number == 1 or not torch.equal(buffer, buffers[id(parameter)])
        for bits, one in control.items():
            moved = [(after[n] != start[n]).flatten() for n, width in widths.items() if width == bits]
            one.update(float(torch.cat(moved).double().mean()), number / STEPS)
    assert control[3].factor != control[2].factor
    assert loop.extensions.columns() == pytest.approx(
        {f"transition_{kind}/w{b}": v for b, c in control.items() for kind, v in (("rate", c.rate), ("lr", c.factor))}
    )


def test_the_own_groups_keep_momentum_decay_and_every_parameter_once() -> None:
    model = network()
    optimizer = build(model)
    every = {id(p) for group in optimizer.param_groups for p in group["params"]}
    oscillation_extensions(model, OscillationOptions(transition_rate=0.01), log=False).attach(optimizer)
    after = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(after) == sorted(every)
    latent = [group for group in optimizer.param_groups if "latent_bits" in group]
    assert all((g["weight_decay"], g["momentum"], g["latent_lr"]) == (1e-3, 0.5, 0.1) for g in latent)


# ---------------------------------------------------------------------------------------------- what is logged


def test_the_columns_are_means_over_the_steps_of_the_epoch() -> None:
    loop = Loop(network(overrides={"2": {"method": "dorefa"}}), OscillationOptions(), log=True, lr=0.5)
    for _ in range(2):
        changed: dict[str, list[Tensor]] = {"0": [], "2": [], "4": []}
        for _ in range(5):
            before = codes(loop.model)
            loop.step()
            for name, now in codes(loop.model).items():
                changed[name].append((now != before[name]).flatten())
        found = loop.extensions.columns()
        kinds = ("changed", "oscillating", "near_threshold")
        assert sorted(found) == sorted(f"{kind}/{name}" for kind in kinds for name in ("0", "2", "4", "total"))
        for name, masks in changed.items():
            assert found[f"changed/{name}"] == pytest.approx(float(torch.cat(masks).double().mean()))
        every = torch.cat([mask for masks in changed.values() for mask in masks])
        assert found["changed/total"] == pytest.approx(float(every.double().mean()))
        assert 0 < found["changed/total"] < 1
        assert 0 < found["near_threshold/total"] < 0.3
    assert 0 < found["oscillating/total"] < 1
    empty = loop.extensions.columns()
    assert math.isnan(empty["changed/total"]), "an epoch without a step"
    assert empty["near_threshold/total"] == found["near_threshold/total"]


def test_a_skipped_step_is_one_without_change() -> None:
    loop = Loop(network(), OscillationOptions(), log=True, lr=0.5)
    loop.run(10)
    before = loop.extensions.state()["oscillation"]["frequency/2"].clone()
    loop.extensions.columns()
    loop.extensions.before_step(0.5)
    loop.extensions.after_step()  # a scaler that found an infinite gradient
    assert torch.allclose(loop.extensions.state()["oscillation"]["frequency/2"], 0.99 * before)
    assert before.any()
    assert loop.extensions.columns()["changed/total"] == 0


@pytest.mark.parametrize(
    ("model", "options", "log"),
    [
        (network(), OscillationOptions(), False),
        (network(weight_bits=32), ALL, True),
        (nn.Sequential(nn.Linear(2, 2)), ALL, True),
    ],
    ids=["off", "float weights", "no quantized layer"],
)
def test_where_nothing_is_on_nothing_is_done(model: nn.Module, options: OscillationOptions, log: bool) -> None:
    found = oscillation_extensions(model, options, log=log)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found.attach(optimizer)
    found.before_step(1.0)
    found.after_step()
    assert (found.columns(), found.state(), len(optimizer.param_groups)) == ({}, {}, 1)


# ---------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_restored_state_goes_on_bit_for_bit(channels_last: bool) -> None:
    def loop() -> Loop:
        model = network(per_channel=True)
        if channels_last:
            model.to(memory_format=torch.channels_last)
        return Loop(model, ALL, log=True, lr=0.3)

    straight = loop()
    straight.run(12)
    straight.extensions.columns()
    resumed = loop()
    resumed.model.load_state_dict(straight.model.state_dict())
    resumed.averaged.load_state_dict(straight.averaged.state_dict())
    resumed.optimizer.load_state_dict(deepcopy(straight.optimizer.state_dict()))
    state = {
        name: {k: t.clone().contiguous() for k, t in one.items()} for name, one in straight.extensions.state().items()
    }
    resumed.extensions.restore(state)
    resumed.number = straight.number
    for one in (straight, resumed):
        one.run(12)
    assert straight.extensions.columns() == resumed.extensions.columns()
    first, second = (one.extensions.state()["oscillation"] for one in (straight, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert first["frozen/2"].any()
    for name, tensor in weights(straight.model).items():
        assert torch.equal(tensor, weights(resumed.model)[name]), name
    Extensions().restore(state)  # a run in which nothing is on any more
