"""Equations of distillation against loops over float64 numbers, and the identity of the teacher's file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.errors import MissingFileError, WeightsError
from qreg_yolo.io import files
from qreg_yolo.training.distillation import (
    bernoulli_divergence,
    feature_error,
    identified,
    softmax_divergence,
    weighted_mean,
)


def pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits of a student, with a gradient, and of a teacher: -12 to 12."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (24 * torch.rand(*shape, generator=generator).double() - 12 for _ in range(2))
    return student.requires_grad_(), teacher


def test_bernoulli_divergence() -> None:
    student, teacher = pair(0, 50)
    found = bernoulli_divergence(student, teacher)
    found.sum().backward()
    assert student.grad is not None
    for number, (a, b) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        q, p = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert found[number].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert student.grad[number].item() == pytest.approx(q - p, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_softmax_divergence(temperature: float) -> None:
    student, teacher = pair(1, 20, 3, 2)
    found = softmax_divergence(student, teacher, dim=1, temperature=temperature)
    found.sum().backward()
    assert student.grad is not None
    assert found.shape == (20, 2)
    for row, place in np.ndindex(20, 2):
        q, p = (np.exp(one.detach()[row, :, place].numpy() / temperature) for one in (student, teacher))
        q, p = q / q.sum(), p / p.sum()
        expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert found[row, place].item() == pytest.approx(expected, abs=1e-9)
        assert student.grad[row, :, place].tolist() == pytest.approx(list(temperature * (q - p)), abs=1e-9)


def test_equal_logits_have_no_divergence() -> None:
    _, both = pair(2, 20, 3)
    both = both.float()
    assert not bernoulli_divergence(both, both).any()
    assert not softmax_divergence(both, both, dim=1, temperature=4.0).any()


def test_a_mean_without_weights_is_0() -> None:
    values = torch.tensor([1.0, 3.0])
    assert float(weighted_mean(values, torch.tensor([3.0, 1.0]))) == 1.5
    assert float(weighted_mean(values, torch.zeros(2))) == 0


def test_feature_error_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 5, generator=generator).double() for _ in range(2))
    scores = torch.rand(2, 4, 5, generator=generator).double()
    error = own = 0.0
    for b, c, y, x in np.ndindex(2, 3, 4, 5):
        weight = float(scores[b, y, x]) / float(scores.sum()) / 3
        error += weight * float(student[b, c, y, x] - teacher[b, c, y, x]) ** 2
        own += weight * float(teacher[b, c, y, x]) ** 2
    assert float(feature_error(student, teacher, scores, relative=False)) == pytest.approx(error)
    assert float(feature_error(student, teacher, scores, relative=True)) == pytest.approx(error / own)
    assert float(feature_error(7 * student, 7 * teacher, scores, relative=True)) == pytest.approx(error / own)
    assert float(feature_error(teacher, teacher, scores, relative=True)) == 0
    zeros = torch.zeros_like(teacher)
    assert float(feature_error(zeros, zeros, scores, relative=True)) == 0, "a teacher without features"


def test_the_file_of_a_teacher_is_the_one_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identified(DistillOptions()) == DistillOptions()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=r"no teacher 'teacher.pt'. Give the path"):
        identified(DistillOptions(teacher="teacher.pt"))
    path = tmp_path / "teacher.pt"
    path.write_bytes(b"trained")
    began = identified(DistillOptions(teacher="teacher.pt"))
    assert began == DistillOptions(teacher=str(path), sha256=files.sha256(path)), "found from any folder"
    assert identified(began) == began
    path.write_bytes(b"trained on")
    with pytest.raises(WeightsError, match=rf"is another file .*then {str(began.sha256)[:12]}\). Restore that file"):
        identified(began)
    path.unlink()
    with pytest.raises(MissingFileError, match="The run began with it: put it back there"):
        identified(began)
