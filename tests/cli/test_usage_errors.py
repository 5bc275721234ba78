"""Wrong usage: exit 2, one message that names the fault and the remedy, before anything heavy is done."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest

from qreg_yolo.cli import main
from qreg_yolo.cli.robustness import parted
from qreg_yolo.errors import MissingFileError
from qreg_yolo.io.strict_yaml import ConfigError
from tests.cli.conftest import Outcome, assert_refused, qreg_yolo

TRAIN = [
    (["--method", "lqs"], ["method='lqs'", "Did you mean 'lsq'"]),
    (["--method", "lsqplus"], ["method='lsqplus'", "Did you mean 'lsq+'"]),
    (["--method", "lsq+", "--signed", "signed"], ["signed='signed'", "method='lsq+'", "leave signed at 'auto'"]),
    (["--bits", "0"], ["bits=0", "1 to 8, or 32"]),
    (["--bits", "9"], ["bits=9", "1 to 8, or 32"]),
    (["--bits", "3.5"], ["--bits"]),
    (["--bits", "abc"], ["--bits"]),
    (["--bits", "-4"], ["bits=-4"]),
    (["--weight-bits", "16"], ["weight_bits=16"]),
    (["--act-bits", "0"], ["act_bits=0"]),
    (["--bitz", "4"], ["--bitz", "--bits"]),
    (["--average", "2"], ["average=2 is out of range"]),
    (["--average", "no"], ["average='no' is not a number"]),
    (["--edge-bits", "4"], ["first_last_bits='4'", "8, 32, same"]),
    (["--edge-bits", "smae"], ["Did you mean 'same'"]),
    (["--signed", "maybe"], ["signed='maybe'", "auto, signed, unsigned"]),
    (["--signed", "signed", "--method", "pact"], ["signed", "pact"]),
    (["--activation", "gelu"], ["activation='gelu'", "silu, relu"]),
    (["--model", ""], ["model=''"]),
    (["--model", "yolov5n.pt"], ["yolov5n.pt", "--weights"]),
    (["--model", "yolov5n"], ["'yolov5n'", ".yaml"]),
    (["--model", "yolov5q.yaml"], ["yolov5q.yaml", "yolov5n.yaml"]),
    (["--data", "vco"], ["'vco'", "Did you mean 'voc'"]),
    (["--data", "nowhere.yaml"], ["nowhere.yaml"]),
    (["--weights", "nowhere.pt"], ["nowhere.pt"]),
    (["--seed", "-1"], ["seed=-1"]),
    (["--seed", "x"], ["--seed"]),
    (["--seed", "1", "seed=2"], ["--seed 1", "seed=2"]),
    (["--data", "demo", "data=voc"], ["--data demo", "data=voc"]),
    (["--threads", "0"], ["threads=0"]),
    (["--threads", "two"], ["--threads"]),
    (["--weight-only", "--act-bits", "4"], ["weight_only", "act_bits=4"]),
    (["--per-channel=yes"], ["--per-channel"]),
    (["--online=yes"], ["--online"]),
    (["epcohs=1"], ["'epcohs'", "Did you mean 'epochs'"]),
    (["imgsz=abc"], ["imgsz='abc'"]),
    (["imgsz=0"], ["imgsz=0"]),
    (["epochs=0"], ["epochs=0"]),
    (["epochs="], ["epochs= has no value"]),
    (["name="], ["name= has no value"]),
    (["name=.."], ["name='..'", "project"]),
    (["name=a\nb"], ["cannot be printed"]),
    (["epochs=010"], ["'010'", "zero out: 10"]),
    (["epochs=3 # few"], ["'3 # few'", "whole number"]),
    (["val=no"], ["'no'", "true or false"]),
    (["optimizer=Adm"], ["'Adm'", "Did you mean 'Adam'"]),
    (["batch=0"], ["batch=0"]),
    (["save=false"], ["'save'", "--resume"]),
    (["distill_model=x.pt"], ["'distill_model'", "--teacher"]),
    (["epochs", "=", "3"], ["'epochs' is not key=value"]),
    (["epochs=1", "epochs=2"], ["epochs=1 and epochs=2"]),
    (["lr0=-1"], ["lr0=-1"]),
    (["quantize=8"], ["'quantize'", "--bits"]),
    (["bits=4"], ["'bits'", "--bits"]),
    (["resume=true"], ["'resume'", "--resume"]),
]


@pytest.mark.parametrize(("arguments", "words"), TRAIN, ids=lambda value: " ".join(value))
def test_train(arguments: list[str], words: list[str], hyp: Path, tmp_path: Path) -> None:
    outcome = qreg_yolo("train", "--hyp", hyp, *arguments)
    assert_refused(outcome, 2, *words)
    assert not list(Path("runs").glob("*")), "a run was begun"


RECIPES = [
    ("train: {epcohs: 1}", ["'epcohs'", "Did you mean 'epochs'"]),
    ("quant: {bit: 4}", ["'bit'", "Did you mean 'bits'"]),
    ("quant: {bits: four}", ["bits='four'"]),
    ("train: {epochs: many}", ["epochs='many'"]),
    ("train: 3", ["section 'train'"]),
    ("trian: {epochs: 1}", ["'trian'", "Did you mean 'train'"]),
    ("train: {epochs: 1", ["line "]),
    ("just text", ["not sections"]),
    ("train: {epochs: 0}", ["epochs=0"]),
]


@pytest.mark.parametrize(("text", "words"), RECIPES, ids=[text for text, _ in RECIPES])
def test_recipes(text: str, words: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert_refused(qreg_yolo("train", "--hyp", recipe), 2, *words)


@pytest.mark.parametrize("name", ["dem", "nowhere.yaml"])
def test_recipes_that_do_not_exist(name: str) -> None:
    assert_refused(qreg_yolo("train", "--hyp", name), 2, f"'{name}'", "demo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hyp", "demo"], ["--hyp"]),
        (["--data", "demo"], ["--data"]),
        (["--model", "yolov5n.yaml"], ["--model"]),
        (["--weights", "a.pt"], ["--weights"]),
        (["--seed", "1"], ["--seed"]),
        (["--freeze-codes", "0.02"], ["--freeze-codes", "keeps its own"]),
        (["--threads", "0"], ["threads=0"]),
        (["--bits", "9"], ["bits=9"]),
        (["epcohs=3"], ["'epochs'"]),
        ([], ["last.pt"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_resume(arguments: list[str], words: list[str]) -> None:
    assert_refused(qreg_yolo("train", "--resume", "nowhere/last.pt", *arguments), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["val"], ["weights"]),
        (["val", "nowhere.pt"], ["nowhere.pt"]),
        (["val", "a.pt", "b.pt"], ["'b.pt'", "key=value"]),
        (["val", "a.pt", "--data", "x", "data=y"], ["--data x", "data=y"]),
        (["val", "a.pt", "--threads", "0"], ["--threads"]),
        (["val", "a.pt", "--dta", "x"], ["--dta"]),
        (["val", "a.pt", "imgs=3"], ["Did you mean 'imgsz'"]),
        (["val", "a.pt", "split=vla"], ["Did you mean 'val'"]),
        (["val", "a.pt", "conf=7"], ["conf=7"]),
        (["val", "a.pt", "half=true"], ["'half'"]),
        (["val", "a.pt", "model=b.pt"], ["'model'", "first argument"]),
        (["val", "a.pt", "plots=on"], ["'on'", "true or false"]),
        (["predict", "a.pt", ".", "embed=1"], ["embed"]),
        (["predict"], ["weights"]),
        (["predict", "nowhere.pt"], ["source"]),
        (["predict", "nowhere.pt", "."], ["nowhere.pt"]),
        (["predict", "a.pt", ".", "source=b"], ["'source'", "second argument"]),
        (["predict", "a.pt", ".", "cnf=0.3"], ["Did you mean 'conf'"]),
        (["predict", "a.pt", ".", "--threads", "-1"], ["--threads"]),
        (["inspect"], ["weights"]),
        (["inspect", "nowhere.pt"], ["nowhere.pt"]),
        (["inspect", "a.pt", "--jsn"], ["--jsn", "--json"]),
        (["trian"], ["'trian'", "train"]),
        (["--verson"], ["--verson", "--version"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_other_commands(arguments: list[str], words: list[str]) -> None:
    assert_refused(qreg_yolo(*arguments), 2, *words)


def test_a_wrong_environment_variable(hyp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QREG_YOLO_THREADS", "many")
    assert_refused(qreg_yolo("train", "--hyp", hyp), 2, "QREG_YOLO_THREADS", "'many'")


def test_a_bug_is_shown_with_its_type_and_how_to_see_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qreg_yolo.detect.evaluate as inspection
    from qreg_yolo.errors import WeightsError

    weights = tmp_path / "a.pt"
    weights.touch()

    def inspect_with(error: Exception) -> Outcome:
        def broken(path: Path) -> None:
            raise error

        monkeypatch.setattr(inspection, "inspect_weights", broken)
        return qreg_yolo("inspect", weights)

    for bug, shown in (
        (ValueError("shapes differ"), "ValueError: shapes differ"),
        (OSError("odd"), "OSError: odd"),
        (FileNotFoundError("gone"), "FileNotFoundError: gone"),
        (KeyError("x"), "KeyError: 'x'"),
    ):
        outcome = inspect_with(bug)
        assert outcome.code == 1
        assert shown in outcome.err
        assert "QREG_YOLO_DEBUG" in outcome.err
    for error, code in ((WeightsError("cut short"), 1), (ConfigError("no such key"), 2), (MissingFileError("gone"), 2)):
        assert_refused(inspect_with(error), code, f"error: {error}\n")
    inspect_with(KeyError("x"))
    monkeypatch.setenv("QREG_YOLO_DEBUG", "1")
    with mock.patch.dict(os.environ), pytest.raises(KeyError):
        main(["inspect", str(weights)])


def test_names_of_variants_and_clean_measurements(tmp_path: Path) -> None:
    weights, variants, words = parted(["lsq+=a/last.pt", "b.pt", "on=c.safetensors", "name=quick"])
    assert weights == [Path("a/last.pt"), Path("b.pt"), Path("c.safetensors")]
    assert variants == {Path("a/last.pt"): "lsq+", Path("c.safetensors"): "on"}
    assert words == ["name=quick"]
    (tmp_path / "x=1").mkdir()
    (tmp_path / "x=1" / "best.pt").touch()
    path = tmp_path / "x=1" / "best.pt"
    assert parted([str(path)]) == ([path], {}, [])
    assert_refused(qreg_yolo("robustness", "lsq+=gone.pt", "--data", "demo"), 2, "There is no checkpoint 'gone.pt'")
    assert_refused(
        qreg_yolo("robustness", "a.pt", "--data", "demo", "--corruptions", "non"), 2, "Write 19, 15, none, or"
    )
    assert_refused(qreg_yolo("corrupt", "demo", "out", "--corruptions", "none"), 2, "'none' is not one of the 19")
