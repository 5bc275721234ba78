"""Official files, the built-in set, and batches that follow from the seed and the epoch."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qreg_yolo.classify import runs
from qreg_yolo.classify.data import ImageSet, crop_and_flip, draw_epoch, training_batches
from qreg_yolo.classify.datasets import load_split
from qreg_yolo.config.classification import resolve
from qreg_yolo.datasets.cifar import OFFICIAL, read_cifar
from qreg_yolo.datasets.demo.patterns import CLASSES, demo_set
from qreg_yolo.errors import DataError
from qreg_yolo.io import records
from qreg_yolo.io.strict_yaml import ConfigError
from tests.classify.synthetic_networks import NORMED
from tests.datasets.synthetic_cifar import dump, make_official, write_cifar


@pytest.mark.parametrize(("name", "n"), [("cifar10", 80), ("cifar100", 80)])
def test_the_official_formats(name: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_official(monkeypatch, write_cifar(tmp_path, name), name)
    train, test = (read_cifar(name, tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (n, 24)
    assert train.images.shape == (n, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.classes[:2] == ("class 0", "class 1")
    first = OFFICIAL[name].folder + "/" + next(iter(OFFICIAL[name].train))
    content = pickle.loads((tmp_path / first).read_bytes())
    rows = content[b"data"].reshape(-1, 3, 32, 32)  # red plane, green plane, blue plane
    assert np.array_equal(train.images[5], rows[5].transpose(1, 2, 0))
    assert train.labels[5] == content[OFFICIAL[name].label_key.encode()][5]
    again = read_cifar(name, tmp_path / OFFICIAL[name].folder, "train")
    assert np.array_equal(again.images, train.images), "the folder itself may be given too"


def test_images_are_called_what_the_files_call_them(tmp_path: Path) -> None:
    root = write_cifar(tmp_path) / "cifar-10-batches-py"
    test = read_cifar("cifar10", tmp_path, "test", verify=False)
    assert test.keys[3] == "test_batch_s_000003.png"
    assert test.subset([3, 5]).keys == (test.keys[3], test.keys[5])
    assert np.array_equal(test.subset([3, 5]).images, test.images[[3, 5]])
    content = pickle.loads((root / "test_batch").read_bytes())
    for names in ([], content[b"filenames"][:-1], [b"same.png"] * 24, "text"):
        dump(root / "test_batch", {**content, b"filenames": names})
        assert read_cifar("cifar10", tmp_path, "test", verify=False).keys[3] == "00003.png"
    assert len(set(demo_set("val").keys)) == 640


def test_every_file_has_its_official_md5() -> None:
    known = [md5 for files in OFFICIAL.values() for md5 in (*files.train.values(), *files.test.values(), files.meta[1])]
    assert len(set(known)) == len(known) == 10
    assert all(len(md5) == 32 for md5 in known)


def test_another_file_needs_no_verify(cifar10: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1.*has the md5.*c99cafc152244af753f735de768cd75f.*--no-verify"):
        read_cifar("cifar10", cifar10, "train")
    assert len(read_cifar("cifar10", cifar10, "train", verify=False)) == 80


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*cifar-10-batches-py.*--data-dir.*--download"):
        read_cifar("cifar10", tmp_path, "train")
    make_official(monkeypatch, write_cifar(tmp_path), "cifar10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3' is missing"):
        read_cifar("cifar10", tmp_path, "train")
    assert len(read_cifar("cifar10", tmp_path, "train", verify=False)) == 64, "a subset"
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()
    assert read_cifar("cifar10", tmp_path, "train", verify=False).classes[3] == "3"
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch' is missing"):
        read_cifar("cifar10", tmp_path, "test", verify=False)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "cut short"),
        (lambda raw: b"", "cut short"),
        (lambda raw: pickle.dumps([1, 2]), "holds a list"),
        (lambda raw: pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}), "3072 columns"),
        (lambda raw: pickle.dumps({b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]}), "3072 columns"),
        (lambda raw: pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), "one label"),
        (lambda raw: pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}), "0 to 9"),
        (lambda raw: pickle.dumps({b"labels": [0]}), "no 'data'"),
    ],
)
def test_damaged_files_are_named(damage, words: str, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="data_batch_2") as error:
        read_cifar("cifar10", tmp_path, "train", verify=False)
    assert words in str(error.value)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    write_cifar(tmp_path)

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    dump(tmp_path / "cifar-10-batches-py" / "data_batch_1", {b"data": Bomb(), b"labels": [0]})
    with pytest.raises(DataError):
        read_cifar("cifar10", tmp_path, "train", verify=False)
    assert not (tmp_path / "executed").exists()


def test_splits_and_folders_that_were_not_given() -> None:
    with pytest.raises(ConfigError, match=r"split='test' is not one of: train, val"):
        load_split("demo", "test", None, verify=True)
    with pytest.raises(ConfigError, match=r"--data cifar100 needs --data-dir"):
        load_split("cifar100", "test", None, verify=True)


def test_the_built_in_set_is_the_same_on_every_call_and_balanced() -> None:
    one, two, held_out = demo_set("train", 400), demo_set("train", 400), demo_set("val", 400)
    assert np.array_equal(one.images, two.images)
    assert not np.array_equal(one.images, held_out.images)
    assert np.bincount(one.labels).tolist() == [40] * 10
    assert len(one.classes) == len(set(CLASSES)) == 10


def test_a_class_of_the_built_in_set_cannot_be_told_from_its_colour() -> None:
    data = ImageSet.of(demo_set("train", 2000))
    colours = data.images.float().mean((1, 2))
    means = torch.stack([colours[data.labels == label].mean(0) for label in range(10)])
    assert float((means - means.mean(0)).abs().max()) < 0.5 * float(colours.std())


def reference(image: torch.Tensor, corner: list[int], flip: bool) -> torch.Tensor:
    """Returns one image padded, cropped and mirrored, step by step."""
    padded = torch.zeros(40, 40, 3, dtype=torch.uint8)
    padded[4:36, 4:36] = image
    crop = padded[corner[0] : corner[0] + 32, corner[1] : corner[1] + 32]
    return crop.flip(1) if flip else crop


def test_crops_and_flips_equal_those_of_single_images() -> None:
    images = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = draw_epoch(50, seed=1, epoch=0)
    expected = torch.stack(
        [reference(*args) for args in zip(images, draws.corners.tolist(), draws.flips.tolist(), strict=True)]
    )
    assert torch.equal(crop_and_flip(images, draws.corners, draws.flips), expected)
    centre = torch.full((50, 2), 4)
    assert torch.equal(crop_and_flip(images, centre, torch.zeros(50, dtype=torch.bool)), images)


def test_every_offset_and_both_sides_are_drawn() -> None:
    draws = draw_epoch(5000, seed=0, epoch=0)
    assert sorted(draws.order.tolist()) == list(range(5000))
    assert set(draws.corners.flatten().tolist()) == set(range(9))
    assert 0.47 < float(draws.flips.float().mean()) < 0.53


def test_an_epoch_follows_from_the_seed_and_its_number_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two = draw_epoch(100, 3, 5), draw_epoch(100, 3, 5)
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("order", "corners", "flips"))
    for other in (draw_epoch(100, 3, 6), draw_epoch(100, 4, 5)):
        assert not torch.equal(one.order, other.order)
        assert not torch.equal(one.corners, other.corners)
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_the_batches_of_one() -> None:
    data = ImageSet.of(demo_set("train", 70))
    common = {"batch": 16, "seed": 2, "epoch": 1, "augment": True}
    whole = list(training_batches(data, **common))
    halves = [list(training_batches(data, **common, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(whole) == 4, "an incomplete batch is left out"
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([half[step][0] for half in halves]))
        assert torch.equal(labels, torch.cat([half[step][1] for half in halves]))
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_normalisation() -> None:
    data = ImageSet.of(demo_set("val", 20))
    (images, labels), *_ = training_batches(data, batch=20, seed=0, epoch=0, augment=False)
    order = draw_epoch(20, 0, 0).order
    expected = (data.images[order].permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    assert torch.allclose(images.double(), expected, atol=1e-5)
    assert torch.equal(labels, data.labels[order])


@pytest.mark.data
@pytest.mark.parametrize("name", ["cifar10"])
def test_the_constants_are_the_training_sets_own(name: str) -> None:
    folder = os.environ.get("QREG_YOLO_CIFAR")
    if folder is None:
        pytest.skip("set QREG_YOLO_CIFAR to the folder that holds cifar-10-batches-py")
    data = read_cifar(name, Path(folder), "train")
    pixels = data.images.reshape(-1, 3).double() / 255
    assert torch.allclose(pixels.mean(0), torch.tensor(data.mean).double(), atol=5e-5)
    assert torch.allclose(pixels.std(0), torch.tensor(data.std).double(), atol=5e-5)
    assert F.one_hot(data.labels).sum(0).tolist() == [5000] * 10


def test_a_balanced_subset_is_the_same_for_every_seed_and_part_of_a_larger_one(tmp_path: Path) -> None:
    whole = demo_set("train")
    some, more = whole.balanced(25), whole.balanced(40)
    assert np.bincount(some.labels).tolist() == [3] * 5 + [2] * 5
    assert set(some.keys) < set(more.keys) < set(whole.keys)
    assert list(some.keys) == sorted(some.keys), "in the order of the set"
    for key, image in zip(some.keys, some.images, strict=True):
        assert np.array_equal(image, whole.images[whole.keys.index(key)])
    with pytest.raises(
        DataError, match="train_images=9000 needs 900 images of the class 'plain disc', and demo has 256"
    ):
        whole.balanced(9000)


def test_a_run_on_a_subset_says_so_in_its_records(tmp_path: Path) -> None:
    options = {"model": NORMED, "data": "demo", "epochs": 1, "batch": 16, "project": str(tmp_path), "name": "run"}
    runs.train(resolve(None, {**options, "train_images": 40}, {})[0])
    rows = records.read(tmp_path / "run/records.csv").to_dicts()
    assert {row["evaluation"] for row in rows} == {"imgsz=32 classes=10 train_images=40"}
    assert {row["n_images"] for row in rows if row["split"] == "train"} == {40}
