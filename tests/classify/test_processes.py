"""Data-parallel training: two processes over gloo equal one, and step sizes do not notice how a batch is split."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from qreg_yolo.classify import runs
from qreg_yolo.classify.data import training_batches
from qreg_yolo.classify.processes import Processes
from qreg_yolo.classify.train import build_optimizer
from qreg_yolo.io.strict_yaml import ConfigError
from tests import ROOT
from tests.classify.classify_helpers import TINY, prepared, train
from tests.classify.synthetic_networks import NORMED, PLAIN
from tests.process_helpers import run_forked

PROGRAM = """
import os, sys
from qreg_yolo.cli import main
try:
    main(["classify", "train", *sys.argv[1:]])
except SystemExit as end:
    assert not end.code, end.code
tasks = "/proc/self/task"
names = [open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks)] if os.path.isdir(tasks) else []
assert not any("gloo" in name for name in names), names
"""
"""A training after which no thread of the exchange is left: one can abort the process at its end (seen in 1 of 40)."""


def words(data_dir: Path, project: Path, **more: Any) -> list[str]:
    """Returns the options of a training."""
    given = {**TINY, "data_dir": data_dir, "project": project, "name": "run", "device": "cpu", **more}
    given.pop("verify")
    return [
        "--no-verify",
        *(word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))),
    ]


def torchrun(data_dir: Path, project: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Trains in the two processes that torchrun starts."""
    program = project.with_name("program.py")
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, str(program), *words(data_dir, project, **more)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QREG_YOLO_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def forked(data_dir: Path, project: Path, **more: Any) -> list[subprocess.CompletedProcess[str]]:
    """Trains in two forked processes with the variables that torchrun sets."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "QREG_YOLO_THREADS": "1"}

    def run(rank: str) -> subprocess.CompletedProcess[str]:
        env = {**common, "RANK": rank, "LOCAL_RANK": rank}
        return run_forked(PROGRAM, *words(data_dir, project, **more), env=env)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, "01"))


def weights(project: Path) -> dict[str, torch.Tensor]:
    return load_file(project / "run" / "weights" / "last.safetensors")


def test_two_processes_equal_one_without_batch_norm(cifar10: Path, tmp_path: Path) -> None:
    options = {"model": PLAIN, "epochs": 2, "lr0": 0.02}
    train(cifar10, tmp_path / "one", **options)
    run = torchrun(cifar10, tmp_path / "two", **options)
    assert run.returncode == 0, run.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor.double(), two[name].double(), rtol=1e-4, atol=1e-6), name
    assert run.stdout.count("epoch   1/2") == 1, "one process speaks for all"
    assert run.stdout.count("last epoch") == 1
    assert len((tmp_path / "two" / "run" / "records.csv").read_text().splitlines()) == 4


def test_two_processes_equal_one_that_runs_the_halves_with_their_own_statistics(cifar10: Path, tmp_path: Path) -> None:
    for process in forked(cifar10, tmp_path, model=NORMED, epochs=1):
        assert process.returncode == 0, process.stderr[-3000:]
    two = weights(tmp_path)
    by_hand = prepared(cifar10, epochs=1)
    optimizer = build_optimizer(by_hand.config, by_hand.model)
    start = {name: b.clone() for name, b in by_hand.model.named_buffers() if "running" in name}
    running = [dict(start), dict(start)]
    by_hand.model.train()
    common = {"batch": 16, "seed": 0, "epoch": 0, "augment": True, "world_size": 2}
    for halves in zip(*(training_batches(by_hand.train, **common, rank=rank) for rank in (0, 1)), strict=True):
        optimizer.zero_grad()
        for rank, (images, labels) in enumerate(halves):
            by_hand.model.load_state_dict(running[rank], strict=False)
            (F.cross_entropy(by_hand.model(images), labels) / 2).backward()
            running[rank] = {n: b.clone() for n, b in by_hand.model.named_buffers() if "running" in n}
        optimizer.step()
    expected = by_hand.model.state_dict() | {n: (running[0][n] + running[1][n]) / 2 for n in start}
    for name, tensor in expected.items():
        if "num_batches" not in name:
            assert torch.allclose(tensor.double(), two[name].double(), rtol=1e-4, atol=1e-6), name


def test_step_gradients_do_not_depend_on_how_a_batch_is_split(cifar10: Path) -> None:
    """The mean of the halves' gradients is the whole batch's: nothing in a step's gradient scale counts images."""
    run = prepared(cifar10, model=PLAIN)
    gradients = []
    for world_size in (1, 2, 4):
        run.model.zero_grad()
        for rank in range(world_size):
            common = {"batch": 16, "seed": 0, "epoch": 0, "augment": True}
            images, labels = next(iter(training_batches(run.train, **common, rank=rank, world_size=world_size)))
            (F.cross_entropy(run.model(images), labels) / world_size).backward()
        gradients.append({n: p.grad.clone() for n, p in run.model.named_parameters()})
    steps = [name for name in gradients[0] if name.endswith("step_size")]
    assert len(steps) == 6
    for other in gradients[1:]:
        assert all(torch.allclose(gradients[0][n], other[n], rtol=1e-4, atol=1e-7) for n in gradients[0])


def test_a_batch_that_cannot_be_split(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "joined", lambda device: nullcontext(Processes(size=2)))
    with pytest.raises(ConfigError, match="batch=15 cannot be split among 2 processes"):
        train(cifar10, tmp_path, model=PLAIN, batch=15)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there() -> None:
    from qreg_yolo.classify.processes import device_of

    for name in ("cuda:99", "tpu", "mps"):
        with pytest.raises(ConfigError, match=name):
            device_of(name)
