"""Faults that a measurement of robustness refuses, notices or ignores."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from qreg_yolo.detect.batch_validator import BatchValidator
from qreg_yolo.detect.robustness import measure
from qreg_yolo.errors import DataError, WeightsError
from qreg_yolo.io import files, records
from qreg_yolo.io.strict_yaml import ConfigError
from tests.detect.conftest import Trained
from tests.detect.robustness_helpers import listing, request
from tests.results_helpers import numbers


@pytest.fixture
def data(several_shapes: Path) -> Path:
    return several_shapes


def test_caches_beside_the_data_change_nothing(trained: Trained, data: Path, tmp_path: Path) -> None:
    measure(request([trained.best], data, tmp_path / "plain"))
    for path in sorted((data.parent / "images" / "train").iterdir()):
        np.save(path.with_suffix(".npy"), np.zeros((64, 64, 3), np.uint8))
        later = path.stat().st_mtime + 100
        os.utime(path.with_suffix(".npy"), (later, later))
    trap = data.parent / "labels" / "train.cache"
    flag = tmp_path / "executed"
    payload = io.BytesIO()
    np.save(payload, np.array([_Trap(str(flag))], dtype=object), allow_pickle=True)
    trap.write_bytes(payload.getvalue())
    before = listing(data)
    measure(request([trained.best], data, tmp_path / "trapped"))
    assert numbers(tmp_path / "trapped") == numbers(tmp_path / "plain")
    assert listing(data) == before
    assert not flag.exists()
    np.load(trap, allow_pickle=True)
    assert flag.exists(), "the trap works"


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


def _images(data: Path) -> list[Path]:
    return sorted((data.parent / "images" / "train").iterdir())


def _touch_label(data: Path) -> str:
    path = sorted((data.parent / "labels" / "train").iterdir())[0]
    path.write_text(path.read_text() + "0 0.5 0.5 0.11 0.13\n")
    return path.name


def _touch_image(data: Path) -> str:
    path = _images(data)[1]
    path.write_bytes(path.read_bytes() + b"\0")
    return path.name


def _drop_image(data: Path) -> str:
    path = _images(data)[2]
    path.unlink()
    return path.name


@pytest.mark.parametrize("change", [_touch_label, _touch_image, _drop_image])
def test_changed_data_are_noticed(change: Callable[[Path], str], trained: Trained, data: Path, tmp_path: Path) -> None:
    measure(request([trained.best], data, tmp_path / "out", corruptions=()))
    for path in _images(data):
        os.utime(path)  # another time alone is no change
    measure(request([trained.best], data, tmp_path / "out", corruptions=()))
    name = change(data)
    with pytest.raises(DataError, match=name):
        measure(request([trained.best], data, tmp_path / "out", corruptions=("brightness",)))


def test_an_image_that_changes_while_it_is_measured_is_noticed(
    trained: Trained, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, names = BatchValidator.detections, []

    def change(*arguments: Any) -> Any:
        if not names:
            names.append(_touch_image(data))
        return original(*arguments)

    monkeypatch.setattr(BatchValidator, "detections", change)
    with pytest.raises(DataError, match="has changed since the measurement began"):
        measure(request([trained.best], data, tmp_path / "out"))
    assert names
    assert not (tmp_path / "out" / "records.csv").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": 1}, "seed=0, this call has seed=1"),
        ({"limit": 2}, "limit=None, this call has limit=2"),
        ({"batch": 4}, "batch=3, this call has batch=4"),
        ({"imgsz": 96}, "imgsz of .*=64, this call"),
        ({"preset": "inception299"}, "preset=imagenet224"),
    ],
)
def test_other_settings_are_refused(
    more: dict[str, Any], words: str, trained: Trained, tiny_data: Path, tmp_path: Path
) -> None:
    measure(request([trained.best], tiny_data, tmp_path / "out", corruptions=()))
    with pytest.raises(ConfigError, match=words):
        measure(request([trained.best], tiny_data, tmp_path / "out", corruptions=(), **more))


def test_what_cannot_be_measured_is_refused_by_name(trained: Trained, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    shutil.copy(trained.best, copy)
    with pytest.raises(ConfigError, match="same weights"):
        measure(request([trained.best, copy], data, tmp_path / "out"))
    names = data.read_text().splitlines()
    other = data.with_name("other.yaml")
    other.write_text("\n".join([line.replace("0: ", "0: not_") for line in names]))
    with pytest.raises(WeightsError, match="only the data has 'not_"):
        measure(request([trained.best], other, tmp_path / "out"))
    small, black = _images(data)[0], _images(data)[1]
    cv2.imwrite(str(small), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(black), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=small.name):
        measure(request([trained.best], data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    measure(request([trained.best], data, tmp_path / "out", skip_bad=True))
    assert set(records.read(tmp_path / "out" / "records.csv")["n_images"]) == {7}


def test_an_image_that_cannot_be_read_is_named(trained: Trained, data: Path, tmp_path: Path) -> None:
    broken = _images(data)[0]
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=broken.name):
        measure(request([trained.best], data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def _below_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out"


def _read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("qreg_yolo.io.files.tempfile.TemporaryFile", refuse)
    return folder


@pytest.mark.parametrize("make", [_below_a_file, _read_only])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    make: Callable[[Path, pytest.MonkeyPatch], Path],
    trained: Trained,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Root may write into any folder, but not below a regular file; what the system says of others is put in."""
    out = make(tmp_path, monkeypatch)
    monkeypatch.setattr(BatchValidator, "detections", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(OSError, match=r"cannot be written: .*\. Give another folder with --out\."):
        measure(request([trained.best], data, out))


def test_a_folder_that_becomes_read_only_is_named_and_what_was_written_is_kept(
    trained: Trained, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, passes = files.write_bytes, []

    def refuse(path: Path, content: bytes, **more: Any) -> None:
        if path.suffix == ".npz" and len(passes) > 4:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        original(path, content, **more)

    measured = BatchValidator.detections
    monkeypatch.setattr(BatchValidator, "detections", lambda *a: passes.append(1) or measured(*a))
    monkeypatch.setattr("qreg_yolo.robustness.journal.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(files, "write_bytes", refuse)
    with pytest.raises(OSError, match=r"out' cannot be written: Permission denied.*start the same command again"):
        measure(request([trained.best], data, tmp_path / "out"))
    monkeypatch.setattr(files, "write_bytes", original)
    measure(request([trained.best], data, tmp_path / "out"))
    assert len(passes) == 3 * 3 + 1, "only the pass that could not be kept is repeated"
