from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from qreg_yolo.datasets.voc.convert import Conversion, convert_voc
from qreg_yolo.io.resources import data_path
from tests.datasets.voc.synthetic_devkit import HEIGHT, LISTS, WIDTH, refusal, snapshot, write_kit


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return write_kit(tmp_path / "VOCdevkit")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "VOC"


def without(lists: dict[str, dict[str, list[str]]], *names: str) -> dict[str, dict[str, list[str]]]:
    """Returns the lists without some, each given as "2007" or "val2007"."""
    kept = {
        year: {name: stems for name, stems in sets.items() if f"{name}{year}" not in names}
        for year, sets in lists.items()
        if year not in names
    }
    return {year: sets for year, sets in kept.items() if sets}


def description(conversion: Conversion) -> dict[str, Any]:
    return dict(yaml.safe_load(conversion.yaml.read_text()))


# ---------------------------------------------------------------------------------------------- a whole devkit


def test_a_whole_devkit_becomes_what_the_shipped_data_yaml_describes(kit: Path, out: Path) -> None:
    conversion = convert_voc(kit, out)
    shipped = yaml.safe_load(data_path("voc").read_text())
    assert description(conversion) == {**shipped, "path": str(out)}
    expected = {"images", "labels", "voc.yaml", "manifest.json"}
    for year, sets in LISTS.items():
        for name, stems in sets.items():
            expected |= {f"{kind}/{name}{year}" for kind in ("images", "labels")}
            expected |= {f"images/{name}{year}/{stem}.jpg" for stem in stems}
            expected |= {f"labels/{name}{year}/{stem}.txt" for stem in stems}
    assert set(snapshot(out)) == expected
    assert (conversion.notes, conversion.problems) == ((), ())


def test_images_are_links_and_labels_have_the_easy_object(kit: Path, out: Path) -> None:
    conversion = convert_voc(kit, out)
    assert conversion.placed == {"symbolic link": 7}
    image = out / "images" / "val2007" / "000003.jpg"
    assert image.readlink() == kit / "VOC2007" / "JPEGImages" / "000003.jpg"
    class_id, x, y, w, h = (out / "labels" / "val2007" / "000003.txt").read_text().split()
    assert class_id == "11"  # dog
    pixels = [float(x) * WIDTH, float(y) * HEIGHT, float(w) * WIDTH, float(h) * HEIGHT]
    assert pixels == pytest.approx([(3 + 20) / 2 - 1, (4 + 25) / 2 - 1, 17, 21])


def test_difficult_objects_are_kept_on_request(kit: Path, out: Path) -> None:
    easy = convert_voc(kit, out)
    assert [(s.n_objects, s.n_difficult) for s in easy.splits] == [(1, 1), (2, 2), (1, 1), (1, 1), (2, 2)]
    both = convert_voc(kit, out.with_name("all"), keep_difficult=True)
    assert [(s.n_objects, s.n_difficult) for s in both.splits] == [(2, 0), (4, 0), (2, 0), (2, 0), (4, 0)]


def test_the_manifest_and_the_table_give_the_counts(kit: Path, out: Path) -> None:
    conversion = convert_voc(kit, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"] == {"version": 1, "devkit": str(kit), "keep_difficult": False}
    assert manifest["splits"]["train2007"] == {"images": 2, "objects": 2, "difficult_left_out": 2}
    assert manifest["images_placed_as"] == {"symbolic link": 7}
    lines = conversion.table.splitlines()
    assert lines[2].split() == ["train2007", "2", "2", "2"]
    assert lines[-2:] == ["Images placed: 7 by symbolic link.", f"Data YAML: {out}/voc.yaml"]


def test_relative_paths_and_odd_names(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conversion = convert_voc(Path("VOCdevkit"), Path('new/a "q": ümlaut'))
    folder = tmp_path / "new" / 'a "q": ümlaut'
    assert description(conversion)["path"] == str(folder)
    assert (folder / "images" / "val2007" / "000003.jpg").is_file()


def test_the_file_name_in_an_annotation_is_not_followed(kit: Path, out: Path) -> None:
    (kit / "secret.jpg").write_bytes(b"secret")
    path = kit / "VOC2007" / "Annotations" / "000003.xml"
    path.write_text(path.read_text().replace("x.jpg", "../../secret.jpg"))
    convert_voc(kit, out)
    assert (out / "images" / "val2007" / "000003.jpg").readlink().name == "000003.jpg"
    assert not [name for name in snapshot(out) if "secret" in name]


def test_windows_line_ends_empty_lines_and_a_byte_order_mark_in_a_list(kit: Path, out: Path) -> None:
    (kit / "VOC2007/ImageSets/Main/train.txt").write_bytes(b"\xef\xbb\xbf000001\r\n\r\n 000002 \r\n")
    assert list(convert_voc(kit, out).splits[1].labels) == ["000001", "000002"]


# ---------------------------------------------------------------------------------------------- parts of a devkit


def test_only_2007(tmp_path: Path, out: Path) -> None:
    conversion = convert_voc(write_kit(tmp_path / "kit", without(LISTS, "2012")), out)
    found = description(conversion)
    assert found["train"] == ["images/train2007", "images/val2007"]
    assert found["val"] == found["test"] == ["images/test2007"]
    assert [note.split(" ")[0] for note in conversion.notes] == [
        "VOC2012/ImageSets/Main/train.txt",
        "VOC2012/ImageSets/Main/val.txt",
    ]
    assert all(note in conversion.table for note in conversion.notes)


def test_only_2012_validates_on_its_val(tmp_path: Path, out: Path) -> None:
    conversion = convert_voc(write_kit(tmp_path / "kit", without(LISTS, "2007")), out)
    found = description(conversion)
    assert (found["train"], found["val"]) == (["images/train2012"], ["images/val2012"])
    assert "test" not in found
    assert conversion.notes[-1] == "No test images: images/val2012 validate, and are not trained on."


def test_without_test_no_val_list_is_trained_on(tmp_path: Path, out: Path) -> None:
    found = description(convert_voc(write_kit(tmp_path / "kit", without(LISTS, "test2007")), out))
    assert found["train"] == ["images/train2012", "images/train2007"]
    assert found["val"] == ["images/val2012", "images/val2007"]


@pytest.mark.parametrize("also", [[], ["train"], ["val"]])
def test_trainval_stands_in_for_a_missing_half(also: list[str], tmp_path: Path, out: Path) -> None:
    whole = LISTS["2007"]["train"] + LISTS["2007"]["val"]
    sets = {"trainval": whole, "test": LISTS["2007"]["test"]} | {name: LISTS["2007"][name] for name in also}
    conversion = convert_voc(write_kit(tmp_path / "kit", {"2007": sets}), out)
    assert description(conversion)["train"] == ["images/trainval2007"]
    assert list(conversion.splits[0].labels) == whole
    assert any("trainval.txt is one split" in note for note in conversion.notes)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("2012", "val2007", "test2007"), ["no images to validate on", "train2007", "test.txt"]),
        (("2012", "train2007", "val2007"), ["no images to train on", "test2007", "trainval.txt"]),
    ],
)
def test_training_and_validation_images_are_needed(
    missing: tuple[str, ...], words: list[str], tmp_path: Path, out: Path
) -> None:
    message = refusal(write_kit(tmp_path / "kit", without(LISTS, *missing)), out)
    assert all(word in message for word in [*words, "--download"])
    assert not out.exists()


def test_nothing_there(tmp_path: Path, out: Path) -> None:
    (tmp_path / "kit" / "VOC2007" / "ImageSets").mkdir(parents=True)
    message = refusal(tmp_path / "kit", out)
    assert all(
        word in message for word in ("Annotations/*.xml", "ImageSets/Main/*.txt", "JPEGImages/*.jpg", "--download")
    )
    assert "Did you mean" not in message
    assert not out.exists()


def test_the_folder_around_the_devkit(kit: Path, out: Path) -> None:
    assert f"Did you mean '{kit}'?" in refusal(kit.parent, out)


def test_no_devkit(tmp_path: Path, out: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--download"):
        convert_voc(tmp_path / "nowhere", out)


# ---------------------------------------------------------------------------------------------- placing images


@pytest.mark.parametrize("error", [OSError(1, "not permitted"), NotImplementedError()], ids=["OSError", "unsupported"])
@pytest.mark.parametrize("way", ["hard link", "copy"])
def test_where_links_cannot_be_made(
    way: str, error: Exception, kit: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(os, "symlink", refuse)
    if way == "copy":
        monkeypatch.setattr(os, "link", refuse)
    conversion = convert_voc(kit, out)
    assert conversion.placed == {way: 7}
    assert f"Images placed: 7 by {way}." in conversion.table
    assert "Symbolic links cannot be made" in conversion.table
    image, original = out / "images/val2007/000003.jpg", kit / "VOC2007/JPEGImages/000003.jpg"
    assert not image.is_symlink()
    assert image.samefile(original) == (way == "hard link")
    assert image.read_bytes() == original.read_bytes()
    before = snapshot(out)
    assert convert_voc(kit, out).placed == {}
    assert snapshot(out) == before
    image.unlink()
    image.write_bytes(b"x" * original.stat().st_size)
    assert "'images/val2007/000003.jpg'" in refusal(kit, out)


# ---------------------------------------------------------------------------------------------- a real devkit


@pytest.mark.data
def test_a_real_devkit(tmp_path: Path) -> None:
    kit = os.environ.get("QREG_YOLO_VOCDEVKIT")
    if not kit:
        pytest.skip("QREG_YOLO_VOCDEVKIT does not name a VOCdevkit")
    start = time.process_time()
    conversion = convert_voc(Path(kit), tmp_path / "VOC")
    seconds = time.process_time() - start
    n_images = sum(len(split.labels) for split in conversion.splits)
    assert n_images > 1000
    assert conversion.problems == ()
    assert all(split.n_objects > len(split.labels) for split in conversion.splits)
    assert seconds / n_images < 30 / 10_000, "10,000 images in seconds, on a busy machine too"
    assert convert_voc(Path(kit), tmp_path / "VOC").placed == {}
