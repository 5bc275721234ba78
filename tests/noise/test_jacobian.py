"""Gradients to the weights: norms against autograd sample by sample, derivatives against finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qreg_yolo.noise import jacobian
from qreg_yolo.noise.jacobian import (
    StraightThrough,
    along,
    first_derivative,
    jvp,
    outputs_of,
    second_derivative,
    squared_norms,
    weights_exposed,
)
from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import distinct_layers, quantize_model, quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from tests.quant.synthetic_networks import image, mixed


class Net(nn.Module):
    """Convolution, BatchNorm, an activation, a linear layer."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.tanh, n: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.activation = activation
        self.head = nn.Linear(4, n)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.norm(self.conv(x))).mean((2, 3)))


def net(activation: Callable[[Tensor], Tensor] = torch.tanh, n: int = 3, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(activation, n).double().eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach() for name, layer in distinct_layers(model).items()}


def by_autograd(model: nn.Module, x: Tensor) -> Tensor:
    """Returns ``||dy_i/dw_l||_F^2`` one output of one sample at a time, `(b, layers)`."""
    parameters = [layer.weight for layer in distinct_layers(model).values()]
    found = torch.zeros(len(x), len(parameters), dtype=x.dtype)
    for i, sample in enumerate(x):
        for output in model(sample[None])[0]:
            grads = torch.autograd.grad(output, parameters, retain_graph=True)
            found[i] += torch.stack([grad.square().sum() for grad in grads])
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_exact_norms_are_those_of_autograd() -> None:
    model, x = net(), image(batch=5).double()
    found = squared_norms(outputs_of(model), weights_of(model), x, generator())
    assert torch.allclose(found, by_autograd(model, x))


def test_pieces_of_the_work_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(), image(batch=5).double()
    expected = by_autograd(model, x)
    for budget in (1, 250):
        monkeypatch.setattr(jacobian, "_BUDGET", budget)
        assert torch.allclose(squared_norms(outputs_of(model), weights_of(model), x, generator()), expected)


def test_hutchinsons_estimate_is_unbiased() -> None:
    model, x = net(n=40), image(batch=2).double()
    assert jacobian.EXACT_OUTPUTS < 40
    estimates = torch.stack(
        [squared_norms(outputs_of(model), weights_of(model), x, generator(seed)) for seed in range(60)]
    )
    exact, mean = by_autograd(model, x), estimates.mean(0)
    error = estimates.std(0) / len(estimates) ** 0.5
    assert not torch.allclose(estimates[0], estimates[1])
    assert bool(((mean - exact).abs() < 4 * error + 1e-9).all())
    assert bool((error < 0.1 * exact).all()), "an estimate that says nothing would pass"


def test_derivatives_along_a_direction_are_those_of_finite_differences() -> None:
    model, x = net(), image(batch=3).double()
    weights, outputs = weights_of(model), outputs_of(model)
    direction = {name: torch.randn(w.shape, generator=generator(1)).double() for name, w in weights.items()}
    y, dy, d2y = along(outputs, weights, x, direction)

    def at(t: float) -> Tensor:
        with torch.no_grad():
            return outputs({name: w + t * direction[name] for name, w in weights.items()}, x)

    step = 1e-4
    assert torch.equal(y, at(0.0))
    assert torch.allclose(dy, (at(step) - at(-step)) / (2 * step), atol=1e-6)
    assert torch.allclose(d2y, (at(step) - 2 * at(0.0) + at(-step)) / step**2, atol=1e-5)


def test_derivatives_of_a_function_of_the_outputs() -> None:
    y, d = torch.randn(2, 4, 3, generator=generator(2)).double()

    def cubes(z: Tensor) -> Tensor:
        return (z**3).sum(1)

    assert torch.allclose(first_derivative(cubes, y, d), (3 * y**2 * d).sum(1))
    assert torch.allclose(second_derivative(cubes, y, d), (6 * y * d**2).sum(1))


@pytest.mark.parametrize("method", ["lsq", "lsq+", "pact", "dorefa"])
def test_input_quantizers_pass_derivatives_straight_through(method: str) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 2))
    quantize_model(model, QuantSpec(method=method, weight_bits=32, act_bits=2))
    x = torch.randn(50, 6, generator=generator(3))
    calibrate(model, [x])
    quantizer = quantized_layers(model)["1"].input_fake_quant
    assert quantizer is not None
    straight, positive = StraightThrough(quantizer), x.relu()
    assert torch.equal(straight(positive), quantizer(positive))
    _, slope = jvp(straight, (positive,), (torch.ones_like(x),))
    assert torch.equal(slope, (~quantizer.clipped(positive)).float())
    assert method not in ("lsq", "dorefa") or bool((slope == 0).any()), "nothing is clipped: the mask was not seen"


def test_exposed_weights_are_put_back_with_modes_and_quantizers() -> None:
    model = mixed().train()
    quantize_model(model, QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, [image()])
    reference = copy.deepcopy(model)
    names = list(model.state_dict())
    with weights_exposed(model):
        assert not model.training
        assert all(layer.weight_fake_quant is None for layer in quantized_layers(model).values())
        float_outputs = outputs_of(model)(weights_of(model), image())
        quantized = {
            name: layer.weight_fake_quant(layer.weight).detach()
            for name, layer in distinct_layers(reference).items()
            if getattr(layer, "weight_fake_quant", None) is not None
        }
        quantized_outputs = outputs_of(model)({**weights_of(model), **quantized}, image())
    assert model.training
    assert list(model.state_dict()) == names
    assert all(layer.weight_fake_quant is not None for layer in quantized_layers(model).values())
    with torch.no_grad():
        assert torch.allclose(quantized_outputs, reference.eval()(image()), atol=1e-6)
    assert not torch.allclose(float_outputs, quantized_outputs, atol=1e-4)


def test_a_quantized_network_has_gradients_through_its_inputs() -> None:
    model = mixed()
    quantize_model(model, QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, [image()])
    with weights_exposed(model):
        weights = weights_of(model)
        norms = squared_norms(outputs_of(model), weights, image(batch=3), generator())
        _, dy, _ = along(outputs_of(model), weights, image(batch=3), weights)
    assert norms.shape == (3, len(weights))
    assert bool((norms > 0).all())
    assert bool(dy.abs().max() > 0)
