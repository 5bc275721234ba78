from __future__ import annotations

import pytest
import torch

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.functional import MIN_STEP
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import image, mixed


def trained(method="lsq", **options):
    model = mixed()
    quantize_model(model, QuantSpec(method=method, **options))
    calibrate(model, [image()])
    return model


def ids(params):
    return sorted(id(p) for p in params)


@pytest.mark.parametrize("method", ["lsq", "pact", "dorefa"])
def test_every_quantizer_parameter_is_in_exactly_one_group(method):
    model = trained(method, per_channel=True, overrides={"stem": {"method": "lsq"}, "head": {"method": "pact"}})
    groups = quantizer_parameter_groups(model, weight_decay=5e-4, lr=0.1, momentum=0.9)
    own = {n: p for n, p in model.named_parameters() if "fake_quant" in n}
    assert ids(p for g in groups for p in g["params"]) == ids(own.values())
    steps, clips = groups
    assert (steps["param_group"], clips["param_group"]) == ("quant_step", "quant_clip")
    assert ids(steps["params"]) == ids(p for n, p in own.items() if n.endswith("step_size"))
    assert ids(clips["params"]) == ids(p for n, p in own.items() if n.endswith("clip_value"))
    assert steps["weight_decay"] == 0.0
    assert clips["weight_decay"] == 5e-4
    assert all(g["lr"] == 0.1 and g["momentum"] == 0.9 for g in groups)
    assert all(p.ndim <= 1 for p in own.values())  # an optimizer that looks at shapes takes them for no matrix
    rest = split_quantizer_parameters(model, model.parameters())
    assert ids([*rest, *own.values()]) == ids(model.parameters())
    torch.optim.SGD([{"params": rest}, *groups], lr=0.1)  # refuses a parameter in two groups


def test_groups_without_parameters_are_left_out():
    assert [g["param_group"] for g in quantizer_parameter_groups(trained(), weight_decay=1e-4)] == ["quant_step"]
    assert [g["param_group"] for g in quantizer_parameter_groups(trained("pact"), weight_decay=1e-4)] == ["quant_clip"]
    assert quantizer_parameter_groups(trained("dorefa"), weight_decay=1e-4) == []


def test_the_clip_decay_can_be_given_and_be_zero():
    model = trained("pact")
    assert quantizer_parameter_groups(model, weight_decay=1e-4, clip_decay=0.0)[0]["weight_decay"] == 0.0
    assert quantizer_parameter_groups(model, weight_decay=1e-4, clip_decay=0.3)[0]["weight_decay"] == 0.3


def test_the_learning_rate_of_ranges_may_be_another():
    groups = quantizer_parameter_groups(trained("lsq+"), weight_decay=1e-4, lr=0.1, lr_factor=5.0)
    assert [(g["lr"], g["lr_factor"]) for g in groups] == [(0.5, 5.0), (0.5, 5.0)]
    assert [g["lr_factor"] for g in quantizer_parameter_groups(trained(), weight_decay=1e-4)] == [1.0]


def test_offsets_have_a_group_without_decay():
    model = trained("lsq+", per_channel=True)
    steps, offsets = quantizer_parameter_groups(model, weight_decay=5e-4, lr=0.1)
    assert (steps["param_group"], offsets["param_group"]) == ("quant_step", "quant_offset")
    assert ids(offsets["params"]) == ids(p for n, p in model.named_parameters() if n.endswith("offset"))
    assert ids(steps["params"]) == ids(p for n, p in model.named_parameters() if n.endswith("step_size"))
    assert (steps["weight_decay"], offsets["weight_decay"], offsets["lr"]) == (0.0, 0.0, 0.1)


def ranges(model):
    return [p for n, p in model.named_parameters() if "fake_quant" in n]


@pytest.mark.parametrize("method", ["lsq", "pact"])
@pytest.mark.parametrize("hook", [True, False])
def test_ranges_stay_positive_under_a_huge_learning_rate(method, hook):
    model = trained(method)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)
    if hook:
        StepSizeRule(model).attach(optimizer)
    lowest = []
    for sign in (1, -1, 1, -1):
        optimizer.zero_grad()
        for p in ranges(model):
            p.grad = torch.full_like(p, sign * 0.7)
        optimizer.step()
        lowest.append(min(p.min().item() for p in ranges(model)))
    if hook:
        assert min(lowest) >= MIN_STEP * (1 - 1e-6)
    else:
        assert min(lowest) < 0  # the counter-test: without it they cross zero


def test_the_rule_floors_and_reflects():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    StepSizeRule(model).attach(optimizer)
    params = ranges(model)
    for p in params:
        p.grad = p.detach().clone() * (1 if p is params[0] else 1.5)  # to 0, and to minus a half
    halves = [p.detach() / 2 for p in params]
    optimizer.step()
    assert params[0].item() == pytest.approx(MIN_STEP)
    for p, half in list(zip(params, halves, strict=True))[1:]:
        torch.testing.assert_close(p.detach(), half)


def test_the_rule_without_quantizers_attaches_nothing():
    model = mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    StepSizeRule(model).attach(optimizer)
    assert not optimizer._optimizer_step_post_hooks


def test_a_few_steps_of_training_move_weights_and_ranges_and_lower_the_loss():
    model = trained(act_bits=3, weight_bits=3)
    groups = quantizer_parameter_groups(model, weight_decay=1e-4)
    optimizer = torch.optim.SGD(
        [{"params": split_quantizer_parameters(model, model.parameters())}, *groups], lr=0.02, momentum=0.9
    )
    StepSizeRule(model).attach(optimizer)
    x, target = image(16), torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    before, losses = [p.detach().clone() for p in ranges(model)], []
    for _ in range(30):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(p, b) for p, b in zip(ranges(model), before, strict=True))


def one_adam_step(relative):
    """Returns every range before and after one AdamW step on gradients of one."""
    model = trained()
    optimizer = torch.optim.AdamW(ranges(model), lr=0.01, weight_decay=0.0, eps=0.0)
    StepSizeRule(model, relative=relative).attach(optimizer)
    for p in ranges(model):
        p.grad = torch.ones_like(p)
    before = [p.item() for p in ranges(model)]
    optimizer.step()
    return before, [p.item() for p in ranges(model)]


@pytest.mark.parametrize("relative", ["auto", True])
def test_under_adam_the_learning_rate_is_relative_to_the_step(relative):
    before, after = one_adam_step(relative)
    assert after == pytest.approx([s - 0.01 * s for s in before], rel=1e-5)


def test_the_relative_rule_can_be_switched_off():
    before, after = one_adam_step(False)
    assert after == pytest.approx([abs(s - 0.01) for s in before], rel=1e-4)


@pytest.mark.parametrize("relative", ["auto", False])
def test_under_sgd_the_update_is_lsqs_own(relative):
    model = trained()
    optimizer = torch.optim.SGD(ranges(model), lr=0.01)
    StepSizeRule(model, relative=relative).attach(optimizer)
    for p in ranges(model):
        p.grad = torch.full_like(p, 0.1)
    before = [p.item() for p in ranges(model)]
    optimizer.step()
    assert [p.item() for p in ranges(model)] == pytest.approx([abs(s - 0.001) for s in before], rel=1e-5)


def offsets_and_steps(model):
    own = dict(model.named_parameters())
    offsets = {n: p for n, p in own.items() if n.endswith("offset")}
    return list(offsets.values()), [own[n.replace("offset", "step_size")] for n in offsets]


def one_step(optimizer, relative="auto", **options):
    """Returns offsets and steps before, and offsets after, one step on gradients of 0.5."""
    model = trained("lsq+")
    made = optimizer(ranges(model), weight_decay=0.0, **options)
    StepSizeRule(model, relative=relative).attach(made)
    for p in ranges(model):
        p.grad = torch.full_like(p, 0.5)
    offsets, steps = offsets_and_steps(model)
    before = [p.item() for p in offsets], [p.item() for p in steps]
    made.step()
    assert [p.item() for p in steps] != before[1]
    return *before, [p.item() for p in offsets]


@pytest.mark.parametrize("relative", ["auto", True])
def test_under_adam_an_offset_moves_by_a_share_of_its_step(relative):
    before, steps, after = one_step(torch.optim.AdamW, relative, lr=0.01, eps=0.0)
    assert after == pytest.approx([b - 0.01 * s for b, s in zip(before, steps, strict=True)], rel=1e-5)


@pytest.mark.parametrize(("optimizer", "move"), [(torch.optim.SGD, 0.005), (torch.optim.AdamW, 0.01)])
def test_without_the_relative_rule_an_offset_moves_in_its_own_unit(optimizer, move):
    before, _, after = one_step(optimizer, False, lr=0.01)
    assert after == pytest.approx([b - move for b in before], rel=1e-5)


def test_offsets_may_be_negative_and_cross_zero_while_steps_may_not():
    model = trained("lsq+")
    optimizer = torch.optim.SGD(ranges(model), lr=1.0)
    StepSizeRule(model).attach(optimizer)
    offsets, steps = offsets_and_steps(model)
    for p in ranges(model):
        p.grad = 2 * p.detach()  # to its mirror image
    before = [p.item() for p in offsets], [p.item() for p in steps]
    assert any(b < 0 for b in before[0])
    optimizer.step()
    assert [p.item() for p in offsets] == [-b for b in before[0]]
    assert [p.item() for p in steps] == before[1]
