"""Variants of a study: trainings from the baselines, planned as their commands resolve them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from qreg_yolo.cli import app
from qreg_yolo.errors import MissingFileError
from qreg_yolo.io.strict_yaml import ConfigError, dumps
from qreg_yolo.study.config import Analyses, Grid, Protocol, StudyConfig
from qreg_yolo.study.jobs import Robustness, Training
from qreg_yolo.study.plan import _QUANT_OPTIONS, _options_of, check, jobs_of

CLEAN = Protocol(corruptions="none")
NO_TABLE = Analyses(table1=False)


def study(*variants: dict[str, Any], analyses: Analyses = NO_TABLE, **grid: Any) -> StudyConfig:
    options = {"model": "yolov5n.yaml", "bits": [4], "variants": variants, **grid}
    return StudyConfig(grid=Grid(**options), protocol=CLEAN, analyses=analyses)


def trainings(of: StudyConfig, folder: Path) -> dict[str, Training]:
    """Returns the trainings by the name of their folder, without model and head."""
    found = [job for job in jobs_of(of, folder) if isinstance(job, Training)]
    return {job.folder.name.removeprefix("yolov5n-").removeprefix("anchor-"): job for job in found}


def changed(one: Training, other: Training) -> dict[str, Any]:
    """Returns section.key -> value of the first configuration where the second has another one."""
    flat = [
        {f"{section}.{key}": value for section, values in job.config.items() for key, value in values.items()}
        for job in (one, other)
    ]
    return {key: value for key, value in flat[0].items() if flat[1].get(key) != value}


def test_variants_follow_the_baselines_and_need_them(tmp_path: Path) -> None:
    of = study(
        {"name": "fp32 trained on", "bits": 32, "options": {"hyp": "qat_finetune"}},
        {"name": "lsq+", "bits": [8, 2], "seeds": [1]},
        {"name": "lsq+ from scratch", "options": {"weights": None, "hyp": "demo"}},
        seeds=[0, 1],
    )
    found = trainings(of, tmp_path)
    assert list(found) == [
        "fp32-s0", "fp32-s1", "fp32-trained-on-s0", "fp32-trained-on-s1", "lsqplus-w8a8-s1", "lsqplus-w2a2-s1",
        "lsqplus-from-scratch-w4a4-s0", "lsqplus-from-scratch-w4a4-s1",
    ]  # fmt: skip
    needed = {name: [one.folder.name.removeprefix("yolov5n-") for one in job.needs] for name, job in found.items()}
    assert needed["fp32-trained-on-s1"] == needed["lsqplus-w2a2-s1"] == ["fp32-s1"]
    assert needed["fp32-s1"] == needed["lsqplus-from-scratch-w4a4-s0"] == []
    assert found["lsqplus-w2a2-s1"].config["run"]["weights"] == str(found["fp32-s1"].checkpoint)
    assert found["fp32-trained-on-s0"].group == found["fp32-s0"].group == "train yolov5n.yaml fp32"


def test_methods_and_variants_share_the_baselines(tmp_path: Path) -> None:
    found = trainings(study({"name": "lsq+"}, methods=["lsq"]), tmp_path)
    assert list(found) == ["fp32-s0", "lsq-w4a4-s0", "lsqplus-w4a4-s0"]
    assert [job.variant for job in found.values()] == [None, None, "lsq+"]
    with pytest.raises(ConfigError, match="Two trainings are called 'train/yolov5n-lsq-w4a4-s0'"):
        jobs_of(study({"name": "lsq", "options": {"method": "lsq"}}, methods=["lsq"]), tmp_path)


def test_a_quantized_variant_takes_the_settings_of_its_baseline(tmp_path: Path) -> None:
    overrides = {"head": "anchor", "imgsz": 150, "batch": 8, "mosaic": 0.25, "epochs": 7, "lr0": 0.5}
    of = study(
        {"name": "lsq+"}, {"name": "own", "options": {"hyp": "demo"}},
        {"name": "other head", "options": {"head": "anchor_free"}},
        recipe="voc_finetune", overrides=overrides, weights="yolov5n.pt",
    )  # fmt: skip
    found = trainings(of, tmp_path)
    base, plain = found["fp32-s0"].config, found["lsqplus-w4a4-s0"].config
    assert base["run"]["weights"] == "yolov5n.pt"
    assert plain["head"] == base["head"]
    assert plain["head"]["obj"] == 0.51728, "the recipe's"
    for name in ("batch", "mosaic", "hsv_s", "scale"):
        assert plain["train"][name] == base["train"][name]
    assert plain["train"]["imgsz"] == 160, "as Ultralytics rounds it"
    assert (plain["train"]["multi_scale"], "dfl" in plain["train"]) == (0.0, False)
    assert (plain["train"]["epochs"], plain["train"]["lr0"], plain["quant"]["init"]) == (10, 0.0002, "mse")
    assert plain["quant"]["method"] == "lsq+"
    scratch = study({"name": "own", "options": {"hyp": "qat_finetune", "weights": None}})
    assert "imgsz" not in trainings(scratch, tmp_path)["own-w4a4-s0"].config["train"]
    assert found["own-w4a4-s0"].config["train"]["lr0"] != 0.0002
    assert found["own-w4a4-s0"].config["head"]["kind"] == "anchor_free", "another recipe takes nothing"
    assert found["other-head-w4a4-s0"].config["quant"]["init"] == "auto", "it does not fit"


def test_methods_from_the_baseline_are_planned_likewise(tmp_path: Path) -> None:
    of = study(methods=["lsq"], weights="baseline", overrides={"imgsz": 96})
    quantized = trainings(of, tmp_path)["lsq-w4a4-s0"]
    assert (quantized.config["train"]["imgsz"], quantized.config["quant"]["init"]) == (96, "mse")
    assert trainings(study(methods=["lsq"]), tmp_path)["lsq-w4a4-s0"].config["quant"]["init"] == "auto"


def test_training_on_in_full_precision_differs_in_its_widths_alone(tmp_path: Path) -> None:
    on = {"name": "fp32 trained on", "bits": 32, "options": {"hyp": "qat_finetune"}}
    found = trainings(study(on, {"name": "lsq+"}, overrides={"imgsz": 96}), tmp_path)
    widths = {"quant.weight_bits": 32, "quant.act_bits": 32}
    assert changed(found["fp32-trained-on-s0"], found["lsqplus-w4a4-s0"]) == widths


def test_each_option_reaches_the_command_and_the_plan(tmp_path: Path) -> None:
    options = {
        "method": "lsq", "init": "minmax", "offset": "float", "per_channel": True, "average": 0.1, "epoch0": False,
        "freeze_codes": 0.01, "teacher": "baseline", "distill": "both", "hyp": "qat_finetune", "mosaic": 0.1,
    }  # fmt: skip
    more = {"epochs": 3, "method": "pact"}
    found = trainings(study({"name": "all", "options": options}, {"name": "plain"}, variant_options=more), tmp_path)
    job, teacher = found["all-w4a4-s0"], str(found["fp32-s0"].checkpoint)
    assert job.command() == [
        "train", "--model", "yolov5n.yaml", "--data", "demo", "--method", "lsq", "--init", "minmax", "--offset",
        "float", "--per-channel", "--bits", "4", "--seed", "0", "--weights", teacher, "--average", "0.1",
        "--no-epoch0", "--freeze-codes", "0.01", "--teacher", teacher, "--distill", "both", "--hyp", "qat_finetune",
        "epochs=3", "mosaic=0.1", f"project={tmp_path}/trainings", "name=yolov5n-all-w4a4-s0",
    ]  # fmt: skip
    assert job.group == "train yolov5n.yaml quantized with a teacher"
    assert changed(job, found["plain-w4a4-s0"]) == {
        "run.average": 0.1, "run.epoch0": False, "quant.method": "lsq", "quant.init": "minmax",
        "quant.offset": "float", "quant.per_channel": True, "distill.teacher": teacher, "distill.losses": "both",
        "distill.logits": 1.0, "distill.features": 1.0, "distill.projector": False, "distill.temperature": 4.0,
        "oscillation.freeze_codes": 0.01, "oscillation.dampen": 0.0, "oscillation.transition_rate": 0.0,
        "oscillation.transition_eta": 1.0, "train.mosaic": 0.1,
    }  # fmt: skip


def test_the_options_of_a_plan_are_those_of_the_command() -> None:
    for track, words in (("detect", ["train"]), ("classify", ["classify", "train"])):
        command: Any = typer.main.get_command(app)
        for word in words:
            command = command.commands[word]
        options = {one.name for one in command.params if one.param_type_name == "option"}
        assert {*_QUANT_OPTIONS} <= options
        assert {*_options_of(track)} - options <= {"recipe", "epoch0"}  # set by hyp and no_epoch0


def test_an_option_that_the_command_cannot_switch_off_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "qat_finetune.yaml"
    recipe.write_text("quant: {per_channel: true}")
    off = {"per_channel": False}
    assert trainings(study({"name": "a", "options": off}), tmp_path)["a-w4a4-s0"]
    with pytest.raises(ConfigError, match="per_channel: the recipe says True, and no option of the command says False"):
        jobs_of(study({"name": "a", "options": {**off, "hyp": str(recipe)}}), tmp_path)


def test_a_batch_that_the_machine_chooses_cannot_be_planned_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch=-1 is chosen by the machine"):
        jobs_of(study({"name": "lsq+"}, overrides={"batch": -1}), tmp_path)


def test_variants_of_a_classifier(tmp_path: Path) -> None:
    options = {"hyp": "cifar_demo", "epochs": 3, "init": "mse", "teacher": "baseline"}
    of = study({"name": "taught", "options": options}, track="classify", model="resnet20", recipe="cifar_demo")
    base, job = (one for one in jobs_of(of, tmp_path) if isinstance(one, Training))
    assert job.command() == [
        "classify", "train", "--model", "resnet20", "--data", "demo", "--init", "mse", "--bits", "4", "--seed", "0",
        "--weights", str(base.checkpoint), "--hyp", "cifar_demo", "epochs=3", f"teacher={base.checkpoint}",
        f"project={tmp_path}/trainings", "name=resnet20-taught-w4a4-s0",
    ]  # fmt: skip
    assert job.config["distill"]["teacher"] == str(base.checkpoint)
    assert job.needs == (base,)


def test_clean_images_are_measured_by_the_names_of_the_variants(tmp_path: Path) -> None:
    analyses = Analyses(table1=False, heatmaps=False, curves=False, noise=True, accuracy=True, reference="on")
    of = study({"name": "on", "bits": 32}, {"name": "lsq+", "bits": 2}, analyses=analyses)
    jobs = {job.name: job for job in jobs_of(of, tmp_path)}
    stems = ["yolov5n-fp32-s0", "yolov5n-on-s0", "yolov5n-lsqplus-w2a2-s0"]
    names = [f"noise/{stems[0]}", f"noise/{stems[2]}", "robustness", "accuracy"]
    assert list(jobs) == [*(f"train/{stem}" for stem in stems), *names]
    assert jobs[names[0]].command()[2:6] == ["--bits", "4,2,32", "--methods", "lsq+"]
    robustness = jobs["robustness"]
    assert isinstance(robustness, Robustness)
    assert robustness.total == 3
    for one in robustness.trainings:
        one.checkpoint.parent.mkdir(parents=True)
        one.checkpoint.write_text(one.name)
        (one.folder / "records.csv").touch()
    base, on, quantized = (str(one.checkpoint) for one in robustness.trainings)
    assert robustness.command()[1:7] == [base, f"on={on}", f"lsq+={quantized}", "--data", "demo", "--corruptions"]
    assert jobs["accuracy"].command() == [
        "table", str(robustness.records), "--kind", "accuracy", "--reference", "on", "--out",
        str(tmp_path / "analyses" / "accuracy.txt"),
    ]  # fmt: skip


@pytest.mark.parametrize(("reference", "is_right"), [("lsq+", True), ("lsq+ 4", True), ("lsq", False), ("fp32", False)])
def test_the_reference_is_a_variant(reference: str, is_right: bool, tmp_path: Path) -> None:
    of = study({"name": "lsq+"}, analyses=Analyses(table1=False, accuracy=True, reference=reference))
    if is_right:
        assert jobs_of(of, tmp_path)
        return
    with pytest.raises(ConfigError, match=rf"reference='{reference}' is not a variant.* There are: lsq\+\."):
        jobs_of(of, tmp_path)


@pytest.mark.parametrize("options", [{"weights": "gone.pt"}, {"teacher": "gone.pt"}])
def test_a_missing_checkpoint_of_a_variant_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    of = study({"name": "a", "options": options})
    with pytest.raises(MissingFileError, match=r"There is no checkpoint 'gone\.pt'"):
        check(of, jobs_of(of, tmp_path), lambda: tmp_path)


def test_a_study_with_a_teacher_may_be_moved(tmp_path: Path) -> None:
    of = study({"name": "taught", "options": {"teacher": "baseline"}})
    first, moved = (trainings(of, tmp_path / name)["taught-w4a4-s0"] for name in ("first", "second"))
    moved.folder.mkdir(parents=True)
    (moved.folder / "config.yaml").write_text(dumps(dict(first.config)))
    check(of, jobs_of(of, tmp_path / "second"), lambda: tmp_path)


def test_a_recipe_s_teacher_can_be_unset_and_be_the_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "qat_finetune.yaml"
    recipe.write_text("distill: {teacher: weights}")
    of = study({"name": "taught"}, {"name": "alone", "options": {"teacher": None}},
               {"name": "by the weights", "options": {"hyp": "qat_finetune", "teacher": "weights"}},
               variant_options={"hyp": str(recipe)})  # fmt: skip
    found = trainings(of, tmp_path)
    assert found["taught-w4a4-s0"].config["distill"]["teacher"] == str(found["fp32-s0"].checkpoint)
    assert found["by-the-weights-w4a4-s0"].config["distill"]["teacher"] == str(found["fp32-s0"].checkpoint)
    assert "distill" not in found["alone-w4a4-s0"].config
    assert "--teacher none" in " ".join(found["alone-w4a4-s0"].command())
    check(of, jobs_of(of, tmp_path), lambda: tmp_path)
