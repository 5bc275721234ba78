"""The training loop: baselines, optimizer groups, learning rates, what is logged, and numbers that are not finite."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qreg_yolo.classify import load_classifier
from qreg_yolo.classify import train as loop
from qreg_yolo.classify.data import training_batches
from qreg_yolo.classify.evaluate import evaluate
from qreg_yolo.classify.models import MODELS, build_model
from qreg_yolo.quant import Quantizer, quantized_layers
from qreg_yolo.quant.weight_noise import layer_noise, pooled
from qreg_yolo.training.finite import NonFiniteError
from tests.classify.classify_helpers import prepared, train
from tests.classify.synthetic_networks import DROPOUT, NORMED


def no_step(*_: int) -> None:
    """Nothing to show."""


def test_one_epoch_is_that_of_a_plain_loop(cifar10: Path) -> None:
    """The loop in fp32 against the same few lines of PyTorch, bit for bit."""
    run = prepared(cifar10, bits=32, epochs=8, weight_decay=0.01)
    baseline = prepared(cifar10, bits=32, epochs=8)
    loss, accuracy, distilled = loop.train_epoch(run, loop.build_optimizer(run.config, run.model), 0, no_step)
    optimizer = torch.optim.SGD(baseline.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    losses, hits = [], 0
    for images, labels in training_batches(baseline.train, batch=16, seed=0, epoch=0, augment=True):
        logits = baseline.model(images)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        losses.append(float(F.cross_entropy(logits.detach(), labels)))
        hits += int((logits.argmax(1) == labels).sum())
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, baseline.model.state_dict()[name]), name
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert accuracy == hits / 80
    assert distilled == 0


def test_twins_share_initial_weights_and_data(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    start: dict[int, dict[str, torch.Tensor]] = {}
    for bits in (32, 4):
        run = prepared(cifar10, model=DROPOUT, bits=bits, seed=5)
        start[bits] = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        images: list[torch.Tensor] = []
        run.model.register_forward_pre_hook(lambda _, inputs, images=images: images.append(inputs[0]))
        loop.train_epoch(run, loop.build_optimizer(run.config, run.model), 0, no_step)
        seen[bits] = images
        start[bits]["draws"] = torch.rand(3)  # dropout has drawn as much
    assert all(torch.equal(start[4][name], tensor) for name, tensor in start[32].items())
    assert all(torch.equal(a, b) for a, b in zip(seen[32], seen[4], strict=True))


def test_calibration_draws_nothing_and_sees_the_first_images(cifar10: Path) -> None:
    torch.manual_seed(11)
    before = torch.rand(1)
    torch.manual_seed(11)
    run = prepared(cifar10, bits=4)
    torch.manual_seed(11)
    first = next(iter(training_batches(run.train, batch=16, seed=0, epoch=0, augment=True)))[0]
    assert torch.equal(torch.rand(1), before)
    layer = quantized_layers(run.model)["first"]
    assert layer.input_fake_quant.spec.signed, "normalised images have both signs"
    batches = list(training_batches(run.train, batch=16, seed=0, epoch=0, augment=True))[:4]
    expected = sum(2 * images.abs().mean() / 127**0.5 for images, _ in batches) / 4
    assert torch.allclose(layer.input_fake_quant.step_size, expected)
    assert first.shape == (16, 3, 32, 32)


def test_quantizers_have_groups_of_their_own(cifar10: Path) -> None:
    run = prepared(cifar10, bits=4, method="pact", first_last_bits="same", weight_decay=0.02)
    optimizer = loop.build_optimizer(run.config, run.model)
    decays = {group["param_group"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"network": 0.02, "quant_clip": 0.02}
    run = prepared(cifar10, bits=4, weight_decay=0.02)
    optimizer = loop.build_optimizer(run.config, run.model)
    decays = {group["param_group"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"network": 0.02, "quant_step": 0.0}
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in run.model.parameters())
    steps = {id(p) for m in run.model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == steps
    assert all(group["momentum"] == 0.9 and not group["nesterov"] for group in optimizer.param_groups)


def test_the_rate_falls_at_the_milestones(cifar10: Path, tmp_path: Path) -> None:
    folder = train(cifar10, tmp_path, epochs=5, milestones="2,4", gamma=0.5, lr0=0.2)
    assert column(folder, "lr/pg0") == [0.2, 0.2, 0.1, 0.1, 0.05]


def column(folder: Path, name: str) -> list[float]:
    with (folder / "results.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_what_is_logged_each_epoch(cifar10: Path, tmp_path: Path) -> None:
    folder = train(cifar10, tmp_path, epochs=2)
    header = (folder / "results.csv").read_text().splitlines()[0].split(",")
    assert header[:7] == [
        "epoch", "time", "train/loss", "train/accuracy_top1", "val/loss", "metrics/accuracy_top1", "lr/pg0",
    ]  # fmt: skip
    expected = [f"{kind}{layer}" for layer in ("first", "second", "head") for kind in ("noise/", "noise_ratio/")]
    expected += [f"step/{layer}.{side}" for layer in ("first", "second", "head") for side in ("weight", "input")]
    assert sorted(header[7:]) == sorted(expected)
    assert column(folder, "epoch") == [1, 2]
    assert column(folder, "time")[0] < column(folder, "time")[1]
    plain = train(cifar10, tmp_path / "fp32", epochs=1, bits=32, log_noise=True)
    assert len((plain / "results.csv").read_text().splitlines()[0].split(",")) == 7


def test_everything_about_the_noise_is_logged_where_that_is_asked_for(cifar10: Path, tmp_path: Path) -> None:
    folder = train(cifar10, tmp_path, epochs=1, log_noise=True, method="pact", first_last_bits="same")
    header = (folder / "results.csv").read_text().splitlines()[0].split(",")[7:]
    assert {f"{kind}/{name}" for kind in ("noise_uniform", "noise_kurtosis") for name in ("second", "total")} <= {
        *header
    }
    assert len(header) == 3 + (8 + 3) * (3 + 1), "three inputs have steps, DoReFa's weights none"
    assert {f"{kind}/total" for kind in ("changed", "oscillating", "near_threshold")} <= {*header}
    model, _, _ = load_classifier(folder / "weights" / "last.safetensors", NORMED)
    assert column(folder, "noise/total") == [pytest.approx(pooled(layer_noise(model).values()).sigma2, rel=1e-4)]
    assert column(folder, "noise_uniform/second") == [pytest.approx((2 / 15) ** 2 / 12, rel=1e-4)]


@pytest.mark.parametrize("method", ["lsq", "lsq+", "dorefa", "pact"])
def test_the_noise_is_that_of_the_fake_quantized_weights(method: str, cifar10: Path) -> None:
    run = prepared(cifar10, bits=3, method=method, first_last_bits="same")
    found = loop.layer_columns(run.model, log_noise=False)
    layer = quantized_layers(run.model)["second"]
    plain = layer.weight.detach().double()
    quantized = layer.weight_fake_quant(layer.weight).detach().double()
    if not method.startswith("lsq"):  # DoReFa's levels span [-1, 1]
        plain = plain.tanh() / plain.tanh().abs().max()
        quantized = quantized / quantized.abs().max()
    error = quantized - plain
    assert found["noise/second"] == pytest.approx(float(error.var(correction=0)), rel=1e-4)
    assert found["noise_ratio/second"] == pytest.approx(
        float(error.var(correction=0) / plain.var(correction=0)), rel=1e-4
    )


def test_a_fine_grid_has_the_uniform_noise_of_its_step(cifar10: Path) -> None:
    run = prepared(cifar10, model="resnet18", bits=8, first_last_bits="same")
    for name, noise in layer_noise(run.model).items():
        if name.startswith("blocks") and "conv" in name:
            assert noise.sigma2 == pytest.approx(noise.step**2 / 12, rel=0.02)


def test_a_run_that_is_not_finite_stops_and_names_the_layer(cifar10: Path, tmp_path: Path, monkeypatch: Any) -> None:
    original = loop.train_epoch

    def poisoned(run: loop.Run, optimizer: torch.optim.SGD, epoch: int, on_step: loop.Step) -> tuple[float, float]:
        if epoch == 1:
            with torch.no_grad():
                run.model.second.weight.fill_(torch.finfo(torch.float32).max)
        return original(run, optimizer, epoch, on_step)

    monkeypatch.setattr(loop, "train_epoch", poisoned)
    with pytest.raises(NonFiniteError, match=r"in epoch 2.*layer 'second' \(Conv2d\).*last good checkpoint is .*last"):
        train(cifar10, tmp_path, bits=32)
    assert column(tmp_path / "run", "epoch") == [1]


def test_a_weight_is_quantized_once_per_evaluation(cifar10: Path, tmp_path: Path) -> None:
    from qreg_yolo.classify.datasets import load_split

    folder = train(cifar10, tmp_path, epochs=1)
    model, *_ = load_classifier(folder / "weights" / "last.safetensors", NORMED)
    calls: Counter[Any] = Counter()
    for layer in quantized_layers(model).values():
        layer.weight_fake_quant.register_forward_hook(lambda module, *_: calls.update([module]))  # type: ignore[union-attr]
    test = load_split("cifar10", "test", str(cifar10), verify=False)
    assert len(test) > 3
    evaluate(model, test, batch=3)
    assert set(calls.values()) == {1}


def test_a_checkpoint_gives_the_numbers_of_its_run(cifar10: Path, tmp_path: Path) -> None:
    from qreg_yolo.classify.datasets import load_split

    folder = train(cifar10, tmp_path, epochs=2, amp="bf16")
    model, description, _ = load_classifier(folder / "weights" / "last.safetensors", NORMED)
    test = load_split("cifar10", "test", str(cifar10), verify=False)
    reached = evaluate(model, test, precision=description.precision)
    assert description.precision == "bf16"
    assert column(folder, "val/loss")[-1] == float(f"{reached.loss:.6g}")
    assert column(folder, "metrics/accuracy_top1")[-1] == float(f"{reached.accuracy:.6g}")
    assert not model.training


def test_bf16_keeps_quantizers_and_loss_in_fp32(cifar10: Path) -> None:
    run = prepared(cifar10, bits=4, amp="bf16")
    seen: list[torch.dtype] = []
    run.model.second.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    loop.train_epoch(run, loop.build_optimizer(run.config, run.model), 0, no_step)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in run.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        ("cifar10", 4),
        ("cifar100", 32),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("cifar10", 32), ("cifar100", 4))),
    ],
)
@pytest.mark.parametrize("name", ["resnet20", *(pytest.param(n, marks=pytest.mark.slow) for n in list(MODELS)[1:])])
def test_twenty_steps_of_every_network(name: str, bits: int, data: str, request: Any) -> None:
    run = prepared(request.getfixturevalue(data), model=name, data=data, bits=bits, batch=4, lr0=0.01)
    before = build_model(name, len(run.train.classes), 0).state_dict()
    loss, *_ = loop.train_epoch(run, loop.build_optimizer(run.config, run.model), 0, no_step)
    assert 0 < loss < 20
    layers = quantized_layers(run.model)
    assert bool(layers) == (bits == 4)
    if bits == 4:
        widths = {fqn: (layer.plan.weight.bits, layer.plan.input.bits) for fqn, layer in layers.items()}
        assert {fqn for fqn, width in widths.items() if width == (8, 8)} == {"conv", "fc"}
        assert {width for fqn, width in widths.items() if fqn not in ("conv", "fc")} == {(4, 4)}
    changed = [n for n, p in run.model.named_parameters() if n in before and not torch.equal(p.detach(), before[n])]
    assert len(changed) == sum(1 for n, _ in run.model.named_parameters() if n in before)


def test_the_network_learns_the_tiny_set(cifar10: Path, tmp_path: Path) -> None:
    folder = train(cifar10, tmp_path, epochs=12, lr0=0.02, aug="none")
    losses = column(folder, "train/loss")
    assert losses[-1] < losses[0]


def test_one_sided_quantizers_on_signed_images_are_warned_about(
    cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(cifar10, tmp_path / "a", epochs=1, method="pact", first_last_bits="same")
    assert "WARNING: the activations of these layers are clipped at 0" in (said := capsys.readouterr().out)
    assert "negative too: first. " in said
    for number, options in enumerate(({"method": "pact"}, {"method": "lsq"})):
        train(cifar10, tmp_path / str(number), epochs=1, **options)
        assert "WARNING" not in capsys.readouterr().out


def test_tensorboard_gets_every_column_where_it_is_installed(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    from qreg_yolo.classify import outputs

    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "run")

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            written.append((name, value, epoch))

        def flush(self) -> None:
            pass

    monkeypatch.setattr(outputs, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    folder = train(cifar10, tmp_path, epochs=2)
    header = (folder / "results.csv").read_text().splitlines()[0].split(",")
    assert [name for name, _, epoch in written if epoch == 2] == header[2:]


def test_validation_every_third_epoch_and_at_the_end(cifar10: Path, tmp_path: Path) -> None:
    every = train(cifar10, tmp_path / "every", epochs=4, milestones=[2])
    third = train(cifar10, tmp_path / "third", epochs=4, milestones=[2], val_every=3)
    columns = ("train/loss", "val/loss", "metrics/accuracy_top1")
    rows = {
        folder: list(csv.DictReader((folder / "results.csv").read_text().splitlines())) for folder in (every, third)
    }
    for epoch, (one, other) in enumerate(zip(rows[every], rows[third], strict=True), 1):
        validated = {name: one[name] for name in columns}
        assert {name: other[name] for name in columns} == (
            validated if epoch in (3, 4) else {"train/loss": one["train/loss"], **dict.fromkeys(columns[1:], "nan")}
        )
