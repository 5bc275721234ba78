"""YOLOv5's own head from the command line: a run, what it writes, other weights and classes, what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from qreg_yolo.config import detection
from qreg_yolo.io import records
from tests.cli.conftest import Run, assert_refused, qreg_yolo, train_run
from tests.io.checkpoint_factories import write_classic

NAMES = ["ring", "cross", "other", "triangle", "box", "disc"]


@pytest.fixture(scope="module")
def anchored(hyp: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns a W4A4 run with the anchor head and a gain from the recipe, begun on classic weights."""
    folder = tmp_path_factory.mktemp("anchored")
    write_classic(folder / "classic.pt", nc=6, names=NAMES)
    recipe = folder / "recipe.yaml"
    recipe.write_text(hyp.read_text() + yaml.safe_dump({"head": {"obj": 0.7}}))
    return train_run(
        folder,
        recipe,
        data,
        "--bits",
        4,
        "--head",
        "anchor",
        "--model",
        "yolov5n.yaml",
        "--weights",
        folder / "classic.pt",
    )


def test_a_run_has_the_losses_of_the_head_everywhere(anchored: Run) -> None:
    log = anchored.printed.log
    assert "Transferred 343 of 349 tensors from 'classic.pt' (YOLOv5 weights); untrained: model.24 (6)" in log
    assert "Anchor head of 6 classes: box and objectness rows taken, class rows of 5 of 5 classes by name" in log
    assert "Quantized: 60 convolutions (4 x W8 lsq A8 lsq, 56 x W4 lsq A4 lsq)" in log
    assert log.count("Anchors: best possible recall ") == 1
    with (anchored.folder / "results.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    assert {"train/obj_loss", "val/obj_loss"} <= set(columns)
    assert not [column for column in columns if "dfl" in column]
    head = detection.load(anchored.folder / "config.yaml").head
    assert (head.kind, head.obj, head.box) == ("anchor", 0.7, 0.05)
    table = records.read(anchored.folder / "records.csv")
    assert {"train_obj_loss", "val_obj_loss"} <= set(table["metric"])
    assert set(table["model"]) == {"yolov5n-anchor"}


def test_it_is_measured_and_drawn(anchored: Run, data: Path, tmp_path: Path) -> None:
    for arguments in (
        ["val", anchored.best], ["val", "--weights", anchored.best, "plots=false", "--head", "anchor"],
        ["val", anchored.best.with_suffix(".safetensors"), "plots=false"], ["inspect", anchored.best],
        ["plot", "curves", anchored.folder, "--column", "val/obj_loss", "--out", tmp_path / "loss.png"],
    ):  # fmt: skip
        outcome = qreg_yolo(*arguments, *(["project=out"] if arguments[0] == "val" else []))
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_run_without_a_name_is_told_apart_from_the_other_head(hyp: Path, data: Path) -> None:
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--threads", 1, "--bits", 32, "--head", "anchor")
    assert outcome.code == 0, outcome.err
    assert Path("runs/tiny-anchor-fp32-s0/weights/best.pt").is_file()


def test_the_other_head_on_anchor_weights_is_said(anchored: Run, hyp: Path, data: Path, tmp_path: Path) -> None:
    run = train_run(tmp_path, hyp, data, "--weights", anchored.best, "--bits", 32)
    assert "The checkpoint has the anchor head" in run.printed.log
    assert "--head anchor" in run.printed.log


def test_classes_of_other_numbers_and_names_are_mapped(data: Path, tmp_path: Path) -> None:
    weights, given = tmp_path / "classic.pt", tmp_path / "map.yaml"
    write_classic(weights, nc=6, names=[*NAMES[:-1], "circle"])
    given.write_text("disc: circle\n")
    common = ["--weights", weights, "--data", data, "imgsz=32", "plots=false", f"project={tmp_path}"]
    outcome = qreg_yolo("val", "--head", "anchor", "--class-map", given, *common)
    assert outcome.code == 0, outcome.err
    assert "classic.pt" in outcome.out
    assert_refused(qreg_yolo("val", *common), 1, "6 classes", "5", "--class-map")
    assert_refused(qreg_yolo("val", "--class-map", "coco2voc", *common), 2, "no class 'aeroplane'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--head", "anchors"], ["kind='anchors'", "Did you mean 'anchor'"]),
        (["--autoanchor"], ["autoanchor", "--head anchor"]),
        (["--head", "anchor", "box=7.5"], ["box=7.5", "section 'head'"]),
        (["--head", "anchor", "cls_pw=0.5"], ["cls_pw=0.5", "section 'head'"]),
        (["head=anchor"], ["'head' is an option", "--head"]),
        (["obj=1"], ["'obj'"]),
        (["--resume", "nowhere/last.pt", "--head", "anchor"], ["--head", "--resume"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_usage(arguments: list[str], words: list[str]) -> None:
    assert_refused(qreg_yolo("train", *arguments), 2, *words)
    assert not list(Path("runs").glob("*")), "a run was begun"


def test_a_detector_without_the_levels_is_refused_before_the_work(hyp: Path, data: Path) -> None:
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--model", "yolo26n.yaml", "--head", "anchor")
    assert_refused(outcome, 1, "yolo26n.yaml", "one-to-one", "yolov5n.yaml")
    assert not list(Path("runs").glob("*")), "a run was begun"


def test_val_names_what_does_not_go_together(anchored: Run) -> None:
    assert_refused(qreg_yolo("val", anchored.best, "--head", "anchor_free"), 2, "anchor head", "--head asks for")
    assert_refused(qreg_yolo("val", anchored.best, "--head", "ancor"), 2, "'ancor'", "Did you mean 'anchor'")
    assert_refused(qreg_yolo("val", anchored.best, "--weights", anchored.best), 2, "both given")
    assert_refused(qreg_yolo("val", "--data", "demo"), 2, "checkpoint")
