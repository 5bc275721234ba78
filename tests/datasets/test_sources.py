"""The resolver without Ultralytics: keys, places, subsets and error texts (tests/detect/test_sources.py compares)."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.datasets.labels import count_classes, label_path
from qreg_yolo.datasets.sources import check_channels, find_data, read_source, select_images
from qreg_yolo.errors import DataError

NEEDED = {"train": "train:", "val": "val:", "names": "names: [x]"}


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
    """Writes a data YAML with the keys that every one needs."""
    missing = [line for key, line in NEEDED.items() if f"{key}:" not in text]
    (root / "data.yaml").write_text("\n".join([text.rstrip("\n"), *missing]))
    return root / "data.yaml"


def test_a_folder_gives_keys_relative_to_itself(root: Path) -> None:
    source = read_source(write(root, "test: images/a\nnames: [x, y]\n"))
    assert [(i.key, i.place) for i in source.images] == [("1.jpg", "1.jpg"), ("sub/2.PNG", "sub/2.PNG")]
    assert source.images[1].label == root / "labels/a/sub/2.txt"
    assert (source.split, source.names, source.channels) == ("test", {0: "x", 1: "y"}, 3)


def test_equal_keys_of_several_folders_have_places_of_their_own(root: Path) -> None:
    images = read_source(write(root, "val: [images/b, images/a]")).images
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


def test_a_relative_path_starts_in_the_current_folder_else_in_ultralytics_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = write(tmp_path, "path: set\nval: images/b")
    monkeypatch.chdir(tmp_path / "set")
    other = tmp_path / "datasets/set/images/b/9.jpg"
    other.parent.mkdir(parents=True)
    other.touch()
    assert [i.path for i in read_source(yaml, datasets_dir=lambda: tmp_path / "datasets").images] == [other]
    with pytest.raises(DataError, match=r"points to '.*/set/set/images/b', which does not exist.*'path:' starts in"):
        read_source(yaml)
    monkeypatch.chdir(tmp_path)
    found = read_source(yaml, datasets_dir=lambda: pytest.fail("the current folder has it"))
    assert found.images[0].path == root / "images/b/1.jpg"


def test_an_image_that_is_listed_again_counts_again_and_has_a_place_of_its_own(root: Path) -> None:
    (root / "images/b/1~2.jpg").touch()
    images = read_source(write(root, "val: [images/b, images/b]")).images
    assert [(i.key, i.place) for i in images] == [
        ("1.jpg", "1.jpg"), ("1.jpg", "1~2.jpg"), ("1~2.jpg", "1~2~2.jpg"), ("1~2.jpg", "1~2~3.jpg"),
    ]  # fmt: skip
    overlapping = read_source(write(root, "val: [images/a, images/a/sub]")).images
    assert [(i.key, i.place) for i in overlapping[1:]] == [("sub/2.PNG", "sub/2.PNG"), ("2.PNG", "sub/2~2.PNG")]


def test_images_that_differ_in_their_suffix_alone_share_a_label_file(root: Path) -> None:
    (root / "images/b/1.png").touch()
    first, second = read_source(write(root, "val: images/b")).images
    assert first.label == second.label == root / "labels/b/1.txt"


def test_lines_are_counted_from_1_and_listed(root: Path) -> None:
    (root / "list.txt").write_text("\n./images/b/1.jpg\n# a comment\n./images/b/1.jpg \n")
    with pytest.raises(DataError, match=r"list.txt': 2 lines.*\n  line 3: '# a comment'\n  line 4: '.*jpg '$"):
        read_source(write(root, "val: list.txt"))


def test_the_name_on_the_command_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    write(root, "val: images/b")
    assert find_data("set/data.yaml") == root / "data.yaml"
    assert find_data("set") == root
    (root.parent / "voc").mkdir()
    assert find_data("voc").name == "voc.yaml", "a shipped name comes before a folder"
    assert find_data("./voc") == root.parent / "voc"
    with pytest.raises(FileNotFoundError, match="Did you mean 'voc'"):
        find_data("vco")


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
        ("names: [no, 010]", None, r"no \(read as False\), 010 \(read as 8\)\. Put quotes"),
        ("val: images/a", "vla", "split='vla'"),
        ("val: images/none", None, "does not exist"),
        ("val: {a: 1}", None, "val is {'a': 1}"),
        ("- 1\n# train: val: names:", None, "not a data description"),
        ("val: images/a\nchannels: '3'", None, "channels is '3'"),
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


def test_corruptions_need_one_or_three_channels(root: Path) -> None:
    assert read_source(write(root, "val: images/a\nchannels: 8")).channels == 8
    for channels in (1, 3):
        check_channels(root, channels)
    with pytest.raises(DataError, match="channels: 8"):
        check_channels(root, 8)


def test_the_highest_class_of_label_files(tmp_path: Path) -> None:
    rows = ("", "\ufeff2 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1\n\t3.0\t0.5 0.5 0.1 0.1", "x\n-1 0\nnan 0")
    paths = [tmp_path / f"{number}.txt" for number in range(len(rows))]
    for path, text in zip(paths, rows, strict=True):
        path.write_text(text, encoding="utf-8")
    assert [count_classes([path]) for path in paths] == [1, 3, 4, 1]
    assert count_classes(paths) == 4
    assert count_classes([]) == 1


def test_the_last_images_folder_is_replaced() -> None:
    assert label_path(Path("/images/set/images/1.x.jpg")) == Path("/images/set/labels/1.x.txt")
    assert label_path(Path("/photos/1.jpg")) == Path("/photos/1.txt")
