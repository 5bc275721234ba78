"""``qreg-yolo classify`` from the command line: a run from start to end, what is refused, and how a run is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qreg_yolo.io import records
from tests import ROOT
from tests.classify.classify_helpers import at_step, command_line
from tests.classify.synthetic_networks import NORMED
from tests.cli.conftest import Outcome, assert_refused, qreg_yolo
from tests.datasets.synthetic_cifar import write_cifar


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar"))


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QREG_YOLO_THREADS", "1")


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a checkpoint of a network for the demo set."""
    folder = tmp_path_factory.mktemp("fresh")
    options = ["--model", NORMED, "--batch", 2560, "--epochs", 1, "--threads", 1, "--project", folder]
    outcome = qreg_yolo("classify", "train", *options)
    assert outcome.code == 0, outcome.err
    return folder / "with_norm-demo-lsq-w4a4-s0" / "weights" / "last.safetensors"


def words(cifar: Path, *more: object) -> list[object]:
    base = ["--model", NORMED, "--data", "cifar10", "--data-dir", cifar, "--no-verify", "--batch", 16, "--epochs", 3]
    return ["classify", "train", *base, *more]


def run_elsewhere(cifar: Path, patch: str, *more: object) -> Outcome:
    run = command_line(*words(cifar, *more), patch=patch)
    return Outcome(run.returncode, run.stdout, run.stderr, run.stdout)


def test_train_val_and_curves(cifar: Path, tmp_path: Path) -> None:
    outcome = qreg_yolo(*words(cifar, "--bits", 4, "--method", "lsq", f"project={tmp_path}", "lr0=0.05"))
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "with_norm-cifar10-lsq-w4a4-s0"
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "environment.json", "qreg.json", "records.csv", "results.csv", "weights",
    }  # fmt: skip
    assert "Milestones [50, 90, 130, 180] of 200 epochs become [1, 2] of 3; dropped: [90, 180]." in outcome.out
    assert "Quantized: 3 layers (2 x W8 lsq A8 lsq, 1 x W4 lsq A4 lsq)" in outcome.out
    assert "img/s" in outcome.out
    assert "last epoch (reported)" in outcome.out
    assert "lr0: 0.05" in (folder / "config.yaml").read_text()
    table = records.read(folder / "records.csv")
    assert table["metric"].to_list() == ["accuracy_top1", "loss", "train_loss"]
    assert table["split"].to_list() == ["test", "test", "train"]
    assert table["n_images"].to_list() == [24, 24, 80]
    assert set(table["track"]) == {"classify"}
    weights = folder / "weights" / "last.safetensors"
    measured = qreg_yolo("classify", "val", weights, "--model", NORMED, "--no-verify", "--project", tmp_path)
    assert measured.code == 0, measured.err
    assert f"top-1 {table['value'][0]:.4f}" in measured.out
    report = json.loads(qreg_yolo("inspect", weights, "--model", NORMED, "--json").out)
    assert report["label"] == "lsq-w4a4"
    assert [layer["weight_bits"] for layer in report["layers"]] == [8, 4, 8]
    assert report["layers"][0]["macs"] == 8 * 8 * report["layers"][0]["weights"]
    assert_refused(qreg_yolo("inspect", weights), 2, "a model of your own", NORMED)
    for column in ("val/loss", "step/second.weight", "noise/second"):
        drawn = qreg_yolo("plot", "curves", folder, "--column", column, "--out", tmp_path / "curve.png")
        assert drawn.code == 0, drawn.err
    again = qreg_yolo("classify", "train", "--hyp", folder / "config.yaml", "--epochs", 1)
    assert again.code == 0, again.err
    assert (tmp_path / f"{folder.name}-2" / "results.csv").is_file()


def test_quantized_runs_compare_with_their_twin_in_a_table(cifar: Path, tmp_path: Path) -> None:
    tables = []
    for bits in (32, 4):
        outcome = qreg_yolo(*words(cifar, "--bits", bits, "--seeds", "0,1", "--project", tmp_path, "--epochs", 1))
        assert outcome.code == 0, outcome.err
        assert "seeds 0, 1" in outcome.out
        assert "(mean ± sd, n = 2)" in outcome.out
        label = "fp32" if bits == 32 else "lsq-w4a4"
        tables += [tmp_path / f"with_norm-cifar10-{label}-s{seed}" / "records.csv" for seed in (0, 1)]
    joined = tmp_path / "all.csv"
    joined.write_text(tables[0].read_text() + "".join(t.read_text().partition("\n")[2] for t in tables[1:]))
    outcome = qreg_yolo("table", joined, "--metric", "accuracy_top1", "--no-intervals")
    assert outcome.code == 0, outcome.err
    assert "lsq 4" in outcome.out


def test_robustness_tables_and_squares(cifar: Path, tmp_path: Path) -> None:
    weights = []
    for label, bits in (("fp32", 32), ("lsq-w4a4", 4)):
        outcome = qreg_yolo(*words(cifar, "--bits", bits, "--project", tmp_path, "--epochs", 1))
        assert outcome.code == 0, outcome.err
        weights.append(tmp_path / f"with_norm-cifar10-{label}-s0" / "weights" / "last.safetensors")
    base = ["classify", "robustness", *weights, "--model", NORMED, "--corruptions", "contrast,fog", "--severities"]
    outcome = qreg_yolo(*base, "5")
    assert outcome.code == 0, outcome.err
    assert "top-1 [points]" in outcome.out
    assert "mean: 2 corruptions, severities 5" in outcome.out
    found = Path("runs/robustness/cifar10/records.csv")
    assert records.read(found).height == 2 * 3
    outcome = qreg_yolo(*base, "1,5", "project=runs/robustness", "name=cifar10")
    assert "6 of 10 conditions were measured before." in outcome.out, outcome.err
    table = records.read(found)
    assert table.height == 2 * 5
    assert set(table["metric"]) == {"accuracy_top1"}
    assert set(table["preset"]) == {None, "cifar32"}
    outcome = qreg_yolo("table", found)
    assert outcome.code == 0, outcome.err
    assert "accuracy_top1; severities 1, 5; 24 images of cifar10/test, preset cifar32" in outcome.out
    for words_ in (["heatmap"], ["severity", "--corruption", "fog"]):
        outcome = qreg_yolo("plot", words_[0], found, *words_[1:], "--out", tmp_path / "a.png")
        assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        (["--severities", 6], 2, ["severities='6'"]),
        (["--corruptions", "fogg"], 2, ["'fogg'", "Did you mean 'fog'"]),
        (["--preset", "cifar23"], 2, ["Did you mean 'cifar32'"]),
        (["--published", "nowhere"], 2, ["labels.npy", "--published"]),
        (["--published", "nowhere", "--seed", 1], 2, ["--seed cannot be combined with --published"]),
        (["--out", "a", "name=b"], 2, ["--out a cannot be combined with name=b"]),
        (["nam=b"], 2, ["'nam'", "Did you mean 'name'"]),
        (["--device", "cuda:77"], 2, ["cuda:77"]),
        (["nowhere.safetensors"], 2, ["no checkpoint 'nowhere.safetensors'"]),
        (["text.safetensors"], 1, ["text.safetensors' is damaged"]),
        (["other.safetensors"], 1, ["is not a classifier of qreg-yolo"]),
    ],
    ids=str,
)
def test_robustness_refuses(more: list[object], code: int, expected: list[str], fresh: Path) -> None:
    import torch
    from safetensors.torch import save_file

    Path("text.safetensors").write_text("no checkpoint")
    save_file({"a": torch.zeros(1)}, "other.safetensors")
    assert_refused(qreg_yolo("classify", "robustness", fresh, "--model", NORMED, *more), code, *expected)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "code", "expected"),
    [
        (["--model", "resnet21"], 2, ["'resnet21'", "Did you mean 'resnet20'"]),
        (["--bits", 9], 2, ["bits=9", "1 to 8, or 32"]),
        (["--method", "lsk"], 2, ["Did you mean 'lsq'"]),
        (["--data", "cifar11"], 2, ["'cifar11'", "Did you mean 'cifar10'"]),
        (["--milestones", "1,2,3"], 2, ["milestones=[1, 2, 3]", "epochs=3"]),
        (["--milestones", "1,200"], 2, ["200 is not below epochs=3"]),
        (["epocs=3"], 2, ["'epocs'", "Did you mean 'epochs'"]),
        (["epochs=4"], 2, ["--epochs 3 and epochs=4 disagree"]),
        (["--hyp", "cifar_papr"], 2, ["Did you mean 'cifar_paper'"]),
        (["--seeds", "0,x"], 2, ["seeds='0,x'", "0,1,2"]),
        (["--seeds", "0,1", "--seed", 3], 2, ["--seeds 0,1 and a seed"]),
        (["--device", "cuda:77"], 2, ["cuda:77", "Give cpu or cuda"]),
        (["--weights", "none.safetensors"], 2, ["no checkpoint 'none.safetensors'"]),
        (["--resume", "none.safetensors"], 2, ["no checkpoint 'none.safetensors'"]),
        (["--resume", "none.safetensors", "--seeds", "1"], 2, ["--seeds cannot be combined with --resume"]),
        (["--data-dir", "nowhere"], 2, ["nowhere", "--download"]),
    ],
    ids=str,
)
def test_what_is_refused(more: list[object], code: int, expected: list[str], cifar: Path) -> None:
    assert_refused(qreg_yolo(*words(cifar, *more)), code, *expected)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    official = ["classify", "train", "--data", "cifar10", "--data-dir", tmp_path, "--epochs", 1]
    assert_refused(qreg_yolo(*official), 1, "data_batch_1", "has the md5", "c99cafc152244af753f735de768cd75f")
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    batch.write_bytes(batch.read_bytes()[:1000])
    assert_refused(qreg_yolo(*official, "--no-verify"), 1, "data_batch_4", "cut short")
    batch.unlink()
    assert_refused(qreg_yolo(*official[:-2], "--epochs", 1), 1, "data_batch_1")
    assert_refused(qreg_yolo("classify", "train", "--data", "cifar10"), 2, "needs --data-dir")


def test_no_network_without_download(network_attempts: list[str], tmp_path: Path) -> None:
    outcome = qreg_yolo("classify", "train", "--data", "cifar100", "--data-dir", tmp_path)
    assert_refused(outcome, 2, "cifar-100-python", "--download")
    assert network_attempts == []
    assert_refused(qreg_yolo("classify", "train", "--download"), 2, "give --data cifar10 or cifar100, and --data-dir")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_that_is_stopped_says_how_to_resume(name: str, code: int, cifar: Path, tmp_path: Path) -> None:
    patch = at_step(7, f"os.kill(os.getpid(), signal.{name})")
    outcome = run_elsewhere(cifar, patch, "--project", tmp_path, "--seeds", "4,5")
    last = tmp_path / "with_norm-cifar10-lsq-w4a4-s4" / "weights" / "last.safetensors"
    assert outcome.code == code, outcome
    assert f"qreg-yolo classify train --resume {last} --model {NORMED}" in outcome.err
    assert "Not begun yet: --seeds 5" in outcome.err
    assert "Traceback" not in outcome.err
    resumed = qreg_yolo("classify", "train", "--resume", last, "--model", NORMED)
    assert resumed.code == 0, resumed.err
    assert "Resuming after epoch 1 of 3" in resumed.out


def test_a_full_disk_leaves_the_last_checkpoint(cifar: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    patch = at_step(7, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))")
    outcome = run_elsewhere(cifar, patch, "--project", tmp_path)
    weights = tmp_path / "with_norm-cifar10-lsq-w4a4-s0" / "weights"
    assert_refused(outcome, 1, "checkpoint of epoch 2", str(weights), "Make room", str(weights / "last.safetensors"))
    assert [p.name for p in weights.iterdir()] == ["last.safetensors"]
    resumed = qreg_yolo("classify", "train", "--resume", weights / "last.safetensors", "--model", NORMED)
    assert resumed.code == 0, resumed.err


def test_two_processes_do_not_train_into_one_folder(cifar: Path, tmp_path: Path) -> None:
    patch = at_step(7, "os.kill(os.getpid(), signal.SIGKILL)")
    assert run_elsewhere(cifar, patch, "--project", tmp_path).code == -signal.SIGKILL
    folder = tmp_path / "with_norm-cifar10-lsq-w4a4-s0"
    from qreg_yolo.io.locks import FolderLock

    with FolderLock().take(folder):
        outcome = qreg_yolo("classify", "train", "--resume", folder / "weights" / "last.safetensors", "--model", NORMED)
    assert_refused(outcome, 1, f"Another process ({os.getpid()}) is writing into", str(folder))


@pytest.mark.parametrize("script", ["train_classifier.py", "eval_classifier.py"])
def test_the_scripts_are_the_commands(script: str) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / script), "--help"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--no-verify" in run.stdout
