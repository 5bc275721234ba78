"""The criterion that joins the distillation losses to the detection loss: gradients, projector, processes."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from qreg_yolo.detect.distillation import (
    without_teacher,
)
from qreg_yolo.errors import WeightsError
from tests.detect.distillation_helpers import HEADS, batch, distilled, distiller, gradient_norm, network
from tests.process_helpers import run_forked

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


@pytest.mark.parametrize("request_", HEADS, ids=["anchor_free", "anchor", "end2end"])
def test_the_detection_loss_stays_what_it_was(request_: dict[str, Any]) -> None:
    plain, student = network(0, **request_), network(0, **request_)
    distiller(student, network(1, **request_), losses="both")
    loss, items = distilled(student)
    plain.model[-1].training = True
    alone, own_items = plain.loss(batch())
    assert torch.equal(loss[:-1], alone.reshape(-1))
    assert loss[-1].item() == pytest.approx(4 * float(items["distill_loss"]), rel=1e-6), "times the images"
    assert list(items) == [*own_items, "distill_loss"]
    assert all(torch.equal(items[name], value) for name, value in own_items.items())
    assert not any(item.requires_grad for item in items.values())


def test_the_teacher_does_not_learn() -> None:
    student, teacher = network(0), network(1)
    before = deepcopy(teacher.state_dict())
    distiller(student, teacher, losses="both")
    student.train().loss(batch())[0].sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules() if isinstance(module, nn.BatchNorm2d))


def test_nothing_of_it_is_a_part_of_the_model() -> None:
    student = network(0, head="anchor")
    names, modules = list(student.state_dict()), len(list(student.modules()))
    distiller(student, network(1, head="anchor"), losses="both", projector=True)
    student.train().loss(batch())
    assert list(student.state_dict()) == names
    assert len(list(student.modules())) == modules


def test_the_projector_has_a_group_without_decay_and_draws_nothing() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    student, teacher = network(0), network(1)
    torch.manual_seed(11)
    found, again = (distiller(student, teacher, losses="both", projector=True) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert found.projector is not None
    assert again.projector is not None
    assert all(map(torch.equal, found.projector.parameters(), again.projector.parameters())), (
        "the same in all processes"
    )
    (group,) = found.optimizer_groups(lr=0.1)
    assert group == {
        "params": list(found.projector.parameters()), "lr": 0.1, "weight_decay": 0.0, "param_group": "projector",
    }  # fmt: skip
    assert distiller(student, teacher, losses="both").optimizer_groups(lr=0.1) == []


def test_the_projector_and_its_waiting_gradients_are_restored() -> None:
    found = distiller(network(0), network(1), losses="both", projector=True)
    assert found.projector is not None
    distilled(found._student)[0].sum().backward()
    state = deepcopy(found.state(waiting=True))
    assert found.state(waiting=False)["gradients"] == {}
    assert len(state["gradients"]) == len(state["projector"]) == 12
    other = distiller(network(0), network(1), losses="both", projector=True)
    assert other.projector is not None
    with torch.no_grad():
        next(other.projector.parameters()).zero_()
    other.restore(state)
    other.restore_gradients(state)
    for one, two in zip(found.projector.parameters(), other.projector.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)
    assert distiller(network(0), network(1)).state(waiting=True) == {}


def test_other_anchors_are_refused_before_the_first_step() -> None:
    student, teacher = network(0, head="anchor"), network(1, head="anchor")
    student.model[-1].anchor_wh.mul_(1.2)
    with pytest.raises(WeightsError, match="--autoanchor"):
        distiller(student, teacher)
    distiller(student, teacher, losses="features")


def test_in_bf16_the_teacher_runs_as_the_student_does() -> None:
    student, teacher = network(0), network(1)
    distiller(student, teacher)
    seen: list[torch.dtype] = []
    teacher.model[0].conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    distilled(student)
    student.yaml["qreg"]["precision"] = "bf16"
    loss, _ = distilled(student)
    assert seen == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("request_", HEADS, ids=["anchor_free", "anchor", "end2end"])
def test_a_compiled_student_has_the_same_loss(request_: dict[str, Any]) -> None:
    """As in Ultralytics' loop: the compiled network gives the outputs, its loss and the teacher run eagerly."""
    student = network(0, **request_)
    distiller(student, network(1, **request_), losses="both", projector=True)
    losses, gradients = [], []
    for call in (student, torch.compile(student, backend="aot_eager")):
        student.eval().zero_grad()
        student.model[-1].training = True
        whole = batch()
        loss, _ = student.loss(whole, call(whole["img"]))
        loss.sum().backward()
        losses.append(loss.detach())
        gradients.append(gradient_norm(student))
    assert torch.allclose(losses[0], losses[1], rtol=1e-4)
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-3)


def test_validation_has_no_column() -> None:
    assert without_teacher(["val/box_loss", "val/distill_loss"]) == ["val/box_loss"]
    labelled: Mapping[str, float] = {"train/box_loss": 1.0, "train/distill_loss": 2.0}
    assert without_teacher(dict(labelled)) == labelled
    assert without_teacher({"val/box_loss": 1.0, "val/distill_loss": 0.0}) == {"val/box_loss": 1.0}


PROCESS = """
import sys, torch
from torch import distributed, nn
from tests.detect.distillation_helpers import batch, distiller, network

torch.set_num_threads(1)
rank = int(sys.argv[1])
distributed.init_process_group("gloo")
student = network(0)
found = distiller(student, network(1), losses="both", projector=True)
parallel = nn.parallel.DistributedDataParallel(student, find_unused_parameters=True)
parallel.eval()
student.model[-1].training = True
whole = batch()
for number in range(2):  # gradients are accumulated
    part = {name: value[2 * rank : 2 * rank + 2] if name == "img" else value for name, value in whole.items()}
    mine = (whole["batch_idx"] // 2) == rank
    part |= {name: whole[name][mine] for name in ("batch_idx", "cls", "bboxes")}
    part["batch_idx"] = part["batch_idx"] - 2 * rank
    parallel(part)[0].sum().backward()
found.average_gradients()
torch.save([p.grad for p in (*found.projector.parameters(), *student.parameters())], sys.argv[2])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_mean_of_both_gradients(tmp_path: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

    def run(rank: int) -> Any:
        env = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return run_forked(PROCESS, rank, tmp_path / f"{rank}.pt", env=env)

    with ThreadPoolExecutor(2) as pool:
        for process in pool.map(run, (0, 1)):
            assert process.returncode == 0, process.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    student = network(0)
    found = distiller(student, network(1), losses="both", projector=True)
    assert found.projector is not None
    student.model[-1].training = True
    whole = batch()
    for rank in (0, 1):
        mine = (whole["batch_idx"] // 2) == rank
        part = {name: whole[name][mine] for name in ("batch_idx", "cls", "bboxes")}
        part |= {"img": whole["img"][2 * rank : 2 * rank + 2], "batch_idx": part["batch_idx"] - 2 * rank}
        student.loss(part)[0].sum().backward()  # twice, of the mean of two
    expected = [p.grad for p in (*found.projector.parameters(), *student.parameters())]
    for a, b, c in zip(one, two, expected, strict=True):
        assert (a is None) == (c is None)
        if a is not None:
            assert c is not None
            assert math.isclose(float((a - b).abs().max()), 0, abs_tol=1e-6)
            assert torch.allclose(a, c, rtol=1e-3, atol=1e-5)
