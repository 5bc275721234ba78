"""``qreg-yolo study``: a small study from its file to its figures, added to, broken, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from qreg_yolo.cli import main
from qreg_yolo.io import records
from qreg_yolo.io.locks import FolderLock
from qreg_yolo.study.engines import InProcessEngine
from tests import TINY
from tests.cli.conftest import Outcome, assert_refused, qreg_yolo

GRID: dict[str, Any] = {
    "track": "classify",
    "bits": [4],
    "seeds": [0],
    "overrides": {"epochs": 2, "train_images": 40, "batch": 20},
}
PROTOCOL = {"corruptions": ["fog"], "severities": 1, "limit": 20}
VALUES = ("model", "method", "weight_bits", "seed", "split", "n_images", "corruption", "severity", "metric", "value")


def write(path: Path, **grid: Any) -> Path:
    analyses = grid.pop("analyses", {"table1": False})
    path.write_text(yaml.safe_dump({"grid": {**GRID, **grid}, "protocol": PROTOCOL, "analyses": analyses}))
    return path


def study(*arguments: object) -> Outcome:
    return qreg_yolo("study", *arguments, "--jobs", 2, "--threads", 1)


def run_here(arguments: Sequence[str]) -> int:
    try:
        main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module", autouse=True)
def _commands_run_in_this_process() -> Iterator[None]:
    """Spares the imports of a process for each job; `start` still starts real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QREG_YOLO_THREADS", "1")
        patch.setattr("qreg_yolo.study.engines.LocalEngine", lambda **options: InProcessEngine(run_here))
        yield


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]


def values(folder: Path) -> list[tuple[Any, ...]]:
    tables = [*sorted(folder.glob("trainings/*/records.csv")), folder / "robustness" / "records.csv"]
    return sorted((row for path in tables for row in records.read(path).select(VALUES).rows()), key=str)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a finished study."""
    folder = tmp_path_factory.mktemp("study")
    outcome = study(write(folder / "small.yaml"), "--out", folder / "out")
    assert outcome.code == 0, outcome.err + outcome.out
    assert "small: 0 done, 0 incomplete, 6 to run." in outcome.out
    return folder / "out"


def test_a_study_ends_in_tables_and_figures(finished: Path) -> None:
    names = ["resnet20-fp32-s0", "resnet20-lsq-w4a4-s0"]
    assert sorted(path.name for path in (finished / "trainings").iterdir()) == names
    drawn = sorted((finished / "analyses").iterdir())
    assert [path.name for path in drawn] == ["curves-resnet20-loss.svg", "heatmap-resnet20.svg", "legend.svg"]
    assert all("<svg" in path.read_text() for path in drawn)
    measured = records.read(finished / "robustness" / "records.csv")
    assert set(measured["corruption"].to_list()) == {None, "fog"}
    assert {row["exit"] for row in attempts(finished)} == {0}
    assert all("qreg-yolo" in row["command"] and row["commit"] for row in attempts(finished))
    assert "$ qreg-yolo classify train" in (finished / "logs" / f"train-{names[0]}.log").read_text()


def test_a_finished_study_runs_nothing(finished: Path) -> None:
    before = len(attempts(finished))
    outcome = study(finished.parent / "small.yaml", "--out", finished)
    assert outcome.code == 0, outcome.err
    assert "6 done, 0 incomplete, 0 to run." in outcome.out
    assert "heatmap/resnet20: " in outcome.out
    assert len(attempts(finished)) == before


def test_a_new_seed_runs_alone(finished: Path, tmp_path: Path) -> None:
    wider = write(tmp_path / "small.yaml", seeds=[0, 1])
    dry = study(wider, "--out", finished, "--dry-run")
    assert "3 done, 3 incomplete, 2 to run. Estimated time:" in dry.out
    assert "done      train/resnet20-lsq-w4a4-s0" in dry.out
    before, one = len(attempts(finished)), values(finished)
    outcome = study(wider, "--out", finished)
    assert outcome.code == 0, outcome.err
    new = [row["job"] for row in attempts(finished)[before:]]
    trained = ["train/resnet20-fp32-s1", "train/resnet20-lsq-w4a4-s1"]
    assert sorted(new) == sorted([*trained, "robustness", "heatmap/resnet20", "curves/resnet20-loss"])
    both = values(finished)
    assert [row for row in both if row[3] == 0] == one, "what was measured stays"
    assert len(both) == 2 * len(one)


def test_a_job_that_fails_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", model=["resnet20", "no.such.module:net"], bits=[])
    outcome = study(path, "--only", "train/*")
    assert outcome.code == 1
    folder = Path("runs/studies/bad")
    ends = {row["job"]: row["exit"] for row in attempts(folder)}
    assert ends == {"train/resnet20-fp32-s0": 0, "train/net-fp32-s0": 2}
    assert "train/net-fp32-s0 failed (exit status 2)" in outcome.out
    assert "cannot be imported" in outcome.out
    assert f"failed: train/net-fp32-s0 ({folder.absolute()}/logs/train-net-fp32-s0.log)" in outcome.out
    (row,) = [row for row in attempts(folder) if row["exit"]]
    assert "cannot be imported" in row["end"][-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, ["section 'grid' has no 'seed'", "Did you mean 'seeds'"]),
        ({"data": "cifar10"}, ["data=cifar10 needs its folder", "--data-dir"]),
        ({"data": "cifar10", "data_dir": "gone"}, ["There is no folder 'gone'", "--data-dir"]),
        ({"analyses": {}}, ["Table 1 averages over all 19 corruptions", "table1: false"]),
        ({"overrides": {"epochz": 1}}, ["there is no option 'epochz'", "Did you mean 'epochs'"]),
        ({"track": "detect", "model": "yolov5n.yaml", "data": "gone.yaml", "overrides": {}}, ["no file 'gone.yaml'"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_before_anything_runs(
    change: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    assert_refused(study(write(tmp_path / "wrong.yaml", **change)), 2, *words)
    assert not Path("runs").exists()


def test_names_of_studies_and_jobs_are_suggested(tmp_path: Path) -> None:
    assert_refused(study("dem"), 2, "There is no study 'dem'", "Did you mean 'demo'?")
    small = write(tmp_path / "small.yaml")
    assert_refused(study(small, "--only", "train/resnet20-fp32"), 2, "Did you mean 'train/resnet20-fp32-s0'?")


def test_a_folder_of_another_study_is_refused(finished: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.yaml", overrides={**GRID["overrides"], "epochs": 3})
    assert_refused(study(other, "--out", finished), 2, "begun with other settings", "epochs=2", "epochs=3", "--out")


def test_two_calls_in_one_folder(finished: Path) -> None:
    with FolderLock().take(finished):
        outcome = study(finished.parent / "small.yaml", "--out", finished)
    assert_refused(outcome, 1, "Another process")


def start(path: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qreg_yolo", "study", path, "--out", out, "--jobs", "2", "--threads", "1"]
    return subprocess.Popen(map(str, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until_trained(folder: Path) -> None:
    end = time.monotonic() + 120
    while not list(folder.glob("trainings/*/weights/last.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_stopped_study_resumes_to_the_same_records(how: signal.Signals, finished: Path, tmp_path: Path) -> None:
    path, out = write(tmp_path / "small.yaml", overrides={**GRID["overrides"]}), tmp_path / "out"
    with start(path, out) as process:
        until_trained(out)
        process.send_signal(how)
        printed = process.communicate()[0]
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[how]
    assert ("The same command resumes the study." in printed) == (how == signal.SIGTERM)
    outcome = study(path, "--out", out)
    assert outcome.code == 0, outcome.out + outcome.err
    mine, undisturbed = values(out), [row for row in values(finished) if row[3] == 0]
    assert mine == undisturbed


def variants_study(path: Path, data: Path, **grid: Any) -> Path:
    """Writes a study of a baseline and three variants on clean images."""
    fast = {"epochs": 1, "workers": 0, "plots": False}
    taught = {"method": "lsq", "teacher": "baseline", "average": None, "hyp": "qat_finetune"}
    sections = {
        "grid": {
            "model": TINY, "data": str(data), "seeds": [0], "bits": [4], "recipe": "demo",
            "overrides": {**fast, "imgsz": 40, "batch": 4, "head": "anchor", "fliplr": 0.25},
            "variant_options": fast,
            "variants": [
                {"name": "fp32 trained on", "bits": 32, "options": {"hyp": "qat_finetune"}},
                {"name": "lsq+", "options": {"epoch0": False}},
                {"name": "taught", "options": taught},
            ],
        },
        "protocol": {"corruptions": "none", "split": "val", "limit": 3},
        "analyses": {
            "table1": False, "heatmaps": False, "curves": False, "accuracy": True, "reference": "fp32 trained on",
        },
    }  # fmt: skip
    sections["grid"] |= grid
    path.write_text(yaml.safe_dump(sections))
    return path


def test_variants_of_a_detector_start_from_its_baseline(data: Path, tmp_path: Path) -> None:
    path, out = variants_study(tmp_path / "low.yaml", data), tmp_path / "out"
    outcome = study(path, "--out", out)
    assert outcome.code == 0, outcome.err + outcome.out
    stem = "tiny-anchor"
    names = [f"{stem}-fp32-s0", f"{stem}-fp32-trained-on-s0", f"{stem}-lsqplus-w4a4-s0", f"{stem}-taught-w4a4-s0"]
    assert sorted(one.name for one in (out / "trainings").iterdir()) == names
    configs = {name: yaml.safe_load((out / "trainings" / name / "config.yaml").read_text()) for name in names}
    for name in names[1:]:
        train = configs[name]["train"]
        assert (train["imgsz"], train["batch"], train["fliplr"], train["optimizer"]) == (64, 4, 0.25, "AdamW")
        assert configs[name]["head"]["kind"] == "anchor"
        assert configs[name]["run"]["weights"] == str(out / "trainings" / names[0] / "weights" / "last.pt")
    assert configs[names[3]]["distill"]["teacher"] == configs[names[1]]["run"]["weights"]
    assert [configs[name]["quant"]["init"] for name in names[1:]] == ["mse", "mse", "mse"]
    assert [configs[name]["run"]["epoch0"] for name in names[1:]] == [True, False, True]
    measured = records.read(out / "robustness" / "records.csv")
    assert set(measured["corruption"]) == {None}
    assert set(measured["n_images"]) == {3}
    variants = dict(zip(measured["variant"], measured["method"], strict=True))
    assert variants == {None: "fp32", "fp32 trained on": "fp32", "lsq+": "lsq+", "taught": "lsq"}
    assert len(list((out / "robustness" / "per_image").glob("*/clean-0.npz"))) == 4
    table = (out / "analyses" / "accuracy.txt").read_text()
    for label in ("fp32 ", "fp32 trained on ", "lsq+ 4 ", "taught 4 "):
        assert f"  demo  {label}" in table
    assert "of the mean of tiny-anchor fp32 trained on" in table
    again = study(path, "--out", out)  # compares what is planned with what the runs wrote
    assert again.code == 0, again.err
    assert "6 done, 0 incomplete, 0 to run." in again.out
    assert "lsq+ 4" in again.out
    wider = variants_study(path, data, seeds=[0, 1], methods=["lsq"])
    dry = study(wider, "--out", out, "--dry-run").out
    assert "done      train/tiny-anchor-taught-w4a4-s0\n" in dry
    assert "waiting   train/tiny-anchor-taught-w4a4-s1\n" in dry
    assert "4 done, 2 incomplete, 6 to run. Estimated time:" in dry


@pytest.fixture
def stand_in(data: Path) -> None:
    """Puts the demo set where the study of low bits looks for its data, and a file in place of the weights."""
    Path("VOC").mkdir()
    description = yaml.safe_load(data.read_text())
    Path("VOC/voc.yaml").write_text(yaml.safe_dump({**description, "path": str(data.parent), "test": "images/val"}))
    Path("yolov5n.pt").touch()


@pytest.mark.usefixtures("stand_in")
def test_the_study_of_low_bits_can_be_planned() -> None:
    outcome = study("low_bits", "--dry-run")
    assert outcome.code == 0, outcome.err
    names = [line.split()[1] for line in outcome.out.splitlines() if line.startswith("waiting")]
    for label in ("fp32", "fp32-trained-on", "lsqplus-w8a8", "lsqplus-w2a2", "lsq-w4a4"):
        assert [f"train/yolov5n-anchor-{label}-s{seed}" in names for seed in range(3)] == [True] * 3
    assert names[-2:] == ["robustness", "accuracy"]
    Path("yolov5n.pt").unlink()
    assert_refused(study("low_bits", "--dry-run"), 2, "There is no checkpoint 'yolov5n.pt'")


def test_variants_of_a_classifier_are_measured_on_clean_images(tmp_path: Path) -> None:
    small = {"epochs": 1, "train_images": 40, "batch": 20}
    on = {"name": "on", "bits": 32, "options": {"hyp": "cifar_finetune", "epochs": 1}}
    taught = {"name": "taught", "options": {"epochs": 1, "teacher": "baseline"}}
    grid = {"track": "classify", "bits": [4], "overrides": small, "variants": [on, taught]}
    analyses = {"table1": False, "heatmaps": False, "curves": False, "accuracy": True}
    sections = {"grid": grid, "protocol": {"corruptions": [], "limit": 20}, "analyses": analyses}
    path, out = tmp_path / "clean.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(sections))
    outcome = study(path, "--out", out)
    assert outcome.code == 0, outcome.err + outcome.out
    folders = {name: out / "trainings" / f"resnet20-{name}-s0" for name in ("on", "taught-w4a4")}
    configs = {name: yaml.safe_load((folder / "config.yaml").read_text()) for name, folder in folders.items()}
    assert {config["run"]["train_images"] for config in configs.values()} == {40}, "the baseline's"
    assert {(config["train"]["batch"], config["train"]["lr0"]) for config in configs.values()} == {(20, 0.01)}
    measured = records.read(out / "robustness" / "records.csv")
    assert measured.select("variant", "method", "corruption", "n_images").rows() == [
        (None, "fp32", None, 20), ("on", "fp32", None, 20), ("taught", "lsq", None, 20),
    ]  # fmt: skip
    assert "taught 4" in outcome.out
    assert "5 done, 0 incomplete, 0 to run." in study(path, "--out", out).out
