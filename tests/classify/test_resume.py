"""A run that was killed and resumed equals a straight one, bit for bit; what a kill leaves behind is always usable."""

from __future__ import annotations

import csv
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qreg_yolo.classify import execute, runs
from qreg_yolo.classify.checkpoint import load_classifier
from qreg_yolo.io import files, records
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.convert import quantized_layers
from tests.classify.classify_helpers import TINY, at_step, command_line, same_results, train
from tests.classify.synthetic_networks import DROPOUT, NORMED

KILL = at_step(12, "os.kill(os.getpid(), signal.SIGKILL)")


def options(data_dir: Path, project: Path, **more: Any) -> list[str]:
    given = {**TINY, "data_dir": data_dir, "project": project, "name": "run", "model": DROPOUT, "device": "cpu", **more}
    given.pop("verify")
    return ["--no-verify", *(word for k, v in given.items() for word in (f"--{k.replace('_', '-')}", str(v)))]


def last(project: Path) -> Path:
    return project / "run" / "weights" / "last.safetensors"


@pytest.mark.parametrize("method", ["lsq", pytest.param("pact", marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_equals_a_straight_one(method: str, cifar10: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(cifar10, straight, model=DROPOUT, method=method)
    killed = command_line("classify", "train", *options(cifar10, resumed, method=method), patch=KILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (resumed / "run" / "records.csv").exists()
    runs.resume(last(resumed), {"model": DROPOUT})
    one, two = load_file(last(straight)), load_file(last(resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert same_results(straight / "run", resumed / "run")
    assert len(records.read(resumed / "run" / "records.csv")) == 3
    assert sorted(p.name for p in last(resumed).parent.iterdir()) == ["last.safetensors"]


def test_a_run_that_holds_oscillating_weights_is_resumed_too(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"freeze_codes": 0.005, "dampen": 0.001, "transition_rate": 0.2, "transition_eta": 2.0, "log_noise": True}
    given = {**held, "bits": 2, "lr0": 0.3}
    train(cifar10, tmp_path / "straight", **given)
    checkpoint = stopped(cifar10, tmp_path / "resumed", monkeypatch, **given)
    _, _, progress = load_classifier(checkpoint, NORMED)
    assert {"codes/second", "frozen/second", "transition/w2"} <= progress.extensions["oscillation"].keys()
    runs.resume(checkpoint, {"model": NORMED, "dampen": 0.001})
    one, two = (load_file(last(tmp_path / name)) for name in ("straight", "resumed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(name.startswith(("extensions", "optimizer")) for name in one), "of an unfinished run alone"
    assert same_results(tmp_path / "straight" / "run", tmp_path / "resumed" / "run")
    with (tmp_path / "resumed" / "run" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["frozen/total"]) > 0
    assert rows[0]["transition_lr/w2"] != rows[-1]["transition_lr/w2"]
    assert {"changed/second", "oscillating/total", "near_threshold/head", "dampening/total"} <= rows[0].keys()


def test_a_run_is_resumed_across_its_stages(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full precision, then 8 bits, interrupted there, then 2 bits."""
    given = {"bits": 2, "stages": "0.34:fp32,0.34:w8a8", "epochs": 3}
    train(cifar10, tmp_path / "straight", **given)
    checkpoint = stopped(cifar10, tmp_path / "resumed", monkeypatch, epoch=2, **given)
    network, _, _ = load_classifier(checkpoint, NORMED)
    assert {layer.weight_fake_quant.bits for layer in quantized_layers(network).values()} == {8}
    runs.resume(checkpoint, {"model": NORMED})
    one, two = (load_file(last(tmp_path / name)) for name in ("straight", "resumed"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert same_results(tmp_path / "straight" / "run", tmp_path / "resumed" / "run")
    network, _, _ = load_classifier(last(tmp_path / "resumed"), NORMED)
    assert 2 in {layer.weight_fake_quant.bits for layer in quantized_layers(network).values()}


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_killed_anywhere(trial: int, cifar10: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(cifar10, straight, model=DROPOUT)
    step = random.Random(trial).randrange(6, 20)
    patch = at_step(step, "os.kill(os.getpid(), signal.SIGKILL)")
    assert command_line("classify", "train", *options(cifar10, resumed), patch=patch).returncode == -signal.SIGKILL
    runs.resume(last(resumed), {"model": DROPOUT})
    one, two = load_file(last(straight)), load_file(last(resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def stopped(data_dir: Path, project: Path, monkeypatch: pytest.MonkeyPatch, epoch: int = 2, **options: Any) -> Path:
    """Trains up to an epoch, ends like Ctrl-C after its checkpoint, and returns that."""
    original = execute.outputs.write_results

    def interrupt(folder: Path, rows: Any, zero: Any) -> None:
        original(folder, rows, zero)
        if len(rows) == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute.outputs, "write_results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(data_dir, project, **options)
    return last(project)


def test_a_kill_between_records_and_the_last_file(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execute.files, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(cifar10, tmp_path)
    assert len(records.read(tmp_path / "run" / "records.csv")) == 3
    runs.resume(last(tmp_path), {"model": NORMED})
    table = records.read(tmp_path / "run" / "records.csv")
    assert len(table) == 3, "recorded once"
    assert set(table["weights_sha256"]) == {files.sha256(last(tmp_path))}
    assert [p.name for p in last(tmp_path).parent.iterdir()] == ["last.safetensors"]


def test_a_finished_run_has_nothing_to_resume(cifar10: Path, tmp_path: Path) -> None:
    train(cifar10, tmp_path, epochs=1)
    with pytest.raises(ConfigError, match=r"finished run: nothing is left"):
        runs.resume(last(tmp_path), {"model": NORMED})


def test_a_torn_results_table_is_written_anew(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(cifar10, tmp_path / "straight")
    checkpoint = stopped(cifar10, tmp_path / "resumed", monkeypatch)
    (tmp_path / "resumed" / "run" / "results.csv").write_text("epoch,ti")
    runs.resume(checkpoint, {"model": NORMED})
    assert same_results(tmp_path / "straight" / "run", tmp_path / "resumed" / "run")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bits": 2}, ["weight_bits=4", "2"]),
        ({"act_bits": 8}, ["act_bits=4", "8"]),
        ({"weight_only": True}, ["act_bits=4", "32"]),
        ({"method": "dorefa"}, ["method=lsq", "dorefa"]),
        ({"first_last_bits": "same"}, ["first_last_bits=None", "same"]),
        ({"epochs": 9}, ["epochs=4", "9"]),
        ({"lr0": 0.5}, ["lr0=0.1", "0.5"]),
        ({"dampen": 0.5}, ["dampen=0.0", "0.5"]),
        ({"milestones": "1,2"}, ["milestones", "[1, 2]"]),
        ({"data": "cifar100"}, ["data=cifar10,", "cifar100"]),
        ({"seed": 3}, ["seed=0", "3"]),
        ({"model": "resnet20"}, ["the model", "with_norm", "asks for 'resnet20'"]),
        ({"model": None}, ["model of your own", "add --model"]),
    ],
    ids=str,
)
def test_a_resumed_run_stays_what_it_was(
    given: dict[str, Any], words: list[str], cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = stopped(cifar10, tmp_path, monkeypatch)
    with pytest.raises(ConfigError) as error:
        runs.resume(checkpoint, {k: v for k, v in {"model": NORMED, **given}.items() if v is not None})
    assert all(word in str(error.value) for word in words), error.value


def test_what_agrees_may_be_given_and_threads_may_change(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = stopped(cifar10, tmp_path, monkeypatch)
    given = {"bits": 4, "method": "lsq", "epochs": 4, "threads": 1, "data_dir": str(cifar10), "verify": False}
    assert "last epoch" in runs.resume(checkpoint, {"model": NORMED, **given})


def test_a_moved_run_goes_on_where_it_lies(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = stopped(cifar10, tmp_path / "first", monkeypatch)
    (tmp_path / "first").rename(tmp_path / "second")
    moved = tmp_path / "second" / checkpoint.relative_to(tmp_path / "first")
    runs.resume(moved, {"model": NORMED})
    assert (tmp_path / "second" / "run" / "records.csv").is_file()
    assert not (tmp_path / "first").exists()
    bare = tmp_path / "last.safetensors"
    stopped(cifar10, tmp_path / "third", monkeypatch).rename(bare)
    with pytest.raises(ConfigError, match="does not lie in its run's folder"):
        runs.resume(bare, {"model": NORMED})


def test_the_optimizer_and_the_epochs_are_in_the_file(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, progress = load_classifier(stopped(cifar10, tmp_path, monkeypatch), NORMED)
    assert progress.epoch == len(progress.rows) == 2
    assert progress.optimizer is not None
    assert all("momentum_buffer" in state for state in progress.optimizer.values())
