"""The dataset: nothing beside the user's images is written or trusted, and nothing is left out in silence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import verify_image_label

from qreg_yolo.datasets.labels import label_fault
from qreg_yolo.detect.data_check import Fault, check_data, scan
from qreg_yolo.detect.dataset import DetectionDataset, build_dataset
from qreg_yolo.errors import DataError
from qreg_yolo.io.files import sha256

TAIL = b"TAIL" + bytes(40)


@pytest.fixture
def own_data(tiny_data: Path, tmp_path: Path) -> Path:
    """Returns the data YAML of a private copy of the eight images, as JPEGs."""
    folder = tmp_path / "set"
    shutil.copytree(tiny_data.parent, folder)
    yaml = folder / tiny_data.name
    yaml.write_text(yaml.read_text().replace(str(tiny_data.parent), str(folder)))
    for path in (folder / "images").rglob("*.*"):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
        path.unlink()
    return yaml


def dataset(yaml: Path, **arguments: Any) -> DetectionDataset:
    data = {"names": check_data(yaml, "train").names, "channels": 3}
    args = get_cfg(overrides={"imgsz": 64, "task": "detect", **arguments})
    folder = str(yaml.parent / "images" / "train")
    return build_dataset(args, folder, 4, data, mode="val", rect=False, stride=32)


def files_of(yaml: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in sorted(yaml.parent.rglob("*")) if path.is_file()}


def first_image(yaml: Path) -> Path:
    return min((yaml.parent / "images" / "train").iterdir())


def test_a_jpeg_with_bytes_after_its_end_stays_as_it_is(own_data: Path) -> None:
    pixels = [array for array, *_ in map(dataset(own_data).load_image, range(8))]
    path = first_image(own_data)
    path.write_bytes(path.read_bytes() + TAIL)
    before = files_of(own_data)
    found = dataset(own_data)
    assert files_of(own_data) == before, "a file of the user changed, or a new one lies beside it"
    assert all(np.array_equal(found.load_image(i)[0], pixels[i]) for i in range(8))
    copy = path.with_name("copy.jpg")
    shutil.copy(path, copy)
    verify_image_label((str(copy), "", "", False, 4, 0, 0, False))
    assert sha256(copy) != before[str(path)], "Ultralytics has stopped to write such files anew"


def test_the_shape_of_such_a_jpeg_is_that_of_its_upright_image(own_data: Path) -> None:
    path = first_image(own_data)
    picture = Image.new("RGB", (60, 40), "red")
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    picture.save(path, exif=exif)
    label = path.with_name("none.txt")
    (whole,) = scan([(path, label)], 4, single_cls=False)
    path.write_bytes(path.read_bytes() + TAIL)
    (found,) = scan([(path, label)], 4, single_cls=False)
    assert isinstance(whole, dict)
    assert isinstance(found, dict)
    assert found["shape"] == whole["shape"] == (60, 40)
    assert found["im_file"] == str(path)


def test_a_jpeg_that_is_cut_short_is_refused(own_data: Path) -> None:
    path = first_image(own_data)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"1 of 8 images.*\n.*{path.name}: image file is truncated"):
        check_data(own_data, "train")


def test_arrays_beside_the_images_are_read_with_cache_disk_alone(own_data: Path) -> None:
    path = first_image(own_data)
    np.save(path.with_suffix(".npy"), np.zeros((64, 64, 3), np.uint8))
    os.utime(path, ns=(0, 0))  # the array is newer
    for cache in (False, "ram"):
        assert dataset(own_data, cache=cache).load_image(0)[0].any(), f"cache={cache} shows what lies beside the image"


def test_with_cache_disk_an_array_is_read_while_it_belongs_to_its_image(own_data: Path) -> None:
    path = first_image(own_data)
    array = path.with_suffix(".npy")
    first = dataset(own_data, cache="disk").load_image(0)[0].copy()
    written = array.stat().st_mtime_ns
    assert np.array_equal(dataset(own_data, cache="disk").load_image(0)[0], first)
    assert array.stat().st_mtime_ns == written, "the array was written again without a reason"
    state = path.stat()
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    os.utime(path, ns=(0, state.st_mtime_ns - 10**9))
    changed = dataset(own_data, cache="disk").load_image(0)[0]
    assert np.abs(changed.astype(int) - first).mean() > 10, "the array of the picture before was read"


def test_arrays_of_others_are_neither_read_nor_replaced(own_data: Path) -> None:
    array = first_image(own_data).with_suffix(".npy")
    np.save(array, np.zeros((64, 64, 3), np.uint8))
    before = files_of(own_data)
    with pytest.raises(DataError, match=rf"1 .npy files next to.*omit cache=disk.*\n.*{array.name}"):
        dataset(own_data, cache="disk")
    assert files_of(own_data) == before
    array.unlink()
    shown = dataset(own_data, cache="disk").load_image(0)[0].copy()
    np.save(array, np.zeros((64, 64, 3), np.uint8))  # in the place of ours
    assert np.array_equal(dataset(own_data, cache="disk").load_image(0)[0], shown)


def test_a_run_that_was_killed_while_it_wrote_arrays_knows_them(
    own_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Any, i: int) -> None:
        np.save(self.npy_files[i], np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(DetectionDataset, "cache_images_to_disk", killed)
        with pytest.raises(RuntimeError, match="killed"):
            dataset(own_data, cache="disk")
    assert any(own_data.parent.rglob("*.npy"))
    assert dataset(own_data, cache="disk").load_image(0)[0].any()


def test_labels_are_read_anew_and_no_cache_of_them_is_left(own_data: Path) -> None:
    label = own_data.parent / "labels" / "train" / f"{first_image(own_data).stem}.txt"
    before = dataset(own_data).labels[0]["cls"].ravel().tolist()
    rows = label.read_text().splitlines()
    state = label.stat()
    label.write_text("".join(f"{(int(row[0]) + 1) % 4}{row[1:]}\n" for row in rows))
    os.utime(label, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert label.stat().st_size == state.st_size
    now = dataset(own_data).labels[0]["cls"].ravel().tolist()
    assert sorted(now) == sorted((value + 1) % 4 for value in before)
    assert not list(own_data.parent.rglob("*.cache"))


def test_what_ultralytics_would_leave_out_is_named(own_data: Path) -> None:
    label = own_data.parent / "labels" / "train" / f"{first_image(own_data).stem}.txt"
    label.write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"1 of 8 .*\n.*line 2 is a box and line 1 a polygon"):
        check_data(own_data, "train")
    args = get_cfg(overrides={"imgsz": 64, "task": "detect"})
    data = {"names": dict.fromkeys(range(9), ""), "channels": 3}
    with pytest.raises(DataError, match="1 of 8"):  # a dataset that nobody has checked
        build_dataset(args, str(first_image(own_data).parent), 4, data, mode="val", rect=True, stride=32)


def test_names_that_yaml_reads_as_something_else_need_quotes(own_data: Path) -> None:
    """Ultralytics keeps False, True and 8 in the checkpoint for ``no``, ``on`` and ``010``."""
    text = own_data.read_text()
    head, names = text[: text.index("names:")], check_data(own_data, "train").names
    others = ["no", "on", "010", "1.0", "2026-01-31"]
    assert len(names) == len(others)
    own_data.write_text(f"{head}names: [{', '.join(others)}]\n")
    with pytest.raises(DataError, match=r"no \(read as False\), on \(read as True\), 010 \(read as 8\)\. Put quotes"):
        check_data(own_data, "train")
    own_data.write_text(f"{head}names: {others}\n")
    assert check_data(own_data, "train").names == dict(enumerate(others))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0 0.5 0.5 0.1", "line 1: 4 values"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 1: 6 values"),
        ("\n4 0.5 0.5 0.1 0.1", "line 2: class 4"),
        ("0.5 0.5 0.5 0.1 0.1", "line 1: class 0.5"),
        ("0 0.5 1.5 0.1 0.1", "line 1: '0 0.5 1.5 0.1 0.1' is not in fractions"),
        ("0 0.5 nan 0.1 0.1", "is not in fractions"),
        ("0 a 0.5 0.1 0.1", "is not numbers"),
    ],
)
def test_a_row_that_cannot_be_used(rows: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    path.write_text(rows)
    fault = label_fault(path, 4)
    assert fault is not None
    assert words in fault
    image = tmp_path / "1.png"
    cv2.imwrite(str(image), np.zeros((32, 32, 3), np.uint8))
    assert scan([(image, path)], 4, single_cls=False) == [Fault(path, fault)]


def test_labels_that_ultralytics_takes(tmp_path: Path) -> None:
    path = tmp_path / "1.txt"
    for text in ("", "\ufeff0 0.5 0.5 0.1 0.1\r\n\n", "0 0.1 0.1 0.2 0.1 0.2 0.2\n1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"):
        path.write_text(text, encoding="utf-8")
        assert label_fault(path, 4) is None
    path.write_text("9 0.5 0.5 0.1 0.1")
    assert label_fault(path, 4, single_cls=True) is None


def test_labels_that_were_read_are_not_read_again(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = check_data(own_data, "train")
    monkeypatch.setattr("qreg_yolo.detect.dataset.scan", SimpleNamespace)  # a call would fail
    args = get_cfg(overrides={"imgsz": 64, "task": "detect"})
    data = {"names": checked.names, "channels": 3}
    folder = str(own_data.parent / "images" / "train")
    found = build_dataset(args, folder, 4, data, mode="train", rect=False, stride=32, scanned=checked.scanned)
    assert [label["im_file"] for label in found.labels] == sorted(checked.scanned)
    found.labels[0]["cls"][:] = 3
    assert checked.scanned[found.im_files[0]]["cls"] is not found.labels[0]["cls"], "one list is changed by the other"
