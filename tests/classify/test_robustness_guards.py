"""Faults that a measurement of classifiers' robustness refuses or notices."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.classify.robustness import measure
from qreg_yolo.datasets.corrupted import cifar
from qreg_yolo.datasets.corrupted.request import Request
from qreg_yolo.errors import DataError, WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from tests.classify.classify_helpers import train
from tests.classify.robustness_helpers import request
from tests.datasets.synthetic_cifar import dump, write_cifar


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": 1}, "seed=0, this call has seed=1"),
        ({"limit": 2}, "limit=None, this call has limit=2"),
        ({"batch": 4}, "batch=10, this call has batch=4"),
        ({"preset": "imagenet224"}, "preset=cifar32, this call has preset=imagenet224"),
    ],
)
def test_other_settings_are_refused(more: dict[str, Any], words: str, trained: list[Path], tmp_path: Path) -> None:
    measure(request(trained, tmp_path / "out", corruptions=()))
    with pytest.raises(ConfigError, match=words):
        measure(request(trained, tmp_path / "out", corruptions=(), **more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"severities": (6,)}, "Severity is 6"),
        ({"corruptions": ("fogg",)}, "Did you mean 'fog'"),
        ({"preset": "cifar23"}, "Did you mean 'cifar32'"),
        ({"limit": 0}, "limit=0: give 1 or more"),
        ({"batch": 0}, "batch=0"),
        ({"workers": -1}, "workers=-1: give 0 or more"),
        ({"data": "cifar11"}, "'cifar11' is not one of.*Did you mean 'cifar10"),
        ({"published": Path("C"), "seed": 0}, "--seed cannot be combined with --published"),
        ({"published": Path("C"), "frost_dir": Path("f")}, "--frost-dir cannot be combined with --published"),
    ],
)
def test_what_does_not_exist_is_refused_before_work(
    more: dict[str, Any], words: str, trained: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        measure(request(trained, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_measured_are_named(
    trained: list[Path], cifar100: Path, cifar10: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    other = train(cifar100, tmp_path / "other", data="cifar100", epochs=1) / "weights" / "last.safetensors"
    with pytest.raises(ConfigError, match=rf"{other}' tells the 100 classes of cifar100 apart, cifar10 has 10"):
        measure(request([*trained, other], out, data="cifar10", data_dir=str(cifar10), verify=False))
    with pytest.raises(ConfigError, match=r"trained on several datasets: .*Give one with --data"):
        measure(request([*trained, other], out))
    copy = tmp_path / "copy.safetensors"
    shutil.copy(trained[0], copy)
    with pytest.raises(ConfigError, match=rf"{trained[0]}' and '{copy}' are the same weights"):
        measure(request([*trained, copy], out))
    copy.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"copy.safetensors' is damaged"):
        measure(request([copy], out))
    with pytest.raises(ConfigError, match="add --model"):
        measure(request(trained, out, model=None))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        measure(request([tmp_path / "nowhere.safetensors"], out))
    assert not out.exists()


def test_changed_data_are_noticed(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data")
    weights = [train(data, tmp_path / "run", epochs=1) / "weights" / "last.safetensors"]
    file = data / "cifar-10-batches-py" / "test_batch"
    measure(request(weights, tmp_path / "out", corruptions=()))
    content = pickle.loads(file.read_bytes())
    for change in ({b"labels": content[b"labels"][::-1]}, {b"data": content[b"data"] ^ 1}):
        dump(file, {**content, **change})
        with pytest.raises(ConfigError, match=r"images or labels .data_sha256. have changed since"):
            measure(request(weights, tmp_path / "out"))
    file.write_bytes(b"cut short")
    with pytest.raises(DataError, match="test_batch"):
        measure(request(weights, tmp_path / "out"))


@pytest.fixture
def published(cifar10: Path, tmp_path: Path) -> Path:
    asked = Request(out=tmp_path / "C", corruptions=("contrast",), severities=(1, 2, 3, 4, 5), preset="cifar32")
    cifar.write_cifar(cifar10 / "cifar-10-batches-py", asked)
    return tmp_path / "C"


def _other_labels(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    np.save(folder / "labels.npy", np.where(np.arange(len(labels)) == 30, labels + 1, labels))


def _pickled(folder: Path) -> None:
    np.save(folder / "contrast.npy", np.array([print], dtype=object), allow_pickle=True)


def _cut(folder: Path) -> None:
    data = (folder / "contrast.npy").read_bytes()
    (folder / "contrast.npy").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: np.save(folder / "contrast.npy", np.zeros((120, 32, 32, 3))), r"contrast.npy' is float64"),
        (
            lambda folder: np.save(folder / "contrast.npy", np.zeros((24, 32, 32, 3), np.uint8)),
            r"uint8 \[24, 32, 32, 3\], not uint8 \[120, 32, 32, 3\]",
        ),
        (lambda folder: (folder / "contrast.npy").write_bytes(b""), "not an array of numbers, or cut short"),
        (_cut, "contrast.npy' is not an array of numbers, or cut short"),
        (_pickled, "contrast.npy' is not an array of numbers"),
        (_other_labels, "label .* in row 30, the dataset .*other images, or in another order"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(50, int)), "labels of 5 x 10 images.* has 24 images"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(120)), "float64.*not five times the labels"),
        (lambda folder: np.savez(folder / "labels.npz", a=[1]) or (folder / "labels.npz").rename(folder / "labels.npy"),
         "labels.npy' is not a single array"),
    ],
)  # fmt: skip
def test_published_files_that_cannot_be_used_are_named(
    spoil: Callable[[Path], object], words: str, trained: list[Path], published: Path, tmp_path: Path
) -> None:
    asked = request(trained, tmp_path / "out", corruptions=("contrast",), published=published)
    spoil(published)
    with pytest.raises(DataError, match=words):
        measure(asked)
    assert not (tmp_path / "out").exists()


def test_missing_and_changed_published_files(trained: list[Path], published: Path, tmp_path: Path) -> None:
    def asked(*names: str) -> Any:
        return request(trained, tmp_path / "out", corruptions=names, published=published)

    with pytest.raises(FileNotFoundError, match=r"C/fog\.npy'. Give with --published"):
        measure(asked("contrast", "fog"))
    measure(asked("contrast"))
    file = published / "contrast.npy"
    shutil.copy(file, published / "fog.npy")
    measure(asked("fog"))
    np.save(file, np.load(file) ^ 1)
    with pytest.raises(ConfigError, match=r"images or labels .contrast\.npy. have changed"):
        measure(asked("contrast"))
    (published / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.npy"):
        measure(asked("fog"))
