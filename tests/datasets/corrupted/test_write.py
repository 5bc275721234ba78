"""Sets on disk: the pixels that the corruption gives, Ultralytics' layout, whatever interrupts and repeats it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.corrupt import corrupt
from qreg_yolo.datasets.corrupted import write as write_module
from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.image_io import Look, decode
from qreg_yolo.datasets.sources import read_source
from qreg_yolo.errors import DataError
from qreg_yolo.io import files, strict_yaml
from tests.datasets.corrupted.corrupted_helpers import contents, request, write_set


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def test_pixels_labels_and_hashes(yaml: Path, tmp_path: Path) -> None:
    source, out = read_source(yaml), tmp_path / "out"
    written = write_sets(source, request(out))
    assert (written.n_images, len(written.yamls), written.skipped) == (3, 6, ())
    entries = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert [entry["image"] for entry in entries] == [image.place for image in source.images]
    for image, entry in zip(source.images, entries, strict=True):
        assert entry["source_sha256"] == files.sha256(image.path)
        assert len(entry["files"]) == 6
        for name, digest in entry["files"].items():
            assert files.sha256(out / name) == digest
            corruption, severity = name.split("/")[:2]
            want = corrupt(decode(image.path), corruption, int(severity), seed=3, key=image.key)
            assert np.array_equal(decode(out / name), want)
    names = {path.relative_to(out / "snow/4").as_posix() for path in (out / "snow/4").rglob("*") if path.is_file()}
    assert names == {
        "data.yaml", "images/000.png", "images/sub/001.png", "images/002.png", "labels/000.txt", "labels/sub/001.txt",
    }  # fmt: skip
    assert (out / "snow/4/labels/000.txt").read_text() == "0 0.5 0.5 0.4 0.4\n"
    assert not (out / ".partial").exists()


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.ultralytics
def test_the_host_validates_a_set(split: str, yaml: Path, tmp_path: Path) -> None:
    from ultralytics import YOLO
    from ultralytics.data.utils import check_det_dataset

    data = write_sets(read_source(yaml), request(tmp_path / "out", severities=(2,))).yamls[0]
    found = YOLO("yolov5n.yaml").val(
        data=str(data), split=split, imgsz=32, batch=2, workers=0, plots=False, verbose=False, device="cpu",
        project=str(tmp_path / "runs"),
    )  # fmt: skip
    assert [int(n) for n in found.nt_per_class[:2]] == [1, 1], "the objects that there are"
    described = check_det_dataset(str(data), split=split)
    assert (described["names"], described["nc"], described["channels"]) == ({0: "cat", 1: "dog"}, 2, 3)
    assert sorted(p.name for p in (data.parent / "images").rglob("*.*")) == ["000.png", "001.png", "002.png"]
    write_sets(read_source(yaml), request(tmp_path / "out", severities=(2,)))  # Ultralytics' cache is no stranger


def test_the_number_of_workers_changes_no_byte(yaml: Path, tmp_path: Path) -> None:
    source = read_source(yaml)
    outs = [tmp_path / f"out{workers}" for workers in (0, 1, 2)]
    for workers, out in enumerate(outs):
        write_sets(source, request(out, workers=workers))
    first, *others = map(contents, outs)
    assert all(first == other for other in others)


def test_again_nothing_is_written_and_what_is_damaged_or_missing_is_made_anew(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = read_source(yaml), tmp_path / "out"
    write_sets(source, request(out))
    before, made = contents(out), list[str]()
    original = write_module.encode
    monkeypatch.setattr(write_module, "encode", lambda *a: (made.append("x"), original(*a))[1])
    write_sets(source, request(out))
    assert not made
    (out / "snow/1/images/000.png").write_bytes(b"torn")
    (out / "frost/4/images/sub/001.png").unlink()
    (out / "frost/4/labels/sub/001.txt").unlink()
    with (out / "files.jsonl").open("a") as file:
        file.write('{"image": "to')
    write_sets(source, request(out))
    assert (len(made), contents(out)) == (2, before)


def test_further_sets_may_be_added_other_settings_not(yaml: Path, tmp_path: Path) -> None:
    source, out = read_source(yaml), tmp_path / "out"
    write_sets(source, request(out, corruptions=("snow",)))
    write_sets(source, request(out, corruptions=("gaussian_noise", "frost")))
    write_sets(source, request(tmp_path / "at once"))
    assert contents(out) == contents(tmp_path / "at once")
    for change, words in (
        ({"seed": 4}, "seed=3, this call has seed=4"),
        ({"preset": "tiny64"}, "preset=imagenet224, this call has preset=tiny64"),
        ({"format": "webp"}, "format=png, this call has format=webp"),
        ({"limit": 2}, "limit=None, this call has limit=2; images=3, this call has images=2"),
    ):
        with pytest.raises(DataError, match=words):
            write_sets(source, request(out, **change))


def test_a_limit_takes_the_fixed_subset(yaml: Path, tmp_path: Path) -> None:
    write_sets(read_source(yaml), request(tmp_path / "out", limit=2))
    assert len(list((tmp_path / "out/snow/1/images").rglob("*.png"))) == 2


def test_an_image_that_changed_meanwhile_is_noticed(yaml: Path, tmp_path: Path) -> None:
    source = read_source(yaml)
    write_sets(source, request(tmp_path / "out"))
    shutil.copy(source.images[1].path, source.images[0].path)
    with pytest.raises(DataError, match=r"000.jpg' has changed since"):
        write_sets(source, request(tmp_path / "out"))


@pytest.mark.parametrize("damage", ["small", "text", "late"])
def test_what_cannot_be_used_is_named_or_left_out(
    damage: str, yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, out = yaml.parent / "images/test/000.jpg", tmp_path / "out"
    if damage == "small":
        bad.write_bytes(write_module.encode(np.zeros((8, 40, 3), np.uint8), "jpg"))
    else:
        bad.write_bytes(b"no image")
    if damage == "late":  # Pillow takes it for an image, OpenCV does not
        monkeypatch.setattr("qreg_yolo.datasets.corrupted.write.look", lambda path, side: Look(None, 99))
    with pytest.raises(DataError, match=r"1 of 3 images cannot be used.*--skip-bad\.\n  000.jpg: "):
        write_sets(read_source(yaml), request(out))
    written = write_sets(read_source(yaml), request(out, skip_bad=True))
    assert (written.n_images, len(written.skipped)) == (2, 1)
    assert "Left out: 1 images" in written.report
    assert ("8" in written.skipped[0].replace(str(tmp_path), "")) == (damage == "small")
    assert sorted(p.name for p in (out / "snow/1").rglob("*.*") if p.is_file()) == [
        "001.png", "001.txt", "002.png", "data.yaml",
    ]  # fmt: skip


def test_names_that_differ_in_their_suffix_alone_stay_apart(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", 1)
    folder = yaml.parent / "images/test"
    shutil.copy(folder / "000.jpg", folder / "000.jpeg")
    write_sets(read_source(yaml), request(tmp_path / "out"))
    names = sorted(path.name for path in (tmp_path / "out/snow/1").rglob("*.*") if path.is_file())
    assert names == ["000.jpeg.png", "000.jpeg.txt", "000.jpg.png", "000.jpg.txt", "data.yaml"]


def test_names_that_would_be_equal_with_a_suffix_stay_apart(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", 1)
    folder = yaml.parent / "images/test"
    for name in ("000.png", "000.jpg.jpg"):
        shutil.copy(folder / "000.jpg", folder / name)
    assert write_sets(read_source(yaml), request(tmp_path / "out")).n_images == 3
    names = sorted(path.name for path in (tmp_path / "out/snow/1/images").iterdir())
    assert names == ["000.jpg.jpg.png", "000.jpg.png", "000.png.png"]


def test_an_image_that_is_listed_twice_is_written_twice(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", 1)
    yaml.write_text(yaml.read_text().replace("val: images/test", "val: [images/test, images/test]"))
    assert write_sets(read_source(yaml), request(tmp_path / "out")).n_images == 2
    first, second = sorted((tmp_path / "out/snow/1/images").iterdir())
    assert (first.name, second.name) == ("000.png", "000~2.png")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "out/snow/1/labels/000~2.txt").is_file()


def test_a_copy_has_the_names_and_the_number_of_classes_of_its_source(yaml: Path, tmp_path: Path) -> None:
    yaml.write_text(yaml.read_text().replace("[cat, dog]", "['no', '010']"))
    written = write_sets(read_source(yaml), request(tmp_path / "out"))
    assert read_source(written.yamls[0]).names == {0: "no", 1: "010"}
    (yaml.parent / "labels/test/000.txt").write_text("\ufeff2\t0.5\t0.5\t0.4\t0.4\n", encoding="utf-8")
    written = write_sets(read_source(yaml.parent / "images"), request(tmp_path / "plain"))
    assert read_source(written.yamls[0]).names == {0: "class_0", 1: "class_1", 2: "class_2"}


def test_a_plain_folder_with_and_without_labels(yaml: Path, tmp_path: Path) -> None:
    written = write_sets(read_source(yaml.parent / "images"), request(tmp_path / "out"))
    assert strict_yaml.load(written.yamls[0])["nc"] == 2
    shutil.rmtree(yaml.parent / "labels")
    written = write_sets(read_source(yaml.parent / "images"), request(tmp_path / "bare"))
    assert strict_yaml.load(written.yamls[0])["nc"] == 1
    assert not list((tmp_path / "bare").rglob("*.txt"))


@pytest.mark.parametrize("where", ["images", "images/test/x", "labels/test", ""])
def test_nothing_is_written_into_or_around_the_source(where: str, yaml: Path) -> None:
    before = sorted(yaml.parent.rglob("*"))
    with pytest.raises(DataError, match="Give a"):
        write_sets(read_source(yaml), request(yaml.parent / where))
    assert sorted(yaml.parent.rglob("*")) == before


def test_a_folder_of_something_else_is_left_alone(yaml: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(DataError, match=r"holds 'mine.txt'"):
        write_sets(read_source(yaml), request(out))
    (out / "mine.txt").unlink()
    write_sets(read_source(yaml), request(out))
    shutil.copy(out / "snow/1/images/000.png", out / "snow/1/images/999.png")
    with pytest.raises(DataError, match=r"999.png' does not belong"):
        write_sets(read_source(yaml), request(out))


def test_where_nothing_can_be_linked_labels_are_copied(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    write_sets(read_source(yaml), request(tmp_path / "out"))
    label = tmp_path / "out/snow/1/labels/000.txt"
    assert (label.is_symlink(), label.stat().st_nlink, label.read_text()) == (False, 1, "0 0.5 0.5 0.4 0.4\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corruptions": ("fogg",)}, "Did you mean 'fog'"),
        ({"severities": (6,)}, "Severity is 6"),
        ({"preset": "cifar"}, "Did you mean 'cifar32'"),
        ({"format": "pgn"}, "Did you mean 'png'"),
        ({"quality": 90}, "quality=90 applies to jpg"),
        ({"quality": 0, "format": "jpg"}, "quality=0: use 1 to 100"),
        ({"seed": -1}, "seed=-1: use 0 or more"),
        ({"limit": 0}, "limit=0: use 1 or more"),
        ({"workers": -1}, "workers=-1"),
        ({"corruptions": ()}, "at least one"),
    ],
)
def test_a_wrong_request(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        request(tmp_path, **change)
