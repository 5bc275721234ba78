"""Checkpoints: bit by bit, described, refused where they do not fit, and nothing in them is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qreg_yolo.classify import runs
from qreg_yolo.classify.checkpoint import HEADER, load_classifier
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant import Quantizer, quantized_layers
from tests.classify.classify_helpers import config, prepared, train
from tests.classify.synthetic_networks import DIRECT, NORMED, PLAIN


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cifar10: Path) -> Path:
    """Returns the checkpoint of a finished W4A4 run."""
    return train(cifar10, tmp_path_factory.mktemp("trained"), epochs=1) / "weights" / "last.safetensors"


def rewritten(path: Path, out: Path, change: Any = None, tensors: Any = None) -> Path:
    """Writes a copy with another header or other tensors."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER])
    values = load_file(path)
    if change is not None:
        change(header)
    if tensors is not None:
        tensors(values)
    save_file(values, out, {HEADER: json.dumps(header)})
    return out


def test_the_same_run_twice_is_the_same_network(cifar10: Path, tmp_path: Path) -> None:
    files = [train(cifar10, tmp_path / name, epochs=1) / "weights" / "last.safetensors" for name in ("a", "b")]
    tensors = [load_file(path) for path in files]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_finished_checkpoint_holds_the_network_alone(trained: Path) -> None:
    model, description, progress = load_classifier(trained, NORMED)
    assert set(load_file(trained)) == set(model.state_dict())
    assert progress.optimizer is None
    assert description.classes[9] == "class 9"
    assert description.layers == {name: layer.plan for name, layer in quantized_layers(model).items()}
    assert all(q.is_initialized for q in model.modules() if isinstance(q, Quantizer))
    assert description.layers["first"].input.signed is True
    assert description.layers["second"].input.signed is False


@pytest.mark.parametrize("options", [{}, {"method": "dorefa", "weight_only": True}], ids=str)
def test_a_layer_that_calibration_does_not_reach_is_float_in_the_file_and_the_network(
    options: dict[str, Any], cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(cifar10, tmp_path, model=DIRECT, epochs=1, **options)
    path = folder / "weights" / "last.safetensors"
    model, description, _ = load_classifier(path, DIRECT)
    assert set(load_file(path)) == set(model.state_dict())
    assert type(model.second) is torch.nn.Conv2d
    assert description.layers == {name: layer.plan for name, layer in quantized_layers(model).items()}
    assert "no calibration batch called it" in description.skipped["second"]
    assert "second" in json.loads((folder / "qreg.json").read_text())["skipped"]
    assert "second: left in full precision, no calibration batch called it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(version=99), "version 99"),
        (lambda h: h["description"].pop("classes"), "incomplete"),
        (lambda h: h["description"].update(layers={"nowhere": h["description"]["layers"]["first"]}), "'nowhere'"),
        (lambda h: h["description"].update(layers=3), "incomplete"),
        (lambda h: h["description"].update(classes=["a"]), "does not fit the model: 'head.bias'"),
        (lambda h: h["description"].update(layers={}), "has too much: 'first.input_fake_quant"),
        (lambda h: h["description"]["layers"]["first"]["weight"].update(method="x"), "cannot be built"),
    ],
)
def test_descriptions_that_do_not_fit(change: Any, words: str, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_classifier(rewritten(trained, tmp_path / "x.safetensors", change), NORMED)
    assert words in str(error.value)


def test_tensors_that_do_not_fit(trained: Path, tmp_path: Path) -> None:
    lacks = rewritten(trained, tmp_path / "a.safetensors", tensors=lambda t: t.pop("head.bias"))
    with pytest.raises(WeightsError, match=r"lacks 'head.bias'"):
        load_classifier(lacks, NORMED)
    half = rewritten(
        trained, tmp_path / "b.safetensors", tensors=lambda t: t.update({"head.bias": t["head.bias"].half()})
    )
    with pytest.raises(WeightsError, match=r"'head.bias' is torch.float16"):
        load_classifier(half, NORMED)


def test_other_files(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_classifier(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged, cut short"):
        load_classifier(cut)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="is not a classifier of qreg-yolo"):
        load_classifier(tmp_path / "other.safetensors")


def test_code_that_a_checkpoint_names_is_not_imported_unless_it_is_given_too(trained: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.py"
    bomb.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    path = rewritten(trained, tmp_path / "x.safetensors", lambda h: h["description"].update(model="bomb:f"))
    with pytest.raises(ConfigError, match=r"model of your own, 'bomb:f'.*add --model bomb:f"):
        load_classifier(path)
    assert not (tmp_path / "executed").exists()


def test_starting_from_a_checkpoint_of_another_model(
    trained: Path, cifar10: Path, cifar100: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"holds the model '{NORMED}', this command asks for '{PLAIN}'"):
        runs.train(config(cifar10, model=PLAIN, weights=str(trained), project=str(tmp_path)))
    with pytest.raises(WeightsError, match=r"does not fit the model: 'head\.\w+' is torch.float32 \[10.*, the model"):
        runs.train(config(cifar100, data="cifar100", weights=str(trained), project=str(tmp_path)))
    assert not list(tmp_path.iterdir()), "refused before a folder is made"


@pytest.mark.parametrize("bits", [32, 2])
def test_starting_from_a_checkpoint_takes_its_network(bits: int, trained: Path, cifar10: Path) -> None:
    stored = load_file(trained)
    run = prepared(cifar10, bits=bits, weights=str(trained))
    for name, tensor in run.model.state_dict().items():
        if "fake_quant" not in name:
            assert torch.equal(tensor, stored[name]), name


def test_validation_repeats_the_run_and_records_it(trained: Path, cifar10: Path, tmp_path: Path) -> None:
    asked = {"model": NORMED, "verify": False, "project": str(tmp_path)}
    printed = runs.validate(trained, runs.Measuring(**asked))
    table, original = (records.read(p) for p in (tmp_path / "val" / "records.csv", trained.parents[1] / "records.csv"))
    assert set(table["metric"]) == {"accuracy_top1", "loss"}
    assert table["value"].to_list() == original["value"].to_list()[:2]
    assert set(table["weights_sha256"]) == set(original["weights_sha256"])
    assert set(table["split"]) == {"test"}
    assert "on 24 images (cifar10, test, fp32)" in printed
    assert "on 80 images (cifar10, train" in runs.validate(trained, runs.Measuring(**asked, split="train"))


def test_validation_on_other_classes_is_refused(trained: Path, cifar100: Path, tmp_path: Path) -> None:
    asked = runs.Measuring(model=NORMED, data="cifar100", data_dir=str(cifar100), verify=False, project=str(tmp_path))
    with pytest.raises(ConfigError, match=r"the 10 classes of cifar10 apart, cifar100 has 100"):
        runs.validate(trained, asked)
