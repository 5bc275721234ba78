"""QReg's theorem 3.1 (arXiv 2206.12372), corrected: where it is exact, and what the term that it drops is worth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qreg_yolo.noise.intervals import Interval, mean_interval
from qreg_yolo.noise.jacobian import Weights, outputs_of, squared_norms
from qreg_yolo.noise.perturbation import LossIncrease, Task, loss_increases, passes, rises_along, second_order


def squared_error(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().sum(1)


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    return -(torch.log_softmax(y, 1) * target.softmax(1)).sum(1)


def setting(model: nn.Module, n_out: int, *, samples: int = 6) -> tuple[Task, dict[str, Tensor]]:
    """Returns the model on random inputs and targets, and its weights; float64."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().requires_grad_(False).parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).double() / parameter.shape[-1] ** 0.5
    x, target = (torch.randn(samples, n, generator=generator).double() for n in (5, n_out))
    batches = [(x, target)]
    weights = {name: m.weight.detach() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return Task(outputs_of(model), batches, {"mse": squared_error, "ce": cross_entropy}), weights


def moved(weights: Weights, deviation: float) -> dict[str, Tensor]:
    """Returns weights away from the given ones by noise of that standard deviation in every layer."""
    generator = torch.Generator().manual_seed(9)
    found = {}
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=generator).double()
        found[name] = weight + noise * deviation / noise.std(correction=0)
    return found


def penalty(task: Task, weights: Weights, deviation: float) -> float:
    """Returns ``sum_l sigma_l^2 ||dy/dw_l||_F^2``, the mean over the samples."""
    generator = torch.Generator()
    norms = torch.cat([squared_norms(task.outputs, weights, x, generator) for x, _ in task.batches])
    return deviation**2 * float(norms.sum(1).mean())


def increases(task: Task, weights: Weights, deviation: float, draws: int) -> dict[str, LossIncrease]:
    generator = torch.Generator().manual_seed(1)
    return loss_increases(task, weights, moved(weights, deviation), draws=draws, generator=generator)


def holds(interval: Interval, value: float) -> bool:
    return interval.lo <= value <= interval.hi


def mlp(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 6), activation, nn.Linear(6, 3))


def test_a_linear_model_is_exact() -> None:
    """For y = W x the rise is |D x|^2 for each draw D, its mean sigma^2 |x|^2 per output, with nothing dropped."""
    task, weights = setting(nn.Sequential(nn.Linear(5, 3)), 3)
    x = torch.cat([batch for batch, _ in task.batches])
    noise = {"0": torch.randn(3, 5, generator=torch.Generator().manual_seed(2)).double()}
    before = [task.outputs(weights, batch) for batch, _ in task.batches]
    spread, hessian = second_order(task, weights, noise, lambda count: None)["mse"]
    rise, shift = rises_along(task, weights, noise, before, lambda count: None)["mse"]
    by_hand = float((x @ noise["0"].T).square().sum(1).mean())
    assert rise == pytest.approx(by_hand, rel=1e-12)
    assert spread == pytest.approx(by_hand, rel=1e-12)
    assert abs(hessian) < 1e-12
    assert abs(shift) < 1e-12
    assert penalty(task, weights, 0.3) == pytest.approx(0.09 * 3 * float(x.square().sum(1).mean()), rel=1e-12)
    found = increases(task, weights, 0.3, draws=40)["mse"]
    assert found.predicted.value == pytest.approx(found.gaussian.value, rel=1e-10)
    assert holds(found.gaussian, penalty(task, weights, 0.3))
    assert holds(found.uniform, penalty(task, weights, 0.3))


def test_a_relu_network_rises_by_the_penalty_and_the_hessian_term() -> None:
    task, weights = setting(mlp(nn.ReLU()), 3)
    deviation = 1e-4  # no unit's sign changes
    found = increases(task, weights, deviation, draws=60)["mse"]
    expected = penalty(task, weights, deviation)
    assert holds(found.predicted, expected), "the Gauss-Newton part is the theorem's sum of squared gradients"
    assert holds(found.hessian, 0.0), "piecewise multilinear in the weights: no diagonal second derivative"
    assert holds(found.gaussian, expected)
    assert holds(found.uniform, expected)
    assert found.predicted.value + found.hessian.value == pytest.approx(found.gaussian.value, rel=1e-4)
    assert abs(found.hessian.value) > 0.01 * expected, "single draws have it; it is 0 on average alone"
    assert (found.gaussian.hi - found.gaussian.lo) < 0.6 * expected, "a wide interval would hold anything"


def test_dropping_the_second_term_is_wrong_for_a_smooth_network() -> None:
    """B.5, row 20: of the same order as the penalty, and here it turns the sign of the rise."""
    task, weights = setting(mlp(nn.Tanh()), 3)
    far = [(x, 20 * task.outputs(weights, x).detach()) for x, _ in task.batches]
    task = Task(task.outputs, far, {"mse": squared_error})
    for deviation in (1e-2, 1e-3):
        found = increases(task, weights, deviation, draws=40)["mse"]
        whole = found.predicted.value + found.hessian.value
        assert not holds(found.gaussian, penalty(task, weights, deviation)), "the theorem as it stands is refuted"
        assert holds(found.gaussian, whole)
        assert found.hessian.value / found.predicted.value == pytest.approx(
            found.shift.value / found.predicted.value, rel=0.05
        )
        assert abs(found.remainder.value) < 0.05 * abs(whole)


def test_kinks_of_relu_are_of_the_same_order_and_in_no_derivative() -> None:
    """Of many units some have a kink within reach of any noise: E[relu(a + e)] - relu(a) > 0 there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 400), nn.ReLU(), nn.Linear(400, 1, bias=False))
    task, weights = setting(model, 1, samples=200)
    model[2].weight.data.abs_()  # so that the kinks add up
    weights["2"] = model[2].weight.detach()
    low = [(x, task.outputs(weights, x).detach() - 10.0) for x, _ in task.batches]
    task = Task(task.outputs, low, {"mse": squared_error})
    shares = []
    for deviation in (1e-2, 1e-3):
        found = increases(task, weights, deviation, draws=30)["mse"]
        assert found.shift.lo > found.hessian.hi, "what the outputs move is not what the second derivative says"
        assert abs(found.remainder.value) < 0.2 * found.shift.value
        shares.append(found.shift.value / found.predicted.value)
    assert shares[0] == pytest.approx(shares[1], rel=0.3), "of the order of sigma^2, as the penalty is"
    assert min(shares) > 0.1


def test_cross_entropy_has_the_gauss_newton_form_of_the_softmax() -> None:
    """1/2 sum_l sigma_l^2 tr(J^T H J) with H = diag(p) - p p^T, as the trace of its factor's pull-back."""
    task, weights = setting(mlp(nn.Tanh()), 3)
    deviation, expected = 0.01, 0.0
    for x, _ in task.batches:
        for sample in x:
            p = task.outputs(weights, sample[None])[0].softmax(0).detach()
            factor = p.sqrt().diag() - torch.outer(p, p.sqrt())
            jacobian = torch.func.jacrev(lambda w, s=sample: task.outputs(w, s[None])[0])(dict(weights))
            for part in jacobian.values():
                expected += float((factor.T @ part.flatten(1)).square().sum()) * deviation**2 / 2 / 6
    found = increases(task, weights, deviation, draws=40)["ce"]
    assert holds(found.predicted, expected)
    assert found.predicted.value + found.shift.value == pytest.approx(found.gaussian.value, rel=0.02)


def test_the_error_itself_is_measured_with_an_interval_over_the_samples() -> None:
    task, weights = setting(mlp(nn.ReLU()), 3)
    target = moved(weights, 0.1)
    found = loss_increases(task, weights, target, draws=4, generator=torch.Generator().manual_seed(0))["mse"]
    rises = [
        squared_error(task.outputs(target, x), t) - squared_error(task.outputs(weights, x), t) for x, t in task.batches
    ]
    expected = mean_interval(torch.cat(rises).tolist())
    assert found.quantization.value == pytest.approx(expected.value)
    assert found.quantization.hi == pytest.approx(expected.hi)
    assert found.loss == pytest.approx(
        float(torch.cat([squared_error(task.outputs(weights, x), t) for x, t in task.batches]).mean())
    )


def test_layers_without_noise_stay_and_the_work_is_counted() -> None:
    task, weights = setting(mlp(nn.ReLU()), 3)
    only = {**weights, "0": moved(weights, 0.1)["0"]}
    done: list[int] = []
    generator = torch.Generator().manual_seed(0)
    task = Task(
        task.outputs, [(x[:4], t[:4]) for x, t in task.batches] + [(x[4:], t[4:]) for x, t in task.batches], task.losses
    )
    found = loss_increases(task, weights, only, draws=4, generator=generator, advance=done.append)
    assert sum(done) == passes(task, 4)
    assert found["mse"].predicted.value > 0
    nothing = loss_increases(task, weights, weights, draws=4, generator=generator)
    for name, value in nothing["ce"].to_dict().items():
        assert name == "loss" or value == {"value": 0, "lo": 0, "hi": 0}
