"""torch.func, torch.compile, double backward, and tensors saved for backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.functional import (
    dorefa_quantize_activation,
    dorefa_quantize_weight,
    lsq_fake_quantize,
    lsq_plus_fake_quantize,
    pact_fake_quantize,
)
from qreg_yolo.quant.spec import QuantSpec

FUNCTIONS = {
    "lsq": lambda v, p: lsq_fake_quantize(v, p, quant_min=-2, quant_max=1, grad_scale=0.5),
    "lsq unsigned": lambda v, p: lsq_fake_quantize(v, p, quant_min=0, quant_max=15),
    "lsq binary": lambda v, p: lsq_fake_quantize(v, p, quant_min=-1, quant_max=1, binary=True),
    "lsq+ step": lambda v, p: lsq_plus_fake_quantize(v, p, torch.tensor(-0.3), quant_min=0, quant_max=3),
    "lsq+ offset": lambda v, p: lsq_plus_fake_quantize(v, torch.tensor(0.3), -p, quant_min=0, quant_max=3),
    "lsq+ both": lambda v, p: lsq_plus_fake_quantize(v, p, 0.1 - p, quant_min=0, quant_max=3, grad_scale=0.5),
    "lsq+ integer": lambda v, p: lsq_plus_fake_quantize(
        v, p, 0.1 - p, quant_min=0, quant_max=3, grad_scale=0.5, integer=True
    ),
    "pact": lambda v, p: pact_fake_quantize(v, p, bits=3),
    "dorefa activation": lambda v, p: dorefa_quantize_activation(v, bits=3) * p,
    "dorefa weight": lambda v, p: dorefa_quantize_weight(v, bits=3) * p,
    "dorefa one bit": lambda v, p: dorefa_quantize_weight(v, bits=1) * p,
}


def loop_gradients(fn, v, p, grad):
    v, p = v.clone().requires_grad_(), p.clone().requires_grad_()
    return torch.autograd.grad(fn(v, p), (v, p), grad)


@pytest.fixture(params=FUNCTIONS)
def case(request):
    torch.manual_seed(0)
    return FUNCTIONS[request.param], torch.randn(4, 3, 5), torch.rand(4) + 0.2, torch.randn(4, 3, 5)


def test_vjp(case):
    fn, v, p, grad = case
    out, pull = torch.func.vjp(fn, v[0], p[0])
    assert torch.equal(out, fn(v[0], p[0]))
    for got, expected in zip(pull(grad[0]), loop_gradients(fn, v[0], p[0], grad[0]), strict=True):
        torch.testing.assert_close(got, expected)


def test_vmap_of_the_forward_and_of_the_gradient(case):
    fn, v, p, grad = case
    torch.testing.assert_close(torch.vmap(fn)(v, p), torch.stack([fn(a, b) for a, b in zip(v, p, strict=True)]))
    torch.testing.assert_close(torch.vmap(fn, (0, None))(v, p[0]), torch.stack([fn(a, p[0]) for a in v]))
    torch.testing.assert_close(torch.vmap(fn, (None, 0))(v[0], p), torch.stack([fn(v[0], b) for b in p]))

    def loss(a, b, g):
        return (fn(a, b) * g).sum()

    got = torch.vmap(torch.func.grad(loss, argnums=(0, 1)))(v, p, grad)
    loop = [loop_gradients(fn, a, b, g) for a, b, g in zip(v, p, grad, strict=True)]
    torch.testing.assert_close(got[0], torch.stack([x[0] for x in loop]))
    torch.testing.assert_close(got[1], torch.stack([x[1] for x in loop]))


def test_jacobian_batches_the_cotangent_alone(case):
    fn, v, p, _ = case
    got = torch.func.jacrev(fn, argnums=(0, 1))(v[0], p[0])
    for i, unit in enumerate(torch.eye(15).reshape(15, 3, 5)):
        dv, dp = loop_gradients(fn, v[0], p[0], unit)
        torch.testing.assert_close(got[0].reshape(15, 3, 5)[i], dv)
        torch.testing.assert_close(got[1].flatten()[i], dp)


def test_gradient_norm_penalty_differentiates_twice():
    """d/dw of (dL/dw)^2 with L = sum Q(w)^2 / 2: dL/dw = Q(w) inside, so the penalty's gradient is 2 Q(w) there."""
    w = torch.tensor([-5.0, -0.7, 0.2, 0.4, 9.0], requires_grad=True)
    q = lsq_fake_quantize(w * 1.0, torch.tensor(0.5, requires_grad=True), quant_min=-2, quant_max=1)
    (first,) = torch.autograd.grad((q.square() / 2).sum(), w, create_graph=True)
    assert first.tolist() == [0.0, -0.5, 0.0, 0.5, 0.0]
    (second,) = torch.autograd.grad(first.square().sum(), w)
    assert second.tolist() == [0.0, -1.0, 0.0, 1.0, 0.0]


def test_the_second_derivative_goes_through_offset_and_step_too():
    """With L = sum Q(x)^2 / 2, dL/dbeta is the sum of the clipped values, each beta + p s; that is linear in both."""
    x = torch.tensor([5.0, 0.4, 9.0], dtype=torch.float64, requires_grad=True)
    step, offset = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, -0.25))
    q = lsq_plus_fake_quantize(x, step, offset, quant_min=0, quant_max=3)
    (first,) = torch.autograd.grad((q.square() / 2).sum(), offset, create_graph=True)
    assert first.item() == 2 * (3 * 0.5 - 0.25)
    by_step, by_offset = torch.autograd.grad(first, (step, offset))
    assert (by_step.item(), by_offset.item()) == (2 * 3.0, 2.0)


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda v, s: lsq_fake_quantize(v, s, quant_min=-8, quant_max=7), ()),
        (lambda v, s: lsq_fake_quantize(v, s, quant_min=-8, quant_max=7), (16, 1, 1)),
        (lambda v, s: pact_fake_quantize(v, s, bits=4), ()),
    ],
)
def test_only_the_input_and_the_range_are_kept_for_backward(fn, shape):
    v = torch.randn(16, 32, 32, requires_grad=True)
    step = (torch.rand(shape) + 0.1).requires_grad_()
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = fn(v, step)
    assert sorted(t.data_ptr() for t in kept) == sorted([v.data_ptr(), step.data_ptr()])
    assert sum(t.nbytes for t in kept) == v.nbytes + step.nbytes
    out.sum().backward()
    assert v.grad is not None


@pytest.mark.parametrize("wide", [False, True])
def test_nothing_is_written_over(wide):
    """Neither the arguments nor the gradient that comes in, which autograd may share."""
    v, step, grad = torch.randn(3, 50), torch.rand(3, 1) if wide else torch.tensor(0.3), torch.randn(3, 50)
    before = v.clone(), step.clone(), grad.clone()
    for fn in FUNCTIONS.values():
        loop_gradients(fn, v, step if fn is FUNCTIONS["lsq"] else torch.tensor(0.3), grad)
    assert all(torch.equal(a, b) for a, b in zip((v, step, grad), before, strict=True))


def compiled_equals_eager(backend, options):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    quantize_model(model, QuantSpec(**options))
    x = torch.randn(2, 3, 8, 8)
    calibrate(model, [x])
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        leaf = x.clone().requires_grad_()
        out = run(leaf)
        out.square().mean().backward()
        results.append([out.detach(), leaf.grad, *[p.grad.clone() for p in model.parameters()]])
    for eager, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-5, atol=1e-5)


CASES = [
    {"method": "lsq"},
    {"method": "lsq", "per_channel": True},
    {"method": "lsq+"},
    {"method": "pact"},
    {"method": "dorefa"},
]


@pytest.mark.parametrize("options", [CASES[0], pytest.param(CASES[1], marks=pytest.mark.slow), *CASES[2:]], ids=str)
def test_traced_equals_eager(options):
    compiled_equals_eager("aot_eager", options)


ONE_BIT = {"method": "lsq", "weight_bits": 1, "act_bits": 1}


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        *((options, None) for options in (*CASES[:3], ONE_BIT)),
        (CASES[0], "aot_eager"),
        *(pytest.param(options, "aot_eager", marks=pytest.mark.slow) for options in (*CASES[1:3], ONE_BIT)),
    ],
    ids=str,
)
def test_an_input_without_a_gradient_gives_its_range_the_same_one(options, backend):
    """The first layer's shortcut against the gradient of the image itself, on a strided, padded, grouped layer."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    quantize_model(model, QuantSpec(**options))
    x = torch.randn(2, 4, 9, 9)
    calibrate(model, [x])
    with torch.no_grad():
        model[0].input_fake_quant.step_size.mul_(-0.4)  # some values outside the range, and the sign rule
    run = model if backend is None else torch.compile(model, fullgraph=True, backend=backend)
    results = []
    for leaf in (x, x.clone().requires_grad_()):
        model.zero_grad()
        out = run(leaf)
        out.square().mean().backward()
        results.append([out.detach(), *[p.grad.clone() for p in model.parameters()]])
    for short, full in zip(*results, strict=True):
        torch.testing.assert_close(short, full, rtol=1e-5, atol=1e-7)
    assert model[0].input_fake_quant.step_size.grad != 0


def test_the_shortcut_of_the_first_layer_differentiates_twice():
    """d/dw of dL/ds is a derivative of the true gradient, with and without a gradient to the image."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 3))
    quantize_model(layer, QuantSpec())
    x = torch.randn(2, 2, 5, 5)
    calibrate(layer, [x])
    found = []
    for leaf in (x, x.clone().requires_grad_()):
        step = layer[0].input_fake_quant.step_size
        (first,) = torch.autograd.grad(layer(leaf).square().sum(), step, create_graph=True)
        found.append(torch.autograd.grad(first, (layer[0].weight, step)))
    torch.testing.assert_close(found[0], found[1])
    assert all(bool(g.abs().sum() > 0) for g in found[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Inductor's own
@pytest.mark.parametrize("options", CASES, ids=str)
def test_compiled_equals_eager(options):
    compiled_equals_eager("inductor", options)


def test_traced_with_other_shapes_without_a_graph_break():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    quantize_model(model, QuantSpec())
    calibrate(model, [torch.randn(2, 3, 9, 9)])
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")  # dynamic=True: torch 2.14 fails on any Function
    for n, size in ((2, 9), (3, 11), (4, 13)):
        x = torch.randn(n, 3, size, size)
        grads = []
        for run in (model, traced):
            model.zero_grad()
            out = run(x)
            out.sum().backward()
            grads.append([out, *[p.grad.clone() for p in model.parameters()]])
        torch.testing.assert_close(grads[0], grads[1])
