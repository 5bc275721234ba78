"""The command line executes nothing that a file brings along: checkpoints, model YAMLs, caches beside a dataset."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests import ROOT, TINY
from tests.cli.conftest import Outcome, Run, assert_refused, qreg_yolo, train_run
from tests.io.checkpoint_factories import Evil, write_classic

PROGRAM = """
import ast, sys
from qreg_yolo.cli import main

for command in ast.literal_eval(sys.argv[1]):
    print("=== ", file=sys.stderr)
    try:
        main(command)
    except SystemExit as end:
        print(f"exit {end.code}", file=sys.stderr)
"""


def fresh_process(*commands: list[object]) -> list[Outcome]:
    """Runs commands one after another in a process where the first of them prepares Ultralytics."""
    plain = repr([[str(word) for word in command] for command in commands])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, plain],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    parts = run.stderr.split("=== \n")[1:]
    return [Outcome(int(part.rsplit("exit ", 1)[1]), "", part.rsplit("exit ", 1)[0], run.stdout) for part in parts]


@pytest.fixture(scope="module")
def stopped(hyp: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns ``last.pt`` of a run that can be resumed."""
    from qreg_yolo.detect import QuantYOLO

    class Stop(Exception):
        pass

    def stop(trainer: object) -> None:
        raise Stop

    folder = tmp_path_factory.mktemp("stopped")
    model = QuantYOLO(TINY)
    model.add_callback("on_model_save", stop)
    settings = yaml.safe_load(hyp.read_text())["train"] | {"epochs": 2}
    with pytest.raises(Stop):
        model.train(data=str(data), qreg={"bits": 4}, project=str(folder), name="run", **settings)
    return folder / "run" / "weights" / "last.pt"


def with_evil(checkpoint: Path, target: Path, marker: Path) -> Path:
    """Writes a checkpoint that makes a folder when it is unpickled, and works in every other respect."""
    content = torch.load(checkpoint, weights_only=False)
    torch.save({**content, "zzz": Evil(marker)}, target)
    return target


def test_a_hostile_checkpoint_executes_nothing_anywhere(
    trained: Run, stopped: Path, hyp: Path, data: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    evil = with_evil(trained.best, tmp_path / "evil.pt", marker)
    folder = tmp_path / "run"
    shutil.copytree(stopped.parent.parent, folder)
    last = with_evil(stopped, folder / "weights" / "last.pt", marker)
    other = tmp_path / "other"
    shutil.copytree(stopped.parent.parent, other)
    with_evil(trained.best, other / "weights" / "best.pt", marker)  # last.pt is sound, this is read at the end
    outcomes = fresh_process(
        ["val", evil],
        ["inspect", evil],
        ["predict", evil, data.parent / "images" / "val"],
        ["train", "--hyp", hyp, "--data", data, "--weights", evil],
        ["train", "--resume", last],
        ["train", "--resume", other / "weights" / "last.pt"],
    )
    named = [evil, evil, evil, evil, last, other / "weights" / "best.pt"]
    for outcome, path in zip(outcomes, named, strict=True):
        assert_refused(outcome, 1, str(path), "mkdir", "Nothing of it was executed")
    assert not marker.exists()
    for path in set(named):
        torch.load(path, weights_only=False)
        assert marker.exists(), "the file is harmless: the test shows nothing"
        marker.rmdir()


def test_ultralytics_itself_is_set_to_load_safely(trained: Run) -> None:
    """Whatever this package does not read itself (the best checkpoint after training) goes through that."""
    code = (
        "from qreg_yolo.cli.process import prepare_ultralytics; prepare_ultralytics(online=True); "
        "import qreg_yolo.detect; from ultralytics.nn import tasks; import sys; print(tasks._SafeLoad.restricted()); "
        "print(type(tasks.load_checkpoint(sys.argv[1])[0]).__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(trained.best)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ULTRALYTICS_SAFE_LOAD": "0"},
    )  # fmt: skip
    assert run.stdout.split() == ["True", "QuantDetectionModel"], run.stderr


@pytest.mark.parametrize("value", ["__import__('os').mkdir({!r})", "nn.ReLU(__import__('os').mkdir({!r}))"])
def test_a_hostile_model_yaml(value: str, hyp: Path, data: Path, tmp_path: Path) -> None:
    from ultralytics.nn.tasks import yaml_model_load

    marker, path = tmp_path / "marker", tmp_path / "yolov5n.yaml"
    path.write_text(yaml.safe_dump({**yaml_model_load("yolov5n.yaml"), "activation": value.format(str(marker))}))
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--model", path)
    assert_refused(outcome, 1, str(path), "activation", "nn.ReLU()")
    assert not marker.exists()


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """Returns the data YAML of a copy that a test may spoil."""
    shutil.copytree(data.parent, tmp_path / "own")
    path = tmp_path / "own" / data.name
    path.write_text(data.read_text().replace(str(data.parent), str(path.parent)))
    return path


def test_a_hostile_cache_of_labels(trained: Run, hyp: Path, own_data: Path, tmp_path: Path) -> None:
    """Ultralytics unpickles ``labels/train.cache`` without asking; here it is neither read nor replaced."""
    marker, buffer = tmp_path / "marker", io.BytesIO()
    np.save(buffer, np.array({"labels": Evil(marker)}, dtype=object))
    caches = [own_data.parent / "labels" / f"{split}.cache" for split in ("train", "val")]
    for cache in caches:
        cache.write_bytes(buffer.getvalue())
    for command in (["train", "--hyp", hyp], ["val", trained.best, "plots=false"]):
        outcome = qreg_yolo(*command, "--data", own_data)
        assert outcome.code == 0, outcome.err
    assert not marker.exists()
    assert {cache.read_bytes() for cache in caches} == {buffer.getvalue()}
    np.load(caches[0], allow_pickle=True)
    assert marker.exists(), "the cache is harmless: the test shows nothing"


# ------------------------------------------------------------------------------------------------ other files


def test_the_safetensors_checkpoint_measures_inspects_and_predicts_the_same(trained: Run, data: Path) -> None:
    saved = trained.best.with_suffix(".safetensors")
    assert qreg_yolo("inspect", saved).out == qreg_yolo("inspect", trained.best).out
    tables = []
    for weights in (saved, trained.best):
        outcome = qreg_yolo("val", weights, "--threads", 1, "plots=false")
        assert outcome.code == 0, outcome.err
        tables.append(outcome.out.splitlines()[-2].split())
    assert tables[0][0] == "best.safetensors"
    assert tables[0][1:] == tables[1][1:]
    source = data.parent / "images" / "val"
    found = [qreg_yolo("predict", weights, source, "conf=0.001") for weights in (saved, trained.best)]
    assert found[0].out.splitlines()[-2] == found[1].out.splitlines()[-2]


def test_a_run_starts_from_a_safetensors_checkpoint(trained: Run, hyp: Path, data: Path, tmp_path: Path) -> None:
    run = train_run(tmp_path, hyp, data, "--weights", trained.best.with_suffix(".safetensors"), "--bits", 4)
    assert "Calibrated" not in run.printed.log, "the ranges come from the weights"
    assert run.best.with_suffix(".safetensors").is_file()


def test_a_run_starts_from_classic_yolov5_weights(hyp: Path, data: Path, tmp_path: Path) -> None:
    from qreg_yolo.detect.data_check import check_data

    path = tmp_path / "classic.pt"
    write_classic(path, nc=5, names=list(check_data(data, "val").names.values()))
    run = train_run(tmp_path, hyp, data, "--model", "yolov5n.yaml", "--weights", path, "--bits", 4)
    said = [line for line in run.printed.log.splitlines() if "Transferred" in line]
    assert said == ["Transferred 342 of 427 tensors from 'classic.pt' (YOLOv5 weights); untrained: model.24 (85)"]
    for command in (
        ["val", path, "--data", data, "imgsz=32", "project=out", "plots=false"],
        ["inspect", path],
        ["predict", path, data.parent / "images" / "val", "project=out"],
    ):
        assert qreg_yolo(*command).code == 0
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--model", "yolov5s.yaml", "--weights", path, "name=no")
    assert_refused(outcome, 1, str(path), "no convolution fits", "--model")
    assert not Path("runs").exists(), "a run was begun"
