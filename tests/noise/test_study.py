"""Sweeps of one network: what is asked for, what comes once, and what a row holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qreg_yolo.errors import FileAccessError
from qreg_yolo.noise.jacobian import outputs_of
from qreg_yolo.noise.perturbation import Task
from qreg_yolo.noise.study import NoiseRequest, Plan, Row, gradient_layers, report, study, study_report
from qreg_yolo.noise.sweep import Sweep
from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import plan_quantization, quantize_model
from qreg_yolo.quant.spec import LayerPlan, QuantSpec
from qreg_yolo.quant.weight_noise import layer_noise, pooled
from qreg_yolo.terminal import no_progress
from tests.quant.synthetic_networks import image, mixed

LAYERS = ["stem", "twice", "block.0", "head"]
"""Of `Mixed`, what can be quantized: once each."""


def plan_of(model: nn.Module) -> Plan:
    def plan(spec: QuantSpec) -> Mapping[str, LayerPlan]:
        edges = [name for name in ("stem", "head") if hasattr(model, name)]
        return plan_quantization(model, spec, first_last_layers=edges, pretrained=True).swapped

    return plan


def task_of(model: nn.Module) -> Task:
    def loss(y: Tensor, target: Tensor) -> Tensor:
        return (y - target).square().sum(1)

    return Task(
        outputs_of(model), [(image(batch=3), torch.zeros(3, 5)), (image(seed=1), torch.zeros(2, 5))], {"mse": loss}
    )


def rows_of(model: nn.Module, sweep: Sweep, **more: Any) -> list[Row]:
    plan = plan_of(model)
    return study(model, gradient_layers(model, plan), plan, sweep, **more)


def test_what_several_methods_share_comes_once() -> None:
    sweep = Sweep(methods=("dorefa", "lsq", "pact"), bits=(2, 32))
    found = [(v.method, v.shared_with, v.bits) for v in sweep.variants()]
    assert found == [("dorefa", ("pact",), 2), ("dorefa", ("lsq", "pact"), 32), ("lsq", (), 2)]
    assert [v.bits for v in Sweep(methods=("pact",), bits=(8,)).variants()] == [8]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("lsqq",)}, "method='lsqq' .* Did you mean 'lsq'"),
        ({"bits": (0,)}, "weight_bits=0 is not a width. Use 1 to 8, or 32"),
        ({"bits": (4, 9)}, "weight_bits=9"),
        ({"bits": (33,)}, "weight_bits=33"),
        ({"bits": ()}, "bits='': give at least one"),
        ({"bits": (4, 4)}, "bits='4,4'.*each once"),
        ({"methods": ("lsq", "lsq")}, "methods='lsq,lsq'"),
        ({"draws": 3}, "draws=3: give 4 or more"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
        ({"first_last_bits": 4}, "first_last_bits=4"),
    ],
)
def test_sweeps_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sweep(**options)


def test_rows_of_a_float_network() -> None:
    model = mixed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = rows_of(model, Sweep(methods=("lsq", "pact", "dorefa"), bits=(4, 8, 32), draws=4), task=task_of(model))
    assert [(row.variant.method, row.variant.bits) for row in rows] == [
        ("lsq", 4), ("lsq", 8), ("lsq", 32), ("pact", 4), ("pact", 8),
    ]  # fmt: skip
    assert gradient_layers(model, plan_of(model)) == LAYERS
    lsq, plain, dorefa = rows[0], rows[2], rows[3]
    assert list(lsq.layers) == LAYERS
    assert [noise.bits for noise in lsq.layers.values()] == [8, 4, 4, 8], "edges as in training"
    assert list(dorefa.layers) == ["twice", "block.0"], "PACT and DoReFa leave the edges"
    assert lsq.total == pooled(lsq.layers.values())
    assert (plain.total.sigma2, plain.total.weights, dict(plain.losses)) == (0, 3 * 36 + 144 + 16 + 20, {})
    for row in rows:
        assert row.gradient_norm is not None
        assert list(row.gradients) == LAYERS
        assert sum(row.gradients.values()) == pytest.approx(row.gradient_norm.value)
        assert row.gradient_norm.lo < row.gradient_norm.value
        assert not row.trained
    assert plain.penalty is not None
    assert plain.penalty.value == 0
    assert lsq.losses["mse"].predicted.value > rows[1].losses["mse"].predicted.value > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_relative_norm_does_not_see_a_layers_scale_before_batchnorm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-12), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)
    ).double()
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64)
    model.train()(x)  # BatchNorm's averages
    task = Task(outputs_of(model), [(x, None)], {})
    sweep = Sweep(methods=("lsq",), bits=(32,), draws=4)
    (before,) = study(model, ["0", "4"], plan_of(model), sweep, task=task)
    with torch.no_grad():
        for tensor, factor in (
            (model[0].weight, 2),
            (model[0].bias, 2),
            (model[1].running_mean, 2),
            (model[1].running_var, 4),
        ):
            tensor *= factor
    (after,) = study(model, ["0", "4"], plan_of(model), sweep, task=task)
    assert after.gradients["0"] == pytest.approx(before.gradients["0"] / 4, rel=1e-9)
    assert before.relative_norm is not None
    assert after.relative_norm is not None
    assert after.relative_norm.value == pytest.approx(before.relative_norm.value, rel=1e-9)
    for name, mean in (("gradient_norm", after.gradient_norm), ("relative_norm", after.relative_norm)):
        assert len(after.of_images[name]) == 6
        assert mean is not None
        assert sum(after.of_images[name]) / 6 == pytest.approx(mean.value)


def test_the_networks_own_quantizers_come_first() -> None:
    model = mixed()
    spec = QuantSpec(weight_bits=2, act_bits=4)
    quantize_model(model, spec, first_last_layers=["stem", "head"])
    calibrate(model, [image()])
    model.twice.weight_fake_quant.step_size.data.mul_(1.5)  # as training moves it
    rows = rows_of(model, Sweep(methods=("lsq",), bits=(2,), draws=4), own=spec, task=task_of(model))
    assert [(row.trained, row.variant.bits) for row in rows] == [(True, 2), (False, 2)]
    assert rows[0].layers == layer_noise(model)
    own, anew = rows[0].layers["twice"], rows[1].layers["twice"]
    assert own.step == pytest.approx(1.5 * anew.step)
    assert rows[0].layers["stem"] == rows[1].layers["stem"]


def test_without_a_task_there_is_noise_alone_and_no_bar() -> None:
    model = mixed()
    shown: list[str] = []

    def progress(label: str, total: int) -> Any:
        shown.append(f"{label} {total}")
        return no_progress(label, total)

    rows = rows_of(model, Sweep(bits=(4,)), progress=progress)
    assert shown == []
    assert rows[0].gradient_norm is None
    assert rows[0].losses == {}
    rows_of(model, Sweep(methods=("lsq",), bits=(4, 32), draws=4), task=task_of(model), progress=progress)
    assert shown == [f"gradients and losses {2 * (1 + 2 + 3 * 4) + 2}"]


def test_seeds_draw_alike_and_differ() -> None:
    model = mixed()
    runs = [
        rows_of(model, Sweep(methods=("lsq",), bits=(2,), draws=4, seed=seed), task=task_of(model))[0]
        for seed in (0, 0, 1)
    ]
    values = [run.losses["mse"].gaussian.value for run in runs]
    assert values[0] == values[1] != values[2]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        study(nn.Sequential(nn.ReLU()), [], lambda spec: {}, Sweep())


def test_a_network_that_overflows_is_reported_without_numbers() -> None:
    model = mixed()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e12)
    found = report({}, Sweep(), rows_of(model, Sweep(methods=("lsq",), bits=(2,), draws=4), task=task_of(model)))
    read = json.loads(json.dumps(found, allow_nan=False))
    (only,) = read["rows"]
    assert only["losses"]["mse"]["loss"] is only["losses"]["mse"]["gaussian"]["value"] is None
    assert None in only["of_images"]["gradient_norm"]


def test_the_report_is_json_with_the_numbers_asked_for() -> None:
    model = mixed()
    sweep = Sweep(methods=("lsq", "pact", "dorefa"), bits=(4,), draws=4, seed=5)
    found = report({"weights": "w"}, sweep, rows_of(model, sweep, task=task_of(model)))
    read = json.loads(json.dumps(found, allow_nan=False))
    assert (read["weights"], read["draws"], read["seed"]) == ("w", 4, 5)
    first, second = read["rows"]
    assert {"method", "bits", "sigma2", "sigma2_uniform", "sigma2_clipped", "clipped", "ratio"} <= first.keys()
    assert (second["method"], second["shared_with"], second["bits"]) == ("pact", ["dorefa"], 4)
    assert [layer["name"] for layer in first["layers"]] == LAYERS
    assert all(layer["gradient_norm"] > 0 for layer in first["layers"])
    assert set(first["losses"]["mse"]) == {
        "predicted", "hessian", "shift", "gaussian", "remainder", "uniform", "quantization", "loss",
    }  # fmt: skip
    assert set(first["losses"]["mse"]["gaussian"]) == {"value", "lo", "hi"}


def test_a_folder_that_cannot_be_written_is_named_before_the_images_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = mixed()

    def task() -> Task:
        raise AssertionError("the images were decoded")

    request = NoiseRequest(weights=tmp_path / "a.pt", folder=tmp_path / "file" / "noise")
    with pytest.raises(FileAccessError, match="--out"):
        study_report(
            model, plan_of(model), request, spec=QuantSpec(), about={}, data=None, task=task, progress=no_progress
        )
