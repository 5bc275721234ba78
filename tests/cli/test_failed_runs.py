"""Inputs that exist but cannot be used: exit 1, one message that names the file, nothing is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Run, assert_refused, qreg_yolo


def train(hyp: Path, data: Path, *options: object) -> object:
    return qreg_yolo("train", "--hyp", hyp, "--data", data, "--threads", 1, *options)


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """Returns the data YAML of a copy that a test may spoil."""
    copy = tmp_path / "own"
    shutil.copytree(data.parent, copy)
    yaml = copy / data.name
    yaml.write_text(data.read_text().replace(str(data.parent), str(copy)))
    return yaml


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_copy_is_sound(own_data: Path) -> None:
    from qreg_yolo.detect.data_check import check_data

    assert [len(check_data(own_data, split).images) for split in ("train", "val")] == [8, 4]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train: images/train", "", ["has no 'train'"]),
        ("train: images/train", "train: 5", ["train is 5"]),
        ("train: images/train", "train: images/nowhere", ["images/nowhere'", "does not exist"]),
        ("train: images/train", "train: labels/train", ["train ('", "labels/train') has no images"]),
        ("val: images/val", "", ["has no 'val'"]),
        ("names:", "nmaes:", ["has no 'names'"]),
        ("path:", "path: 5\nold:", ["path is 5", "not a path. Give a folder"]),
        ("names:", "nc: 9\nnames:", ["nc is 9", "5 classes"]),
        ("  0: ", "  7: ", ["class ids", "from 0"]),
        ("names:", "names: [", ["line "]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_descriptions(old: str, new: str, words: list[str], own_data: Path, hyp: Path) -> None:
    replace(own_data, old, new)
    assert_refused(train(hyp, own_data), 1, own_data.name, *words)


def test_a_data_description_that_is_no_mapping(hyp: Path, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    assert_refused(train(hyp, tmp_path / "list.yaml"), 1, "list.yaml", "names:")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("5 0.5 0.5 0.1 0.1", ["class 5", "0 to 4"]),
        ("-1 0.5 0.5 0.1 0.1", ["class -1"]),
        ("1.5 0.5 0.5 0.1 0.1", ["class 1.5"]),
        ("1 50 50 10 10", ["fractions"]),
        ("1 0.5 0.5 0.1", ["4 values"]),
        ("cat 0.5 0.5 0.1 0.1", ["not numbers"]),
        ("1 nan 0.5 0.1 0.1", ["fractions"]),
    ],
)
def test_labels(line: str, words: list[str], own_data: Path, hyp: Path) -> None:
    label = own_data.parent / "labels" / "train" / "train-0003.txt"
    label.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    assert_refused(train(hyp, own_data), 1, str(label), "line 2", *words)


def test_labels_in_the_wrong_place(own_data: Path, hyp: Path) -> None:
    (own_data.parent / "labels").rename(own_data.parent / "annotations")
    assert_refused(train(hyp, own_data), 1, "none of 8 images", str(own_data.parent / "labels" / "train"))


@pytest.mark.parametrize("fault", ["no image", "empty", "cut PNG", "cut JPEG", "tiny"])
def test_corrupt_images_are_named(fault: str, own_data: Path, hyp: Path) -> None:
    from PIL import Image

    image = own_data.parent / "images" / "train" / "train-0002.png"
    content = image.read_bytes()
    if fault == "cut JPEG":
        picture = Image.open(image).convert("RGB")
        image.unlink()
        image = image.with_suffix(".jpg")
        picture.save(image)
        content = image.read_bytes()
    if fault == "tiny":
        Image.new("RGB", (9, 40)).save(image)
    else:
        image.write_bytes({"no image": b"hello", "empty": b""}.get(fault, content[: len(content) // 2]))
    before = image.read_bytes()
    assert_refused(train(hyp, own_data), 1, str(image), "1 of 8 images")
    assert image.read_bytes() == before, "the user's file was changed"


def test_many_faults_are_counted_and_shown(own_data: Path, hyp: Path) -> None:
    for image in (own_data.parent / "images" / "train").iterdir():
        image.write_bytes(b"")
    outcome = train(hyp, own_data)
    assert_refused(outcome, 1, "8 of 8 images", "train-0000.png", "train-0007.png")


@pytest.mark.parametrize("command", ["train", "resume", "val", "predict", "inspect"])
@pytest.mark.parametrize("fault", ["text", "cut", "empty", "no model", "suffix"])
def test_weights(command: str, fault: str, trained: Run, data: Path, hyp: Path, tmp_path: Path) -> None:
    path = tmp_path / ("weights.bin" if fault == "suffix" else "weights.pt")
    whole = trained.best.read_bytes()
    if fault == "no model":
        torch.save({"hello": 1}, path)
    else:
        path.write_bytes({"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}.get(fault, whole))
    commands = {
        "train": ["train", "--hyp", hyp, "--data", data, "--weights", path],
        "resume": ["train", "--resume", path],
        "val": ["val", path],
        "predict": ["predict", path, data.parent],
        "inspect": ["inspect", path],
    }
    assert_refused(qreg_yolo(*commands[command]), 1, str(path))


def test_models_that_are_no_detectors(hyp: Path, data: Path, tmp_path: Path) -> None:
    assert_refused(train(hyp, data, "--model", "yolov8n-seg.yaml"), 1, "'segment'", "detection")
    assert_refused(train(hyp, data, "--model", data), 1, data.name, "'backbone'")
    (tmp_path / "broken.yaml").write_text("{a: [")
    assert_refused(train(hyp, data, "--model", tmp_path / "broken.yaml"), 1, "broken.yaml")


def test_a_model_that_cannot_be_built(hyp: Path, data: Path, tmp_path: Path) -> None:
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    description = yaml_model_load("yolov5n.yaml")
    description["scales"] = {"n": True}
    model = tmp_path / "yolov5n-odd.yaml"
    model.write_text(yaml.safe_dump(description))
    assert_refused(train(hyp, data, "--model", model), 1, model.name, "cannot be built", "TypeError", "yolov5n.yaml")


@pytest.mark.parametrize("command", ["train", "val", "predict"])
def test_a_project_folder_that_cannot_be_written(
    command: str, trained: Run, hyp: Path, data: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file" / "project"  # below a regular file: not even root may write there
    blocked.parent.touch()
    commands = {
        "train": ["train", "--hyp", hyp, "--data", data],
        "val": ["val", trained.best],
        "predict": ["predict", trained.best, data.parent / "images" / "val"],
    }
    assert_refused(qreg_yolo(*commands[command], f"project={blocked}"), 1, str(blocked), "project=")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes everywhere")
def test_a_read_only_project_folder(hyp: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_refused(train(hyp, data, f"project={tmp_path / 'locked'}"), 1, "locked", "project=")


@pytest.mark.parametrize("bits", [4, 32])
def test_a_last_batch_of_one_image_at_32_pixels(bits: int, hyp: Path, data: Path) -> None:
    outcome = train(hyp, data, "batch=7", "--bits", bits)
    assert_refused(outcome, 1, "A batch of one image at imgsz=32", "Give another batch")


def test_sources_without_images(trained: Run, data: Path) -> None:
    assert_refused(qreg_yolo("predict", trained.best, "nowhere"), 2, "'nowhere'")
    assert qreg_yolo("predict", trained.best, data.parent / "labels", "--threads", 1).code == 2
    assert qreg_yolo("predict", trained.best, f"{data.parent}/*.jpg", "--threads", 1).code == 2


def test_a_failed_run_leaves_the_last_one_as_it_was(trained: Run, hyp: Path, own_data: Path) -> None:
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    (own_data.parent / "images" / "val" / "val-0001.png").write_bytes(b"")
    outcome = train(hyp, own_data, f"project={trained.folder.parent}", "name=run")
    assert_refused(outcome, 1, "val-0001.png")
    assert {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()} == before
    assert [p.name for p in trained.folder.parent.iterdir()] == ["run"]
