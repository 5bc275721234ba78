"""CIFAR in the published layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.corrupt import corrupt
from qreg_yolo.datasets.cifar import cifar_in, read_cifar
from qreg_yolo.datasets.corrupted import cifar
from qreg_yolo.errors import DataError
from tests.corrupt.synthetic_images import IMAGES
from tests.datasets.corrupted.corrupted_helpers import contents, request

ALL = (1, 2, 3, 4, 5)


KINDS = [("cifar-10-batches-py", "test_batch", b"labels"), ("cifar-100-python", "test", b"fine_labels")]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, file, labels = request.param
    pixels = np.stack([IMAGES[title](32, 32) for title in (*IMAGES, *IMAGES)]).transpose(0, 3, 1, 2)
    content = {
        b"data": pixels.reshape(6, -1),
        labels: [3, 8, 8, 0, 6, 1],
        b"filenames": [b"a_%d.png" % i for i in range(6)],
    }
    (tmp_path / name).mkdir()
    (tmp_path / name / file).write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path / name


def asked(out: Path, **more: object):
    return request(out, severities=ALL, preset="cifar32", **more)


def test_severity_by_severity_with_the_labels_five_times(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cifar.write_cifar(folder, asked(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "files.jsonl", "frost.npy", "gaussian_noise.npy", "labels.npy", "manifest.json", "snow.npy",
    ]  # fmt: skip
    labels, test = np.load(out / "labels.npy"), read_cifar(str(cifar_in(folder)), folder, "test", verify=False)
    assert labels.tolist() == [3, 8, 8, 0, 6, 1] * 5
    snow = np.load(out / "snow.npy", allow_pickle=False)
    assert (snow.shape, snow.dtype) == ((30, 32, 32, 3), np.uint8)
    for severity in ALL:
        for i in range(6):
            want = corrupt(test.images[i], "snow", severity, seed=3, key=f"a_{i}.png", preset="cifar32")
            assert np.array_equal(snow[(severity - 1) * 6 + i], want)


@pytest.mark.parametrize("folder", KINDS[:1], indirect=True)
def test_workers_and_interruptions_change_no_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar.write_cifar(folder, asked(tmp_path / "whole"))
    cifar.write_cifar(folder, asked(tmp_path / "two", workers=2))
    original, out, made = cifar.corrupt, tmp_path / "out", list[str]()

    def counted(image: object, name: str, *rest: object, **more: object) -> object:
        made.append(name)
        if len(made) == 40:  # in the second file
            raise KeyboardInterrupt
        return original(image, name, *rest, **more)

    monkeypatch.setattr(cifar, "corrupt", counted)
    with pytest.raises(KeyboardInterrupt):
        cifar.write_cifar(folder, asked(out))
    assert sorted(path.name for path in out.glob("*.npy")) == ["gaussian_noise.npy", "labels.npy"]
    cifar.write_cifar(folder, asked(out))
    assert made.count("gaussian_noise") == 30, "a finished file is not made twice"
    assert contents(out) == contents(tmp_path / "whole") == contents(tmp_path / "two")


def test_a_limit_takes_a_fixed_subset_with_its_labels(folder: Path, tmp_path: Path) -> None:
    cifar.write_cifar(folder, asked(tmp_path / "out", limit=2, corruptions=("contrast",)))
    assert np.load(tmp_path / "out/contrast.npy").shape == (10, 32, 32, 3)
    assert len(np.load(tmp_path / "out/labels.npy")) == 10


def test_what_is_wrong_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has all five"):
        cifar.write_cifar(folder, request(tmp_path / "out"))
    with pytest.raises(DataError, match="is in the source's folder"):
        cifar.write_cifar(folder, asked(folder / "out"))
    cifar.write_cifar(folder, asked(tmp_path / "out", corruptions=("contrast",)))
    with pytest.raises(DataError, match="seed=3, this call has seed=5"):
        cifar.write_cifar(folder, asked(tmp_path / "out", seed=5))
    next(folder.iterdir()).write_bytes(pickle.dumps({b"data": Path("x")}, protocol=2))
    with pytest.raises(DataError, match="Give a file of the official format"):
        cifar.write_cifar(folder, asked(tmp_path / "other"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no CIFAR test images"):
        cifar.write_cifar(tmp_path / "empty", asked(tmp_path / "other"))
    assert cifar_in(tmp_path) is None
