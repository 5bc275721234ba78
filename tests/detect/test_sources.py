"""The resolver against Ultralytics: the same images, labels and names, or a refusal; never something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics.cfg import get_cfg
from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths

from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import IMAGE_SUFFIXES, ImageSource, read_source
from qreg_yolo.detect.data_check import check_data
from qreg_yolo.detect.dataset import build_dataset
from qreg_yolo.errors import DataError

NAMES = "\ntrain: images/a\nval: images/a\nnames: [x, y]\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of a small dataset, and makes its parent the current one."""
    root = tmp_path / "set"
    for name in ("a/2.png", "a/1.jpg", "a/1.png", "a/sub/3.PNG", "a/my image.png", "a/.hidden.png", "b/1.jpg"):
        image, label = root / "images" / name, (root / "labels" / name).with_suffix(".txt")
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(cv2.imencode(image.suffix.lower(), np.full((32, 32, 3), 99, np.uint8))[1].tobytes())
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "images/a/notes.txt").touch()
    (root / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return root


class _Plain:
    prefix, fraction = "", 1.0


def theirs(yaml: Path, split: str) -> tuple[list[str], list[str]] | None:
    """Returns Ultralytics' images and class names, None if it refuses."""
    try:
        data = check_det_dataset(str(yaml), autodownload=False, split=split)
        return BaseDataset.get_img_files(_Plain(), data[split]), class_names(data["names"])
    except Exception:
        return None


def ours(yaml: Path, split: str) -> ImageSource | None:
    try:
        return read_source(yaml, split)
    except DataError:
        return None


def write(root: Path, text: str, listed: str | bytes = "./images/a/1.jpg\n") -> Path:
    (root / "list.txt").write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


ENTRIES = {
    "a folder": "test: images/a",
    "a folder with a slash": "test: images/a/",
    "the folder itself": "test: .",
    "folders": "test: [images/b, images/a]",
    "folders that overlap": "test: [images/a, images/a/sub, images]",
    "a folder twice": "test: [images/b, images/b]",
    "a list file": "test: list.txt",
    "a folder and a list file": "test: [list.txt, images/b]",
    "parent": "test: ../set/images/b",
    "parent too many": "test: ../images/b",
    "a relative path": "path: set\ntest: images/b",
    "a relative path of two parts": "path: set/images\ntest: b",
    "an empty path": "path: ''\ntest: images/b",
    "one entry in a list": "test: [images/b]",
}
LISTS = {
    "repeated lines": "./images/a/1.jpg\n./images/b/1.jpg\n./images/a/1.jpg\n",
    "equal stems": "./images/a/1.jpg\n./images/a/1.png\n",
    "CRLF": "./images/a/1.jpg\r\n./images/b/1.jpg\r\n",
    "a byte order mark": b"\xef\xbb\xbf./images/a/1.jpg\n",
    "empty lines": "\n\n./images/a/1.jpg\n \n\t\n./images/b/1.jpg\n\n",
    "blanks in a name": "./images/a/my image.png\n",
    "no end of line": "./images/a/1.jpg",
    "the current folder": "set/images/a/1.jpg\n./images/b/1.jpg\n",
    "parents": "./../set/images/b/1.jpg\n./images/a/1.jpg\n",
    "upper case": "./images/a/sub/3.PNG\n",
    "no order": "./images/b/1.jpg\n./images/a/2.png\n./images/a/1.jpg\n",
}
CLASSES = {
    "a mapping": "names: {0: x, 1: y}",
    "a mapping in another order": "names: {1: y, 0: x}",
    "ids in quotes": "names: {'0': x, '1': y}",
    "numbers": "names: [1, 2]",
    "quotes": "names: ['no', 'on', '010', '1e3', 'null']",
    "blanks": "names: ['my dog ', 'a  b']",
    "nc alone": "nc: 3",
    "nc as text": "nc: '3'",
    "nc with a fraction of zero": "nc: 3.0",
    "nc and empty names": "nc: 2\nnames:",
    "nc and names": "nc: 2\nnames: [x, y]",
    "a date": "names: [2026-01-31]",
    "equal names": "names: [x, x]",
    "unquoted words of other languages": "names: [Straße, 猫]",
}
SAME = {
    **{name: (f"{text}{NAMES}", "") for name, text in ENTRIES.items()},
    **{name: (f"test: list.txt{NAMES}", listed) for name, listed in LISTS.items()},
    **{name: (f"train:\nval:\ntest: images/b\n{text}\n", "") for name, text in CLASSES.items()},
}


@pytest.mark.parametrize("name", SAME)
def test_images_order_labels_and_names_are_ultralytics(name: str, root: Path) -> None:
    text, listed = SAME[name]
    yaml = write(root, text, listed or "./images/a/1.jpg\n")
    expected = theirs(yaml, "test")
    assert expected is not None, "not a case of this test"
    source = read_source(yaml, "test")
    absolute = [os.path.abspath(image) for image in expected[0]]
    assert [str(image.path) for image in source.images] == absolute
    assert [str(image.label) for image in source.images] == img2label_paths(absolute)
    assert class_names(source.names) == expected[1]
    assert len({image.place for image in source.images}) == len(source.images)
    data = check_det_dataset(str(yaml), split="test")
    args: Any = get_cfg(overrides={"imgsz": 32, "task": "detect"})
    trained = build_dataset(args, data["test"], 2, data, mode="val", rect=False, stride=32)
    checked = check_data(yaml, "test")
    assert trained.im_files == [str(image.path) for image in checked.images] == absolute
    assert [len(label["cls"]) for label in trained.labels] == [1] * len(absolute)


REFUSED = {
    "no folder": f"test: nowhere{NAMES}",
    "one of two folders": f"test: [images/a, nowhere]{NAMES}",
    "parent in a list": f"test: [../images/b]{NAMES}",
    "an image": f"test: images/a/1.jpg{NAMES}",
    "a pattern": f"test: images/*/1.jpg{NAMES}",
    "no images": f"test: empty{NAMES}",
    "a path that is nowhere": f"path: elsewhere\ntest: images/b{NAMES}",
    "a path beside the YAML": f"path: images\ntest: b{NAMES}",
    "a number": f"test: 2007{NAMES}",
    "a number in a list": f"test: [images/a, 2007]{NAMES}",
    "a truth value": f"test: no{NAMES}",
    "a date": f"test: 2026-01-31{NAMES}",
    "a mapping": f"test: {{a: 1}}{NAMES}",
    "a number as path": f"path: 1\ntest: images/b{NAMES}",
    "a truth value in another split": "train: images/a\nval: no\ntest: images/b\nnames: [x]",
    "an empty split": f"test:{NAMES}",
    "an empty list": f"test: []{NAMES}",
    "no val": "train: images/a\ntest: images/b\nnames: [x]",
    "no train": "val: images/a\ntest: images/b\nnames: [x]",
    "no names": "train:\nval:\ntest: images/b\n",
    "no class": "train:\nval:\ntest: images/b\nnames: []",
    "nc of another number": "train:\nval:\ntest: images/b\nnc: 3\nnames: [x, y]",
    "nc of a half": "train:\nval:\ntest: images/b\nnc: 1.5",
    "nc of nothing": "train:\nval:\ntest: images/b\nnc:\nnames: [x]",
    "nc of zero": "train:\nval:\ntest: images/b\nnc: 0",
    "names as text": "train:\nval:\ntest: images/b\nnames: x",
    "ids with a gap": "train:\nval:\ntest: images/b\nnames: {0: x, 2: y}",
    "ids from 1": "train:\nval:\ntest: images/b\nnames: {1: x, 2: y}",
    "ids that are words": "train:\nval:\ntest: images/b\nnames: {a: x}",
    "no mapping": "- 1",
    "no YAML": "{",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_ultralytics_refuses_is_refused(name: str, root: Path) -> None:
    yaml = write(root, REFUSED[name])
    assert theirs(yaml, "test") is None, "not a case of this test"
    with pytest.raises(DataError, match=r"data\.yaml|1\.jpg' is not UTF-8"):
        read_source(yaml, "test")


MISREAD_LISTS = {
    "a blank at the end": "./images/a/1.jpg \n./images/b/1.jpg\n",
    "a tab at the end": "./images/a/1.jpg\t\n./images/b/1.jpg\n",
    "a blank in front": "./images/b/1.jpg\n ./images/a/1.jpg\n",
    "labels in the line": "./images/a/1.jpg 1,2,3,4,0\n./images/b/1.jpg\n",
    "another type": "./images/a/1.gif\n./images/b/1.jpg\n",
}
MISREAD_YAMLS = {
    "no": "names: [no, y]",
    "on": "names: {0: on}",
    "null": "names: [~]",
    "an octal number": "names: [010]",
    "a last zero": "names: [1.10]",
    "a number with underscores": "names: [1_000]",
    "a time": "names: [12:30]",
    "a name without text": "names: {0: }",
    "ids from -1": "names: {-1: x, 0: y}",
    "a key given twice": "names: [x]\nnames: [y]",
    "an id given twice": "names: {0: x, 0: y}",
}


@pytest.mark.parametrize("name", MISREAD_LISTS)
def test_lines_that_ultralytics_skips_or_takes_for_another_path_are_refused(name: str, root: Path) -> None:
    yaml = write(root, f"test: list.txt{NAMES}", MISREAD_LISTS[name])
    found = theirs(yaml, "test")
    assert found is not None
    assert [Path(path).is_file() for path in found[0]].count(True) == 1, "Ultralytics has learned to read it"
    with pytest.raises(DataError, match=r"list\.txt': 1 lines are not the path of an image.*\n  line [12]: "):
        read_source(yaml, "test")


@pytest.mark.parametrize("name", MISREAD_YAMLS)
def test_names_that_ultralytics_reads_differently_are_refused(name: str, root: Path) -> None:
    yaml = write(root, f"train:\nval:\ntest: images/b\n{MISREAD_YAMLS[name]}\n")
    assert theirs(yaml, "test") is not None
    with pytest.raises(DataError, match=r"data\.yaml"):
        read_source(yaml, "test")


def test_other_encodings_are_refused(root: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        yaml = write(root, f"test: list.txt{NAMES}", "./images/b/é.jpg\n".encode(encoding))
        with pytest.raises(DataError, match=r"list\.txt' is not UTF-8 text"):
            read_source(yaml, "test")
        yaml.write_bytes("test: images/b\ntrain:\nval:\nnames: [é]\n".encode(encoding))
        with pytest.raises(DataError, match=r"data\.yaml cannot be read: it is not UTF-8 text"):
            read_source(yaml, "test")
    yaml.write_bytes(f"test: images/b{NAMES}".replace("\n", "\r\n").encode("utf-8-sig"))
    assert theirs(yaml, "test") == ([str(root / "images/b/1.jpg")], ["x", "y"])
    assert ours(yaml, "test") is not None


def test_a_relative_path_may_be_in_ultralytics_folder_of_datasets(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ultralytics.data.utils", "qreg_yolo.detect.data_check"):
        monkeypatch.setattr(f"{module}.DATASETS_DIR", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yaml = write(root, f"path: set\ntest: images/b{NAMES}")
    assert theirs(yaml, "test") == ([str(root / "images/b/1.jpg")], ["x", "y"])
    assert [image.path for image in check_data(yaml, "test").images] == [root / "images/b/1.jpg"]
    (tmp_path / "elsewhere/set/images/b").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):  # the current folder comes first
        check_data(yaml, "test")


def test_the_codes_of_imagenet_become_words_as_in_training(root: Path) -> None:
    yaml = write(root, "train:\nval:\ntest: images/b\nnames: [n01440764, other]\n")
    found = theirs(yaml, "test")
    assert found is not None
    assert class_names(check_data(yaml, "test").names) == found[1] == ["tench", "other"]


def test_a_folder_has_no_names(root: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder\. Give a data YAML"):
        check_data(root / "images", None)


def test_the_types_of_images_are_ultralytics() -> None:
    assert {f".{name}" for name in IMG_FORMATS} == IMAGE_SUFFIXES


def test_a_fraction_is_the_first_images_as_in_ultralytics(root: Path) -> None:
    data = {"names": {0: "x"}, "channels": 3}
    for fraction, count in ((0.5, 2), (1, 5), (3, 3), (0.01, 1)):
        args: Any = get_cfg(overrides={"imgsz": 32, "task": "detect", "fraction": fraction})
        found = build_dataset(args, str(root / "images/a"), 2, data, mode="train", rect=False, stride=32)
        plain = _Plain()
        plain.fraction = found.fraction
        assert found.im_files == BaseDataset.get_img_files(plain, str(root / "images/a"))
        assert len(found.im_files) == count


def test_images_that_differ_in_their_suffix_alone_share_no_array(root: Path) -> None:
    args: Any = get_cfg(overrides={"imgsz": 32, "task": "detect", "cache": "disk"})
    data = {"names": {0: "x"}, "channels": 3}
    with pytest.raises(DataError, match=r"1 images differ.*omit cache=disk\.\n.*1\.png"):
        build_dataset(args, str(root / "images/a"), 2, data, mode="val", rect=False, stride=32)
    assert not list(root.rglob("*.npy"))
