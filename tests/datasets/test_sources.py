"""Which images a source has: the host's own, in the host's order, and what their draws hang on."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.datasets.sources import IMAGE_SUFFIXES, label_path, read_source, select_images
from qreg_yolo.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "images/a/1.jpg",
        "images/a/sub/2.PNG",
        "images/b/1.jpg",
        "images/b/notes.txt",
        "images/a/.hidden.jpg",
    ):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    return tmp_path / "set"


def write(root: Path, text: str) -> Path:
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def test_a_folder_gives_keys_relative_to_itself(root: Path) -> None:
    source = read_source(write(root, "test: images/a\nnames: [x, y]\n"))
    assert [(i.key, i.place) for i in source.images] == [("1.jpg", "1.jpg"), ("sub/2.PNG", "sub/2.PNG")]
    assert source.images[1].label == root / "labels/a/sub/2.txt"
    assert (source.split, source.names, source.channels) == ("test", {0: "x", 1: "y"}, 3)


def test_equal_keys_of_several_folders_have_places_of_their_own(root: Path) -> None:
    images = read_source(write(root, "val: [images/b, images/a, images/a]")).images
    assert [(i.key, i.place) for i in images] == [
        ("1.jpg", "a/1.jpg"),
        ("sub/2.PNG", "a/sub/2.PNG"),
        ("1.jpg", "b/1.jpg"),
    ]


def test_a_list_gives_keys_relative_to_the_images_folder_above_or_to_its_own(root: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (root / "list.txt").write_text(f"./images/b/1.jpg\n{tmp_path}/plain/3.jpg\n", encoding="utf-8-sig")
    images = read_source(write(root, "val: list.txt")).images
    assert [(i.key, i.folder) for i in images] == [("3.jpg", tmp_path / "plain"), ("b/1.jpg", root / "images")]


def test_a_plain_folder(root: Path) -> None:
    source = read_source(root / "images")
    assert [i.key for i in source.images] == ["a/1.jpg", "a/sub/2.PNG", "b/1.jpg"]
    assert (source.split, source.names) == (None, {})
    with pytest.raises(DataError, match="no split 'val'"):
        read_source(root / "images", "val")


def test_a_relative_path_is_the_current_folders_then_the_hosts_then_the_yamls(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = write(tmp_path, "path: set\nval: images/b")
    monkeypatch.chdir(tmp_path / "set")
    assert read_source(yaml).images[0].path == root / "images/b/1.jpg"
    other = tmp_path / "datasets/set/images/b/9.jpg"
    other.parent.mkdir(parents=True)
    other.touch()
    assert [i.path for i in read_source(yaml, datasets_dir=tmp_path / "datasets").images] == [other]
    monkeypatch.chdir(tmp_path)
    assert read_source(yaml, datasets_dir=tmp_path / "datasets").images[0].path == root / "images/b/1.jpg"


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("test: images/a", "test"),
        ("val: [images/b, images/a]", "val"),
        ("val: list.txt\ntest: images", "val"),
        ("val: list.txt\ntest: images", "test"),
    ],
)
def test_images_order_and_labels_are_the_hosts(root: Path, text: str, split: str) -> None:
    from ultralytics.data.base import BaseDataset
    from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths

    assert {f".{name}" for name in IMG_FORMATS} == IMAGE_SUFFIXES
    (root / "list.txt").write_text("./images/b/1.jpg\n./images/a/sub/2.PNG\n")
    yaml = write(root, f"{text}\ntrain: images/a\nnames: [x]\n" + ("" if "val:" in text else "val: images/a\n"))
    host = BaseDataset.get_img_files(_Host(), check_det_dataset(str(yaml), split=split)[split])
    images = read_source(yaml, split).images
    assert [str(i.path) for i in images] == host
    assert [str(i.label) for i in images] == img2label_paths(host)


class _Host:
    prefix, fraction = "", 1.0


def test_a_subset_is_fixed_nested_and_in_order(root: Path) -> None:
    for number in range(40):
        (root / f"images/b/{number:03}.jpg").touch()
    images = read_source(write(root, "val: images/b")).images
    four, ten = select_images(images, 4), select_images(images, 10)
    assert (len(four), len(ten)) == (4, 10)
    assert set(four) < set(ten)
    assert list(ten) == sorted(ten, key=lambda image: image.path)
    assert four != images[:4]
    assert select_images(images[::-1], 4) == four[::-1]
    assert select_images(images, 99) == select_images(images, None) == images
    with pytest.raises(ValueError, match="limit=0"):
        select_images(images, 0)


@pytest.mark.parametrize(
    ("text", "split", "words"),
    [
        ("val: images/a", "test", "no 'test' images. It has: val"),
        ("train: images/a", None, "no 'test' or 'val' images. It has: train"),
        ("val: images/a", "vla", "split='vla'"),
        ("val: images/none", None, "does not exist"),
        ("val: {a: 1}", None, "val is {'a': 1}"),
        ("- 1", None, "no data description"),
        ("val: images/a\nchannels: 8", None, "channels: 8"),
        ("val: images/a\nnames: {a: b}", None, "class ids"),
    ],
)
def test_what_is_wrong_is_said(root: Path, text: str, split: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_source(write(root, text), split)


def test_a_source_without_images_or_that_is_not_there(root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read_source(root / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_source(root / "nowhere")


def test_the_last_images_folder_is_replaced() -> None:
    assert label_path(Path("/images/set/images/1.x.jpg")) == Path("/images/set/labels/1.x.txt")
    assert label_path(Path("/photos/1.jpg")) == Path("/photos/1.txt")
