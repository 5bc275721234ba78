"""The built-in demo set: the same everywhere, valid, varied, and safe on disk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from qreg_yolo.datasets.demo import scene, write
from qreg_yolo.datasets.demo.scene import CLASS_NAMES, GENERATOR_VERSION, Label, draw_image
from qreg_yolo.datasets.demo.write import ensure_demo_data, find_damage, label_text, write_demo_data

N_SCENES = 40
GOLDEN_LABELS = "557260bf58bf2ede"
GOLDEN_PIXELS = "8e36d43876c6fbac"
SIZE = {"n_train": 4, "n_val": 2}


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[tuple[np.ndarray, list[Label]]]]:
    """The first images of both splits of the default set."""
    return {split: [draw_image(split, index) for index in range(N_SCENES)] for split in ("train", "val")}


def boxes_xyxy_abs(image: np.ndarray, labels: list[Label]) -> np.ndarray:
    """Corners in pixels, ``(n, 4)``."""
    h, w = image.shape[:2]
    return np.array(
        [[(b.x - b.w / 2) * w, (b.y - b.h / 2) * h, (b.x + b.w / 2) * w, (b.y + b.h / 2) * h] for b in labels]
    )


def read_all(folder: Path) -> dict[str, bytes]:
    """Labels and YAML as bytes, images as decoded pixels, by relative path."""
    files = [path for path in folder.rglob("*") if path.suffix in {".png", ".txt"}]
    return {
        path.relative_to(folder).as_posix(): cv2.imread(str(path)).tobytes()
        if path.suffix == ".png"
        else path.read_bytes()
        for path in files
    }


# ---------------------------------------------------------------------------------------------- the draws


def test_golden_labels_and_pixels(scenes):
    """Fails when one label or pixel changes: raise GENERATOR_VERSION then, and update both sums."""
    text, pixels = "", hashlib.sha256()
    for split in ("train", "val"):
        for image, labels in scenes[split]:
            text += label_text(labels)
            pixels.update(image.tobytes())
    assert (hashlib.sha256(text.encode()).hexdigest()[:16], pixels.hexdigest()[:16]) == (GOLDEN_LABELS, GOLDEN_PIXELS)


def test_drawing_does_not_touch_the_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    draw_image("train", 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_image_does_not_depend_on_what_was_drawn_before(scenes):
    np.testing.assert_array_equal(draw_image("val", 7)[0], scenes["val"][7][0])


def test_no_two_images_are_equal(scenes):
    hashes = {image.tobytes() for split in scenes.values() for image, _ in split}
    assert len(hashes) == 2 * N_SCENES
    assert len(set(scene.SPLIT_SEEDS.values())) == 2


def test_labels_are_valid_boxes_of_known_classes(scenes):
    for split in scenes.values():
        for image, labels in split:
            for label in labels:
                assert label.class_id in range(len(CLASS_NAMES))
                assert all(0 <= value <= 1 for value in label[1:])
            if labels:
                corners = boxes_xyxy_abs(image, labels)
                np.testing.assert_allclose(corners, corners.round(), atol=1e-9)
                assert (corners >= 0).all()
                assert (corners[:, 2:] <= image.shape[1::-1]).all()
                assert (corners[:, 2:] - corners[:, :2] >= 2).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_is_present_in_both_splits(scenes, split):
    counts = np.bincount([b.class_id for _, labels in scenes[split] for b in labels], minlength=len(CLASS_NAMES))
    assert (counts >= 8).all()


def test_images_vary_in_size_and_number_of_objects(scenes):
    assert len({image.shape for image, _ in scenes["train"]}) >= 4
    assert {image.dtype for image, _ in scenes["train"]} == {np.dtype(np.uint8)}
    assert {1, 2, 3, 4} <= {len(labels) for _, labels in scenes["train"]}


def test_objects_span_small_to_large(scenes):
    sides = [max(b.w * im.shape[1], b.h * im.shape[0]) for im, labels in scenes["train"] for b in labels]
    assert min(sides) < 20
    assert max(sides) > 70
    assert 24 < np.median(sides) < 56


def test_some_objects_are_truncated_and_some_overlap(scenes):
    truncated = overlapping = 0
    for image, labels in scenes["train"]:
        corners = boxes_xyxy_abs(image, labels).reshape(-1, 4)
        at_border = (corners[:, :2] == 0).any(axis=1) | (corners[:, 2] == image.shape[1])
        truncated += int(at_border.sum())
        low, high = np.maximum(corners[:, None, :2], corners[:, :2]), np.minimum(corners[:, None, 2:], corners[:, 2:])
        overlapping += int(((high - low > 0).all(axis=2).sum() - len(corners)) // 2)
    assert truncated >= 8
    assert overlapping >= 8


def test_mostly_hidden_object_gets_no_label_and_half_hidden_one_the_visible_box():
    owner = np.full((10, 20), -1, dtype=np.int32)
    owner[2:6, 4:9] = 0  # 20 pixels visible
    assert scene._visible_label(owner, 0, area=67, class_id=1) is None  # 29.9 %
    assert scene._visible_label(owner, 0, area=66, class_id=1) == Label(1, 6.5 / 20, 4 / 10, 5 / 20, 4 / 10)
    assert scene._visible_label(owner, 7, area=5, class_id=1) is None


def test_painted_disc_covers_the_area_of_an_ellipse_and_its_box():
    class_id = CLASS_NAMES.index("disc")
    shape, texture, _ = scene._CLASSES[class_id]
    colors = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.int32)
    unturned = scene._SIN_1024.index(0)
    item = scene._Item(class_id, shape, texture, 40, 30, 20, 10, unturned, 400, colors)
    image, owner = np.full((60, 80, 3), 128, dtype=np.int32), np.full((60, 80), -1, dtype=np.int32)
    area = scene._paint(image, owner, item, 0)
    assert area == pytest.approx(np.pi * 20 * 10, rel=0.03)
    label = scene._visible_label(owner, 0, area, class_id)
    assert label is not None
    assert (label.x, label.y, label.w, label.h) == pytest.approx((40 / 80, 30 / 60, 40 / 80, 20 / 60), abs=0.02)


# ---------------------------------------------------------------------------------------------- the files


def test_two_writes_are_equal(tmp_path):
    for name in "ab":
        write_demo_data(tmp_path / name, n_train=3, n_val=2)
    first, second = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert len(first) == 10
    assert first == second


def test_stored_pixels_are_the_drawn_ones(tmp_path):
    write_demo_data(tmp_path, n_train=1, n_val=1)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "images/val/val-0000.png")), draw_image("val", 0)[0])


def test_yaml_names_the_folder_and_the_classes(tmp_path):
    folder = tmp_path / 'a "quoted": ümlaut'
    data = yaml.safe_load(write_demo_data(folder, n_train=1, n_val=1).read_text(encoding="utf-8"))
    assert data == {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(CLASS_NAMES)),
    }


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 image"):
        write_demo_data(tmp_path, n_train=4, n_val=0)


def test_ensure_builds_once(tmp_path):
    path = ensure_demo_data(tmp_path, **SIZE)
    assert path == tmp_path / f"demo-v{GENERATOR_VERSION}-4-2" / "demo.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["path"] == str(path.parent)
    times = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}
    (path.parent / "labels/train.cache").write_bytes(b"Ultralytics' own file")
    assert ensure_demo_data(tmp_path, **SIZE) == path
    assert {p: p.stat().st_mtime_ns for p in times if p.is_file()} == {p: t for p, t in times.items() if p.is_file()}
    assert [p.name for p in tmp_path.iterdir()] == [path.parent.name]


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [("/a/own", "/b", "/a/own"), (None, "/b", "/b/qreg-yolo"), (None, None, "/home/me/.cache/qreg-yolo")],
)
def test_cache_root_follows_the_environment(monkeypatch, own, shared, expected):
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("QREG_YOLO_CACHE", own), ("XDG_CACHE_HOME", shared)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert write.default_cache_root() == Path(expected)


def _flip_a_byte(folder: Path) -> None:
    path = folder / "images/train/train-0001.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "byte flipped": _flip_a_byte,
    "image lost": lambda folder: (folder / "images/val/val-0000.png").unlink(),
    "label emptied": lambda folder: (folder / "labels/train/train-0000.txt").write_text(""),
    "foreign image": lambda folder: (folder / "images/train/cat.jpg").write_bytes(b"x"),
    "manifest lost": lambda folder: (folder / "manifest.json").unlink(),
    "manifest torn": lambda folder: (folder / "manifest.json").write_text('{"sha256": {'),
    "yaml lost": lambda folder: (folder / "demo.yaml").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_set_is_repaired(tmp_path, kind):
    folder = ensure_demo_data(tmp_path, **SIZE).parent
    whole = read_all(folder)
    (folder / "labels/train.cache").write_bytes(b"made from the damaged files")
    DAMAGES[kind](folder)
    assert find_damage(folder, **SIZE)
    ensure_demo_data(tmp_path, **SIZE)
    assert find_damage(folder, **SIZE) == []
    assert read_all(folder) == whole
    assert not (folder / "labels/train.cache").exists()


def test_moved_set_is_repaired(tmp_path):
    ensure_demo_data(tmp_path / "old", **SIZE)
    (tmp_path / "old").rename(tmp_path / "new")
    path = ensure_demo_data(tmp_path / "new", **SIZE)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["path"] == str(path.parent)


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(split, index):
        if index == 2:
            raise KeyboardInterrupt
        return draw_image(split, index)

    monkeypatch.setattr(write, "draw_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure_demo_data(tmp_path, **SIZE)
    assert list(tmp_path.iterdir()) == []


def test_killed_build_leaves_no_half_set(tmp_path):
    """A process that dies without cleaning up leaves its scratch folder only, and the next build succeeds."""
    code = (
        "import os, sys; from pathlib import Path; from qreg_yolo.datasets.demo import write as d\n"
        "draw = d.draw_image\n"
        "d.draw_image = lambda split, index: os._exit(9) if index == 2 else draw(split, index)\n"
        "d.ensure_demo_data(Path(sys.argv[1]), n_train=4, n_val=2)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert not (tmp_path / f"demo-v{GENERATOR_VERSION}-4-2").exists()
    assert find_damage(ensure_demo_data(tmp_path, **SIZE).parent, **SIZE) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_at_once_both_succeed(tmp_path, damaged):
    if damaged:
        (ensure_demo_data(tmp_path / "cache", **SIZE).parent / "images/val/val-0000.png").unlink()
    ready = tmp_path / "ready"
    ready.mkdir()
    code = (
        "import os, sys, time; from pathlib import Path; from qreg_yolo.datasets.demo import write as d\n"
        "root, ready = Path(sys.argv[1]), Path(sys.argv[2]); (ready / str(os.getpid())).touch()\n"
        "while len(list(ready.iterdir())) < 2: time.sleep(0.001)\n"
        "print(d.ensure_demo_data(root, n_train=4, n_val=2))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), str(ready)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(subprocess.run, command, capture_output=True, text=True, timeout=60) for _ in range(2)]
        results = [run.result() for run in runs]
    folder = tmp_path / "cache" / f"demo-v{GENERATOR_VERSION}-4-2"
    assert [(r.returncode, r.stdout.strip()) for r in results] == [(0, str(folder / "demo.yaml"))] * 2, results
    assert find_damage(folder, **SIZE) == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_needs_neither_torch_nor_the_host():
    code = "import sys, qreg_yolo.datasets.demo.write; sys.exit(bool({'torch', 'ultralytics'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
