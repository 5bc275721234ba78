"""From a study to its jobs: names, commands, needs, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.config import classification
from qreg_yolo.errors import MissingFileError
from qreg_yolo.io.strict_yaml import ConfigError, dumps
from qreg_yolo.study.config import Analyses, Grid, Protocol, StudyConfig
from qreg_yolo.study.jobs import Training
from qreg_yolo.study.plan import check, jobs_of


def study(**grid: Any) -> StudyConfig:
    sections = {name: grid.pop(name) for name in ("protocol", "analyses") if name in grid}
    return StudyConfig(grid=Grid(**{"model": "resnet20", "track": "classify", **grid}), **sections)


def trainings(of: StudyConfig, folder: Path) -> list[Training]:
    return [job for job in jobs_of(of, folder) if isinstance(job, Training)]


def test_a_grid_becomes_trainings_with_their_baselines(tmp_path: Path) -> None:
    found = trainings(study(methods=["lsq", "pact"], bits=[8, 2], seeds=[0, 1]), tmp_path)
    assert [job.name.removeprefix("train/resnet20-") for job in found] == [
        "fp32-s0", "lsq-w8a8-s0", "lsq-w2a2-s0", "fp32-s1", "lsq-w8a8-s1", "lsq-w2a2-s1",
        "pact-w8a8-s0", "pact-w2a2-s0", "pact-w8a8-s1", "pact-w2a2-s1",
    ]  # fmt: skip


def test_the_command_of_a_classifier(tmp_path: Path) -> None:
    grid = {"bits": [4], "overrides": {"epochs": 3, "milestones": [1, 2], "nesterov": True}, "seeds": [5]}
    _, job = trainings(study(data_dir="DIR", recipe="cifar_demo", **grid), tmp_path)
    assert job.command() == [
        "classify", "train", "--model", "resnet20", "--data", "demo", "--data-dir", "DIR", "--method", "lsq",
        "--bits", "4", "--seed", "5", "--hyp", "cifar_demo", "epochs=3", "milestones=[1,2]", "nesterov=true",
        f"project={tmp_path}/trainings", "name=resnet20-lsq-w4a4-s5",
    ]  # fmt: skip
    assert job.total == 3


def test_the_command_of_a_detector(tmp_path: Path) -> None:
    methods = [{"method": "lsq+", "weight_only": True, "per_channel": True}]
    grid = {"model": "yolov5n.yaml", "track": "detect", "data": "voc", "methods": methods, "bits": [2]}
    overrides = {"epochs": 2, "head": "anchor", "log_noise": True, "imgsz": 64, "average": 0.2, "dampen": 0.1}
    base, job = trainings(study(overrides=overrides, **grid), tmp_path)
    assert base.name == "train/yolov5n-anchor-fp32-s0"
    assert job.name == "train/yolov5n-anchor-lsqplus-w2a32-per_channel-true-s0"
    assert job.command() == [
        "train", "--model", "yolov5n.yaml", "--data", "voc", "--method", "lsq+", "--weight-only", "--per-channel",
        "--bits", "2", "--seed", "0", "--head", "anchor", "--log-noise", "--average", "0.2", "--dampen", "0.1",
        "epochs=2", "imgsz=64",
        f"project={tmp_path}/trainings", f"name={job.folder.name}",
    ]  # fmt: skip


def test_an_interrupted_training_resumes_and_remains_without_a_checkpoint_go(tmp_path: Path) -> None:
    job = trainings(study(data_dir="DIR"), tmp_path)[0]
    job.folder.mkdir(parents=True)
    (job.folder / "results.csv").write_text("epoch\n")
    assert "--resume" not in job.command()
    assert not job.folder.exists()
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.touch()
    assert job.command() == [
        "classify",
        "train",
        "--resume",
        str(job.checkpoint),
        "--data-dir",
        "DIR",
        "--model",
        "resnet20",
    ]


def test_a_detector_resumes_with_its_sidecar_alone(tmp_path: Path) -> None:
    job = trainings(study(track="detect", model="yolov5n.yaml"), tmp_path)[0]
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.touch()
    sidecar = job.checkpoint.with_name("last.resume.pt")
    sidecar.touch()
    assert job.command() == ["train", "--resume", str(job.checkpoint)]
    sidecar.unlink()  # killed between the end of the training and its records
    assert "--resume" not in job.command()
    assert not job.folder.exists()


def test_a_classifier_is_done_when_its_last_checkpoint_is_in_place(tmp_path: Path) -> None:
    job = trainings(study(), tmp_path)[0]
    job.checkpoint.parent.mkdir(parents=True)
    pending = job.checkpoint.with_name(".last.safetensors.tmp")
    pending.touch()
    (job.folder / "records.csv").touch()
    assert not job.is_done()
    pending.rename(job.checkpoint)
    assert job.is_done()


def test_trainings_from_the_baseline_need_it(tmp_path: Path) -> None:
    base, quantized = trainings(study(weights="baseline", bits=[4]), tmp_path)
    assert quantized.needs == (base,)
    assert quantized.options["weights"] == str(base.checkpoint)
    assert "weights" not in base.options
    assert trainings(study(bits=[4]), tmp_path)[1].needs == ()


def test_what_follows_the_trainings(tmp_path: Path) -> None:
    protocol = Protocol(corruptions="fog", severities=2, limit=7)
    jobs = {
        job.name: job
        for job in jobs_of(study(protocol=protocol, analyses=Analyses(noise=True, table1=False), bits=[4]), tmp_path)
    }
    base, quantized = "resnet20-fp32-s0", "resnet20-lsq-w4a4-s0"
    assert list(jobs) == [
        f"train/{base}", f"train/{quantized}", f"noise/{base}", f"noise/{quantized}", "robustness", "legend",
        "heatmap/resnet20", "curves/resnet20-loss",
    ]  # fmt: skip
    assert [one.name for one in jobs["robustness"].after] == [f"train/{base}", f"train/{quantized}"]
    assert [one.name for one in jobs[f"noise/{quantized}"].needs] == [f"train/{quantized}", f"noise/{base}"]
    assert jobs[f"noise/{quantized}"].command()[2:] == [
        "--bits", "4", "--methods", "lsq", "--against", str(tmp_path / "noise" / base),
        "--out", str(tmp_path / "noise" / quantized),
    ]  # fmt: skip
    assert jobs["robustness"].command() == [
        "classify", "robustness", "--data", "demo", "--corruptions", "fog", "--severities", "2", "--limit", "7",
        "--out", str(tmp_path / "robustness"),
    ]  # fmt: skip
    assert jobs[f"noise/{base}"].command()[2:4] == ["--bits", "4,32"], "the others are compared with the float weights"
    assert not jobs["robustness"].has_inputs()
    assert not jobs["curves/resnet20-loss"].has_inputs()


def test_table_1_is_made_of_all_corruptions(tmp_path: Path) -> None:
    (job,) = [job for job in jobs_of(study(), tmp_path) if job.name == "table1"]
    records, table = tmp_path / "robustness" / "records.csv", tmp_path / "analyses" / "table1.txt"
    assert job.command() == ["table", str(records), "--kind", "table1", "--out", str(table)]
    with pytest.raises(ConfigError, match="all 19 corruptions"):
        jobs_of(study(protocol=Protocol(corruptions=15)), tmp_path)


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        ({"overrides": {"epcohs": 3}}, "there is no option 'epcohs'.*Did you mean 'epochs'"),
        ({"overrides": {"epochs": -1}}, "epochs=-1"),
        ({"track": "detect", "model": "yolov5n.yaml", "overrides": {"imgz": 3}}, "imgz.*Did you mean 'imgsz'"),
        ({"model": ["a:resnet20", "b:resnet20"]}, "Two trainings are called"),
        ({"protocol": Protocol(split="test")}, "Remove split"),
    ],
)
def test_wrong_options_of_a_training_are_refused(grid: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        jobs_of(study(**grid), tmp_path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="Did you mean 'cifar_demo'"):
        jobs_of(study(recipe="cifar_dem"), tmp_path)


def checked(of: StudyConfig, folder: Path) -> None:
    check(of, jobs_of(of, folder), lambda: folder)


def test_missing_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs its folder.*--data-dir"):
        checked(study(data="cifar10"), tmp_path)
    with pytest.raises(MissingFileError, match=r"no folder 'gone'.*--data-dir"):
        checked(study(data="cifar10", data_dir="gone"), tmp_path)
    with pytest.raises(ValueError, match="does not hold 'cifar-100-python'"):
        checked(study(data="cifar100", data_dir=str(tmp_path)), tmp_path)
    with pytest.raises(MissingFileError, match=r"no checkpoint 'gone\.pt'.*baseline"):
        checked(study(weights="gone.pt"), tmp_path)
    with pytest.raises(MissingFileError, match=r"no file 'gone\.yaml'"):
        checked(study(track="detect", model="yolov5n.yaml", data="gone.yaml"), tmp_path)


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    base = trainings(study(overrides={"epochs": 5}), tmp_path)[0]
    base.folder.mkdir(parents=True)
    config = classification.resolve(None, {**base.options, "epochs": 5}, {})[0]
    (base.folder / "config.yaml").write_text(classification.dump(config))
    with pytest.raises(ConfigError, match=r"begun with other settings: .*this call has epochs=6.*--out"):
        checked(study(overrides={"epochs": 6}), tmp_path)


def test_a_teacher_may_be_named_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes the absolute path of its teacher, and the hash."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "taught.yaml"
    recipe.write_text("distill: {teacher: fp32.safetensors}")
    of = study(recipe=str(recipe), bits=[4])
    for job in trainings(of, tmp_path):
        written = {**job.config["distill"], "teacher": str(tmp_path / "fp32.safetensors"), "sha256": "0" * 64}
        job.folder.mkdir(parents=True)
        (job.folder / "config.yaml").write_text(dumps({**job.config, "distill": written}))
    checked(of, tmp_path)
    recipe.write_text("distill: {teacher: other.safetensors}")
    with pytest.raises(ConfigError, match=r"teacher=.*fp32\.safetensors, this call has teacher=.*other\.safetensors"):
        checked(of, tmp_path)


def test_a_study_may_be_moved_but_not_begin_from_other_weights(tmp_path: Path) -> None:
    of = study(weights="baseline", bits=[4])
    quantized = trainings(of, tmp_path / "first")[1]
    moved = trainings(of, tmp_path / "second")[1]
    moved.folder.mkdir(parents=True)
    (moved.folder / "config.yaml").write_text(dumps(dict(quantized.config)))
    checked(of, tmp_path / "second")
    with pytest.raises(ConfigError, match=r"weights=resnet20-fp32-s0/weights/last\.safetensors.*weights=None"):
        checked(study(bits=[4]), tmp_path / "second")
