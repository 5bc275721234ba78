"""The table of Ultralytics' arguments against its own list; every argument that works runs once."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.config.key_values import parse_overrides
from qreg_yolo.config.ultralytics_arguments import ARGUMENTS, KINDS, Command, without_effect
from qreg_yolo.detect import QuantDetectionTrainer, QuantYOLO
from qreg_yolo.detect.compat import as_taken
from qreg_yolo.detect.preflight import RESUMABLE, check_arguments, check_classes, check_freeze
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant import quantized_layers
from tests.cli.conftest import Outcome, qreg_yolo
from tests.detect.conftest import Trained, ultralytics_warnings

TINY = ("epochs=1", "imgsz=32", "batch=2", "nbs=2", "optimizer=SGD", "warmup_epochs=0", "workers=0", "plots=false")
"""What a run of `TRAIN` has where it says nothing else."""
TRAIN: dict[str, Sequence[str]] = {
    "augmentation": (
        "hsv_h=0.1", "hsv_s=0.1", "hsv_v=0.1", "degrees=10", "translate=0.2", "scale=[0.5,1.5]", "shear=5",
        "perspective=0.001", "flipud=0.5", "fliplr=0.1", "bgr=0.5", "mosaic=0.5", "mixup=0.5", "cutmix=0.5",
        "copy_paste=0.5", "copy_paste_mode=mixup",
    ),
    "schedule": (
        "epochs=3", "cos_lr=true", "close_mosaic=1", "lr0=0.001", "lrf=0.1", "momentum=0.8", "weight_decay=0.001",
        "warmup_epochs=1", "warmup_momentum=0.5", "warmup_bias_lr=0.05", "patience=1", "save_period=1", "val=false",
        "nbs=4", "optimizer=MuSGD", "deterministic=false", "seed=3",
    ),
    "validation": (
        "rect=true", "single_cls=true", "verbose=false", "conf=0.01", "iou=0.5", "max_det=10", "agnostic_nms=true",
        "save_txt=true", "save_conf=true", "save_json=true", "visualize=true", "plots=true", "augment=true",
        "nms=true",
    ),
    "data": (
        "imgsz=64", "multi_scale=0.5", "fraction=[1.0,1]", "channels_last=false", "cache=ram",
        "workers=1", "device=cpu", "time=0.0001", "classes=[0]", "amp=bf16", "exist_ok=true", "box=5", "cls=1",
        "cls_pw=0.5", "dfl=1",
    ),
    "rectangles of two heads": ("rect=true", "--head=anchor", "imgsz=64"),
    "full precision": ("rect=true", "--bits=32", "batch=-1", "amp=fp16", "device=-1", "nms=false"),
    "frozen layers": ("--bits=32", "freeze=[0,1,23.cv2]", "multi_scale=0.2"),
    "number of frozen layers": (
        "--bits=32", "freeze=3", "batch=0.5", "imgsz=[32,48]", "classes=1", "cache=true", "optimizer=auto",
    ),
    "size that is no multiple of 32": ("imgsz=40", "optimizer=radam", "scale=0.1", "fraction=1.0", "cls_remap=false"),
    "a branch without NMS": ("model=yolo26n.yaml", "nms=false"),
    "compiled": ("compile=true",),
}  # fmt: skip
"""Runs of ``train``; `model`, `data`, `project` and `name` are in all of them."""
VAL: dict[str, Sequence[str]] = {
    "files": (
        "save_txt=true", "save_conf=true", "save_json=true", "visualize=true", "show_labels=false", "show_conf=false",
        "plots=true", "conf=0.01", "iou=0.5", "max_det=10", "agnostic_nms=true", "verbose=false", "device=cpu",
    ),
    "data": (
        "split=train", "rect=false", "single_cls=true", "classes=[0]", "fraction=[1,1.0]", "cache=ram", "workers=1",
        "batch=1", "imgsz=[64,32]", "channels_last=true", "exist_ok=true", "nms=true", "plots=false",
    ),
    "augmented": ("augment=true", "imgsz=64", "nms=false", "plots=false"),
    "compiled": ("compile=true", "plots=false"),
}  # fmt: skip
PREDICT: dict[str, Sequence[str]] = {
    "pictures": (
        "save=true", "save_txt=true", "save_conf=true", "save_crop=true", "show_labels=false", "show_conf=false",
        "show_boxes=false", "line_width=1", "conf=0.001", "iou=0.5", "max_det=5", "agnostic_nms=true", "classes=0,1",
        "batch=2", "imgsz=[32,64]", "rect=false", "device=cpu", "exist_ok=true", "verbose=true", "nms=true",
        "channels_last=false", "show=true",
    ),
    "activations": ("visualize=true", "imgsz=64"),
    "augmented": ("augment=true", "imgsz=64", "save=false"),
    "video": ("VIDEO", "vid_stride=2", "save_frames=true", "imgsz=32"),
    "stream": ("STREAM", "stream_buffer=true", "imgsz=32"),
    "compiled": ("compile=default", "imgsz=32"),
}  # fmt: skip
EVERYWHERE = {"project", "name"}
NAME = "exp #1 'a' 50% [x]"


def test_the_table_has_ultralytics_own_arguments() -> None:
    from ultralytics.cfg import CFG_BOOL_KEYS, CFG_FLOAT_KEYS, CFG_FRACTION_KEYS, CFG_INT_KEYS, DEFAULT_CFG_DICT

    from qreg_yolo.config.key_values import Kind

    assert [*ARGUMENTS] == [*DEFAULT_CFG_DICT], "Ultralytics' list has changed: say what becomes of each argument"
    for kind, keys in (
        (Kind.BOOL, CFG_BOOL_KEYS), (Kind.NUMBER, CFG_FLOAT_KEYS | CFG_FRACTION_KEYS), (Kind.WHOLE, CFG_INT_KEYS),
    ):  # fmt: skip
        assert not [key for key in keys if kind not in KINDS[key]]


def test_the_page_has_the_table_of_the_code() -> None:
    from tools.ultralytics_arguments import PAGE, page

    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run: python -m tools.ultralytics_arguments"
    assert ", ".join(f"`{name}`" for name in RESUMABLE) in " ".join(text.split())


@pytest.mark.parametrize(("command", "groups"), [("train", TRAIN), ("val", VAL), ("predict", PREDICT)])
def test_every_argument_that_works_is_run_with_another_value_than_its_default(
    command: Command, groups: dict[str, Sequence[str]]
) -> None:
    from qreg_yolo.config.ultralytics_keys import host_defaults

    words = [word for group in groups.values() for word in group if "=" in word and not word.startswith("--")]
    run = {
        key
        for word in (*words, *(TINY if command == "train" else ()))
        for key, value in parse_overrides([word], KINDS).items()
        if value != host_defaults()[key]
    }
    works = {name for name, argument in ARGUMENTS.items() if argument.use(command).status == "works"}
    own = {"val": {"data"}, "train": {"data"}, "predict": set()}[command]
    alike = {"val": {"rect"}, "predict": {"rect", "save", "verbose"}, "train": set()}[
        command
    ]  # the command's own default differs
    assert works - run - EVERYWHERE - own - alike == set()
    assert run - works == set()


def test_arguments_without_effect_are_named_in_one_line() -> None:
    assert without_effect(["epochs", "name"], "train") is None
    said = without_effect(["dropout", "epochs", "opset"], "train")
    assert said == "Without effect in train: dropout (for classification), opset (for export)."
    assert without_effect(["lr0"], "val") == "Without effect in val: lr0 (for training)."


@pytest.mark.parametrize(("arguments", "command", "words"), [
    ({"batch": 0}, "train", "batch=0"), ({"batch": 1.5}, "train", "batch=1.5"), ({"batch": -1}, "val", "at least 1"),
    ({"batch": 0.5}, "predict", "at least 1"), ({"workers": -1}, "train", "negative"), ({"time": -1}, "train", "time"),
    ({"imgsz": []}, "train", "imgsz"), ({"imgsz": [32, 32, 32]}, "predict", "two"), ({"device": "7"}, "val", "GPUs"),
    ({"device": "tpu"}, "train", "device=tpu"), ({"device": "mps"}, "train", "device=mps"),
    ({"name": "a\nb"}, "val", "printed"), ({"name": "../x"}, "train", "points outside"), ({"conf": 2}, "val", "conf=2"),
])  # fmt: skip
def test_values_that_cannot_work_are_refused_before_the_work(
    arguments: dict[str, Any], command: Command, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=words):
        check_arguments(arguments, command)


@pytest.mark.parametrize(("arguments", "command"), [
    ({"batch": -1}, "train"), ({"batch": 0.7}, "train"), ({"batch": 1}, "val"), ({"device": "cpu"}, "train"),
    ({"imgsz": [32, 64]}, "predict"), ({"name": "exp #1 'a' [x] {y} 100%"}, "train"), ({"name": "model"}, "train"),
])  # fmt: skip
def test_values_that_can_work_are_taken_without_a_word(arguments: dict[str, Any], command: Command) -> None:
    with ultralytics_warnings() as said:
        check_arguments(arguments, command)
    assert said == []


def test_frozen_layers_are_some_of_the_model(plain: DetectionModel) -> None:
    for freeze in (None, 0, 3, 7, [0, 5], ["7.cv2", 1], []):
        check_freeze(plain, freeze)
    for freeze, words in ((8, "nothing to train"), (9, "no layer 8"), ([99], "layer 99"), (["cv9"], "layer cv9")):
        with pytest.raises(ConfigError, match=words):
            check_freeze(plain, freeze)


def test_classes_are_those_of_the_data() -> None:
    for classes in (None, 0, 1, [0, 1]):
        check_classes(classes, ["box", "disc"])
    for classes in (2, -1, [0, 2], []):
        with pytest.raises(ConfigError, match=r"classes 0 to 1 \(box, disc\)"):
            check_classes(classes, ["box", "disc"])


def test_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distill_model=yolov5n.pt is Ultralytics' own .*--teacher"):
        QuantDetectionTrainer(overrides={"model": "yolov5n.yaml", "distill_model": "yolov5n.pt"})


def test_a_checkpoint_is_read_whatever_its_path(trained: Trained, tmp_path: Path) -> None:
    for name in ("it's/best.pt", "o/yolov5n.pt", "a #1 [x]/100% 'q'.pt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.best, path)
        assert quantized_layers(QuantYOLO(str(path)).model)
    with as_taken(Path("o/yolov5n.pt")) as taken:
        assert taken.is_symlink()
    with as_taken(Path("u/best.pt")) as taken:
        assert taken == Path("u/best.pt")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the data YAML of two images per split of 32 px, with polygons of two classes, and a video beside it."""
    folder = tmp_path_factory.mktemp("a set #1 'x' [x]")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(2):
            picture = rng.integers(0, 80, (32 - 8 * number, 32, 3), np.uint8)
            cv2.rectangle(picture, (4, 4), (14, 16), (0, 0, 255), -1)
            cv2.circle(picture, (22, 14), 6, (255, 0, 0), -1)
            assert cv2.imwrite(str(folder / "images" / split / f"{number}.png"), picture)
            lines = ["0 .13 .13 .45 .13 .45 .6 .13 .6", "1 .5 .3 .88 .3 .88 .7 .5 .7"]
            (folder / "labels" / split / f"{number}.txt").write_text("\n".join(lines) + "\n")
    video = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(6):
        video.write(rng.integers(0, 255, (64, 64, 3), np.uint8))
    video.release()
    yaml = folder / "data.yaml"
    yaml.write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [box, disc]\n")
    return yaml


def train(shapes: Path, project: Path, words: Sequence[str], **places: str) -> Outcome:
    """Trains the tiny set at 4 bits through the command line; later words win over `TINY`."""
    keys = {word.partition("=")[0] for word in words}
    rest = [word for word in TINY if word.partition("=")[0] not in keys]
    bits = [] if "--bits" in keys else ["--bits", "4"]
    model = [] if "model" in keys else ["model=yolov5n.yaml"]
    return qreg_yolo(
        "train", *bits, *model, f"data={shapes}", "--threads", 1, *rest, *words, f"project={project}",
        f"name={places.get('name', NAME)}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns best.pt of a run."""
    project = tmp_path_factory.mktemp("checkpoint")
    done = train(shapes, project, (), name="run")
    assert done.code == 0, done.err
    return project / "run" / "weights" / "best.pt"


@pytest.mark.slow
@pytest.mark.parametrize("group", TRAIN)
@pytest.mark.filterwarnings("ignore::Warning:torch")
def test_what_works_in_training(group: str, shapes: Path, tmp_path: Path) -> None:
    done = train(shapes, tmp_path / "p #2", TRAIN[group])
    assert done.code == 0, done.err + done.log[-2000:]
    folder = tmp_path / "p #2" / NAME
    assert (folder / "weights" / "best.pt").is_file()
    assert (folder / "weights" / "last.pt").is_file()
    assert "Without effect" not in done.log
    if group == "schedule":
        assert {path.name for path in (folder / "weights").glob("epoch*.pt")} == {"epoch0.pt", "epoch1.pt", "epoch2.pt"}
    if group == "validation":
        assert list((folder / "labels").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("group", VAL)
def test_what_works_in_measuring(group: str, shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    done = qreg_yolo(
        "val", checkpoint, f"data={shapes}", "--threads", 1, *VAL[group], f"project={tmp_path}", f"name={NAME}"
    )
    assert done.code == 0, done.err + done.log[-2000:]
    assert (tmp_path / NAME / "records.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("group", PREDICT)
def test_what_works_in_prediction(group: str, shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = list(PREDICT[group])
    film = shutil.copy(shapes.with_name("film.avi"), tmp_path)  # Ultralytics parts a list of streams at spaces
    (tmp_path / "list.streams").write_text(f"{film}\n")
    sources = {"VIDEO": shapes.with_name("film.avi"), "STREAM": tmp_path / "list.streams"}
    source = sources[words.pop(0)] if words[0] in sources else shapes.parent / "images" / "val"
    done = qreg_yolo("predict", checkpoint, source, "--threads", 1, *words, f"project={tmp_path}", f"name={NAME}")
    assert done.code == 0, done.err + done.log[-2000:]
    if "save=false" not in words:
        assert list((tmp_path / NAME).iterdir())


CHANGED = (
    "batch=1", "cache=ram", "channels_last=false", "close_mosaic=1", "device=cpu", "freeze=[0]", "imgsz=64",
    "patience=5", "plots=true", "save_period=1", "time=none", "val=false", "workers=1",
)  # fmt: skip


@pytest.mark.slow
def test_what_may_change_when_a_run_is_resumed(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {word.partition("=")[0] for word in CHANGED} == set(RESUMABLE)
    original = QuantDetectionTrainer.run_callbacks

    def interrupted(self: Any, event: str) -> None:
        if event == "on_train_epoch_start" and self.epoch == 1:
            raise KeyboardInterrupt
        original(self, event)

    monkeypatch.setattr(QuantDetectionTrainer, "run_callbacks", interrupted)
    begun = train(shapes, tmp_path, ("epochs=3",))
    assert begun.code == 130, begun.err
    monkeypatch.setattr(QuantDetectionTrainer, "run_callbacks", original)
    hint = next(line for line in begun.log.splitlines() if "Resume with: " in line)
    words = shlex.split(hint.partition("Resume with: ")[2])
    assert Path(words[-1]) == tmp_path / NAME / "weights" / "last.pt"
    done = qreg_yolo(*words[1:], *CHANGED)
    assert done.code == 0, done.err + done.log[-2000:]
    assert len((tmp_path / NAME / "results.csv").read_text().splitlines()) == 4
