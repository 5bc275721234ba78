"""Small inputs under the names that the pages use: datasets, weights of others, records, curves, runs that stopped."""

from __future__ import annotations

from pathlib import Path

import yaml

from qreg_yolo.metrics.conditions import DEFAULT_LAYOUT
from tests.analysis.synthetic_records import write_study
from tests.datasets.voc.synthetic_devkit import write_kit
from tests.interruption_helpers import train_interrupted

VOC_IMAGES = {
    "2007": {
        "train": ["000001", "000002", "000003", "000004"],
        "val": ["000005", "000006"],
        "test": ["000007", "000008"],
    },
    "2012": {"train": ["2008_000001", "2008_000002"], "val": ["2008_000003", "2008_000004"]},
}
CURVES = ("box_loss", "obj_loss", "cls_loss")


def write_devkit(folder: Path) -> None:
    """Writes a VOCdevkit of ten images for training and two for tests, large enough for every corruption."""
    write_kit(folder, VOC_IMAGES, width=64, height=48)


def write_yolov5(path: Path) -> None:
    """Writes weights as those of the YOLOv5 repository, with COCO's classes."""
    import ultralytics
    from ultralytics.utils import YAML

    from tests.io.checkpoint_factories import write_classic

    names = YAML.load(Path(ultralytics.__file__).parent / "cfg/datasets/coco.yaml")["names"]
    write_classic(path, nc=len(names), names=names)


def write_yolov5u(path: Path) -> None:
    """Writes weights as those of Ultralytics, with COCO's number of classes."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.save({"model": DetectionModel("yolov5n.yaml", nc=80, verbose=False), "train_args": {}}, path)


def write_cifar_sets(folder: Path) -> None:
    """Writes CIFAR-10 and CIFAR-100 with a few images each."""
    from tests.datasets.synthetic_cifar import write_cifar

    write_cifar(folder, "cifar10", n_test=8)
    write_cifar(folder, "cifar100")


def write_records(path: Path) -> None:
    """Writes records of two detectors' best checkpoints under corruptions, with per-image files."""
    written = write_study(path.parent, bits=(32, 4), severities=(3,), n_images=12)
    assert written == path
    text = written.read_text()
    for folder in (path.parent / "per_image").iterdir():
        folder.rename(folder.with_name(f"{folder.name}-best-00000000"))
        text = text.replace(f"{folder.name},", f"{folder.name}-best-00000000,")
    written.write_text(text)


def write_grid(path: Path) -> None:
    """Writes a study of two short trainings."""
    path.write_text(
        "grid: {track: classify, bits: 4, overrides: {epochs: 1, train_images: 100}}\n"
        "protocol: {corruptions: fog, severities: 1, limit: 20}\n"
        "analyses: {table1: false}\n"
    )


def write_layout(path: Path) -> None:
    """Writes the default layout of the heatmap's conditions."""
    path.write_text(yaml.safe_dump([list(row) for row in DEFAULT_LAYOUT]))


def write_curves(folder: Path) -> None:
    """Writes a run's folder with the ``results.csv`` of a detector with YOLOv5's own head."""
    folder.mkdir()
    lines = [",".join(["epoch", *(f"train/{loss}" for loss in CURVES), *(f"val/{loss}" for loss in CURVES)])]
    for epoch in range(1, 7):
        lines.append(",".join([str(epoch), *[f"{1 / epoch:.4f}"] * 3, *[f"{1.5 / epoch:.4f}"] * 3]))
    (folder / "results.csv").write_text("\n".join([*lines, ""]))


def stop_detector(folder: Path) -> None:
    """Leaves a training run of two epochs that was interrupted in the second."""
    run = train_interrupted(
        "--data", "voc", "epochs=2", "imgsz=32", "batch=5", "plots=false", "project=stopped", f"name={folder.name}",
        cwd=folder.parent.parent,
    )  # fmt: skip
    assert run.returncode == 130, run.stderr


def stop_classifier(folder: Path) -> None:
    """Leaves a classifier's training run of two epochs that was interrupted in the second."""
    from tests.classify.classify_helpers import at_step, command_line

    data = ["--model", "resnet20", "--data", "cifar10", "--data-dir", folder.parent.parent / "DIR", "--no-verify"]
    where = ["--project", folder.parent, "--name", folder.name]
    interrupt = at_step(3, "os.kill(os.getpid(), signal.SIGTERM)")
    run = command_line("classify", "train", *data, "--epochs", 2, "--batch", 40, *where, patch=interrupt)
    assert run.returncode == 143, run.stderr
