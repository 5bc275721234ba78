"""The noise report of a classifier's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.classify import load_classifier
from qreg_yolo.classify.datasets import load_split
from qreg_yolo.classify.evaluate import evaluate
from qreg_yolo.classify.noise import LIMIT, ClassifierNoiseRequest, cross_entropy, measure, squared_error
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.noise.sweep import Sweep
from qreg_yolo.quant.weight_noise import layer_noise, pooled
from tests.classify.classify_helpers import train
from tests.classify.synthetic_networks import NORMED

QUICK = Sweep(methods=("lsq", "dorefa"), bits=(4,), draws=4)


@pytest.fixture(scope="module")
def trained(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns the checkpoints of a float run and of its 4-bit counterpart, of two epochs."""
    folder = tmp_path_factory.mktemp("noise")
    runs = [train(cifar10, folder / str(bits), bits=bits, epochs=2) for bits in (32, 4)]
    return [run / "weights" / "last.safetensors" for run in runs]


def report(weights: Path, **options: Any) -> dict[str, Any]:
    return measure(
        ClassifierNoiseRequest(weights=weights, **{"sweep": QUICK, "model": NORMED, "verify": False, **options})
    )


def test_the_losses_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 2])
    assert squared_error(logits, labels).tolist() == [1.0, 1.0]
    assert torch.allclose(
        cross_entropy(logits, labels), torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    )


def test_a_float_checkpoint_is_measured_on_its_training_set(trained: list[Path]) -> None:
    found = report(trained[0])
    assert (found["track"], found["label"], found["data"], found["split"]) == ("classify", "fp32", "cifar10", "train")
    assert found["n_images"] == LIMIT < 80
    assert {"commit", "command", "versions", "time"} <= found.keys()
    assert [(row["method"], row["trained"]) for row in found["rows"]] == [("lsq", False), ("dorefa", False)]
    for row in found["rows"]:
        assert set(row["losses"]) == {"mse", "cross_entropy"}
        for loss in row["losses"].values():
            assert loss["predicted"]["value"] > 0
        assert row["gradient_norm"]["lo"] > 0
    lsq = found["rows"][0]
    assert [layer["name"] for layer in lsq["layers"]] == ["first", "second", "head"]
    assert lsq["sigma2"] == pytest.approx(lsq["sigma2_uniform"], rel=0.2)


def test_the_loss_without_noise_is_that_of_evaluation(trained: list[Path], cifar10: Path) -> None:
    test = load_split("cifar10", "test", str(cifar10), verify=False)
    model, _, _ = load_classifier(trained[0], NORMED)
    row = report(trained[0], split="test", limit=1000)["rows"][0]
    assert row["losses"]["cross_entropy"]["loss"] == pytest.approx(evaluate(model, test).loss, rel=1e-5)


def test_a_quantized_checkpoint_has_its_own_row(trained: list[Path], cifar10: Path) -> None:
    found = report(trained[1], split="test", limit=1000)
    model, _, _ = load_classifier(trained[1], NORMED)
    own, *sweep = found["rows"]
    assert (own["trained"], own["method"], own["bits"]) == (True, "lsq", 4)
    assert own["sigma2"] == pooled(layer_noise(model).values()).sigma2
    assert not any(row["trained"] for row in sweep)
    test = load_split("cifar10", "test", str(cifar10), verify=False)
    loss = own["losses"]["cross_entropy"]
    as_trained = loss["loss"] + loss["quantization"]["value"]
    assert as_trained == pytest.approx(evaluate(model, test).loss, rel=1e-4), "weights and inputs as it was trained"


def test_noise_alone_needs_no_data(trained: list[Path], tmp_path: Path) -> None:
    found = report(trained[0], losses=False, data="cifar10", data_dir=str(tmp_path / "nowhere"))
    assert "data" not in found
    assert all(row["losses"] == {} and row["gradient_norm"] is None for row in found["rows"])


def test_subsets_are_fixed(trained: list[Path]) -> None:
    norms = [report(trained[0], limit=limit)["rows"][0]["gradient_norm"]["value"] for limit in (3, 3, 4)]
    assert norms[0] == norms[1] != norms[2]


def test_what_cannot_be_measured(trained: list[Path], cifar100: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit=0: give 1 or more"):
        report(trained[0], limit=0)
    with pytest.raises(ConfigError, match=r"split='val' is not one of: train, test"):
        report(trained[0], split="val")
    with pytest.raises(ConfigError, match="tells the 10 classes"):
        report(trained[0], data="cifar100", data_dir=str(cifar100))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        report(trained[0], data_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        report(tmp_path / "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("text")
    with pytest.raises(WeightsError, match="damaged"):
        report(text)


@pytest.mark.parametrize("method", ["pact", "lsq+"])
def test_other_checkpoints_run(method: str, cifar10: Path, tmp_path: Path) -> None:
    weights = train(cifar10, tmp_path, epochs=1, method=method) / "weights" / "last.safetensors"
    found = report(weights, limit=4, sweep=Sweep(methods=("lsq+",), bits=(1,), draws=4))
    assert [row["method"] for row in found["rows"]] == [method, "lsq+"]
