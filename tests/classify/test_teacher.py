"""A classifier with a teacher: the loss, what a run writes, resuming, two processes, and teachers that are refused."""

from __future__ import annotations

import csv
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from qreg_yolo.classify import runs
from qreg_yolo.classify import train as loop
from qreg_yolo.classify.checkpoint import load_classifier
from qreg_yolo.classify.data import training_batches
from qreg_yolo.classify.setup import load_teacher
from qreg_yolo.config.classification import load
from qreg_yolo.errors import MissingFileError, WeightsError
from qreg_yolo.io import files
from qreg_yolo.io.strict_yaml import ConfigError
from tests.classify.classify_helpers import at_step, command_line, config, prepared, same_results, train
from tests.classify.synthetic_networks import DROPOUT, NORMED, PLAIN
from tests.classify.test_processes import forked, weights
from tests.classify.test_resume import last, options


def no_step(*_: int) -> None:
    """Nothing to show."""


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Returns T^2 KL by PyTorch's own function, whose sum over the batch is divided by its size."""
    softened = [(one / temperature).log_softmax(1) for one in (student, teacher)]
    return temperature**2 * F.kl_div(*softened, reduction="batchmean", log_target=True)


def test_one_epoch_is_that_of_a_plain_loop(trained: list[Path], cifar10: Path) -> None:
    """The loop against a few lines of PyTorch: cross-entropy plus the weighted divergence from the softened teacher."""
    run, by_hand = (prepared(cifar10, bits=32, epochs=8) for _ in range(2))
    distill = replace(run.config.distill, teacher=str(trained[0]), logits=0.5, temperature=3.0)
    run.config = replace(run.config, distill=distill)
    run.teacher = load_teacher(run.config, load_classifier(trained[0], NORMED)[1].classes, torch.device("cpu"))
    loss, _, distilled = loop.train_epoch(run, loop.build_optimizer(run.config, run.model), 0, no_step)
    teacher, _, _ = load_classifier(trained[0], NORMED)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(by_hand.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    sums = [0.0, 0.0]
    for images, labels in training_batches(by_hand.train, batch=16, seed=0, epoch=0, augment=True):
        logits = by_hand.model(images)
        with torch.no_grad():
            wanted = teacher(images)
        parts = [F.cross_entropy(logits, labels), 0.5 * divergence(logits, wanted, 3.0)]
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        sums = [total + part.item() / 5 for total, part in zip(sums, parts, strict=True)]
    for name, tensor in run.model.state_dict().items():
        assert torch.allclose(tensor, by_hand.model.state_dict()[name], rtol=1e-4, atol=1e-6), name
    assert (loss, distilled) == pytest.approx(sums, rel=1e-5)
    assert run.teacher is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in run.teacher.parameters())


def test_a_teacher_equal_to_the_student_has_no_loss(trained: list[Path], cifar10: Path) -> None:
    run = prepared(cifar10, bits=32, weights=str(trained[0]))
    run.config = replace(run.config, distill=replace(run.config.distill, teacher=str(trained[0])))
    run.teacher = load_teacher(run.config, load_classifier(trained[0], NORMED)[1].classes, torch.device("cpu"))
    images = run.train.normalised(run.train.images[:16])
    logits = run.model.eval()(images)
    loss = loop._distillation(run, images, logits)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-5 for p in run.model.parameters())
    other = loop._distillation(run, images, logits.detach().flip(0))
    assert other.item() > 1e-3, "the loss above would be 0 anyway"


def test_what_a_run_with_a_teacher_writes(trained: list[Path], cifar10: Path, tmp_path: Path) -> None:
    plain, taught = (
        train(cifar10, tmp_path / name, epochs=2, **more)
        for name, more in (("plain", {}), ("taught", {"teacher": str(trained[0])}))
    )
    columns = list(rows(plain)[0])
    place = columns.index("train/accuracy_top1") + 1
    assert list(rows(taught)[0]) == [*columns[:place], "train/distill_loss", *columns[place:]]
    assert float(rows(taught)[0]["train/distill_loss"]) > 0
    one, two = (load_file(folder / "weights" / "last.safetensors") for folder in (plain, taught))
    assert one.keys() == two.keys()
    found = load(taught / "config.yaml")
    assert found.distill.sha256 == files.sha256(trained[0])
    _, description, _ = load_classifier(taught / "weights" / "last.safetensors", NORMED)
    assert description.config["distill"] == found.to_dict()["distill"]


def test_a_killed_and_resumed_run_equals_a_straight_one(trained: list[Path], cifar10: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    teacher = tmp_path / "teacher.safetensors"
    content = trained[0].read_bytes()
    teacher.write_bytes(content)
    more = {"model": NORMED, "teacher": teacher}
    train(cifar10, straight, **{**more, "teacher": str(teacher)})
    patch = at_step(12, "os.kill(os.getpid(), signal.SIGKILL)")
    killed = command_line("classify", "train", *options(cifar10, resumed, **more), patch=patch)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    teacher.write_bytes(trained[1].read_bytes())
    with pytest.raises(WeightsError, match="is another file than at the start of the run"):
        runs.resume(last(resumed), {"model": NORMED})
    teacher.unlink()
    with pytest.raises(MissingFileError, match="put it back there"):
        runs.resume(last(resumed), {"model": NORMED})
    teacher.write_bytes(content)
    runs.resume(last(resumed), {"model": NORMED})
    one, two = load_file(last(straight)), load_file(last(resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert same_results(straight / "run", resumed / "run")


def test_two_processes_equal_one(cifar10: Path, tmp_path: Path) -> None:
    teacher = train(cifar10, tmp_path / "teacher", model=PLAIN, bits=32, epochs=1) / "weights" / "last.safetensors"
    more: dict[str, Any] = {"model": PLAIN, "epochs": 2, "lr0": 0.02, "teacher": str(teacher)}
    train(cifar10, tmp_path / "one", **more)
    for process in forked(cifar10, tmp_path / "two", **more):
        assert process.returncode == 0, process.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert torch.allclose(tensor.double(), two[name].double(), rtol=1e-4, atol=1e-6), name
    found = [float(rows(tmp_path / folder / "run")[0]["train/distill_loss"]) for folder in ("one", "two")]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_mixed_precision(trained: list[Path], cifar10: Path, tmp_path: Path) -> None:
    found = [
        float(rows(train(cifar10, tmp_path / amp, epochs=1, amp=amp, teacher=str(trained[0])))[0]["train/distill_loss"])
        for amp in ("off", "bf16")
    ]
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.slow
def test_a_compiled_student(trained: list[Path], cifar10: Path, tmp_path: Path) -> None:
    folders = [
        train(cifar10, tmp_path / str(compiled), epochs=1, compile=compiled, teacher=str(trained[0]))
        for compiled in (False, True)
    ]
    eager, found = (float(rows(folder)[0]["train/distill_loss"]) for folder in folders)
    assert found == pytest.approx(eager, rel=0.02)


def test_teachers_that_are_refused(trained: list[Path], cifar10: Path, cifar100: Path, tmp_path: Path) -> None:
    project = {"project": str(tmp_path / "runs"), "name": "run"}
    with pytest.raises(MissingFileError, match="no teacher 'absent"):
        runs.train(config(cifar10, teacher="absent.safetensors", **project))
    noise = tmp_path / "noise.safetensors"
    noise.write_bytes(b"noise")
    with pytest.raises(WeightsError, match="noise"):
        runs.train(config(cifar10, teacher=str(noise), **project))
    with pytest.raises(ConfigError, match=r"a model of your own, '.*with_norm', .*and this is '.*with_dropout'"):
        runs.train(config(cifar10, teacher=str(trained[0]), model=DROPOUT, **project))
    with pytest.raises(WeightsError, match=r"has 10 classes .*, the student 100 .*trained on the same data"):
        runs.train(config(cifar100, data="cifar100", teacher=str(trained[0]), **project))
    assert not (tmp_path / "runs").exists()
