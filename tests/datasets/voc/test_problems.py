from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.datasets.voc.convert import convert_voc
from tests.datasets.voc.synthetic_devkit import (
    annotate,
    annotation,
    box,
    contents,
    list_also,
    refusal,
    snapshot,
    write_kit,
)


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return write_kit(tmp_path / "VOCdevkit")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "VOC"


XML, IMAGE, TRAIN = (
    "VOC2007/Annotations/000002.xml",
    "VOC2007/JPEGImages/000002.jpg",
    "VOC2007/ImageSets/Main/train.txt",
)
PROBLEMS = {
    "malformed XML": (lambda kit: annotate(kit, "<annotation>"), XML, 0),
    "missing size": (lambda kit: annotate(kit, annotation(box(), size="")), XML, 0),
    "missing annotation": (lambda kit: (kit / XML).unlink(), XML, 0),
    "missing image": (lambda kit: (kit / IMAGE).unlink(), IMAGE, 0),
    "unknown class": (lambda kit: annotate(kit, annotation(box("dgo"), box())), XML, 1),
    "wrong difficult flag": (lambda kit: annotate(kit, annotation(box(difficult=7), box())), XML, 1),
    "box outside the image": (lambda kit: annotate(kit, annotation(box(corners=(3, 4, 99, 9)), box())), XML, 1),
    "box without area": (lambda kit: annotate(kit, annotation(box(corners=(3, 4, 3, 9)), box())), XML, 1),
    "box that is not numbers": (lambda kit: annotate(kit, annotation(box(corners=("nan", 4, 5, 9)), box())), XML, 1),
    "image listed twice": (lambda kit: list_also(kit, "000001"), TRAIN, 1),
}
"""kind -> (what brings it about, the file that is named, objects left of 000002 with --skip-bad)"""


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_problem_is_named_and_nothing_is_converted(kind: str, kit: Path, out: Path) -> None:
    change, file, _ = PROBLEMS[kind]
    change(kit)
    message = refusal(kit, out)
    lines = message.splitlines()
    assert "has 1 problem; nothing was converted" in lines[0]
    assert "--skip-bad" in lines[0]
    assert lines[1] == f"  {kind}: 1"
    assert lines[2].startswith(f"    {file}: ")
    (line,) = (out / "problems.txt").read_text().splitlines()
    assert line == f"{kind}: {lines[2].strip()}"
    assert [path.name for path in out.iterdir()] == ["problems.txt"]
    write_kit(kit)
    assert convert_voc(kit, out).placed == {"symbolic link": 7}, "corrected, it is converted"
    assert not (out / "problems.txt").exists()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_skip_bad_leaves_out_just_that(kind: str, kit: Path, out: Path) -> None:
    change, file, n_left = PROBLEMS[kind]
    whole = contents(convert_voc(kit, out.with_name("whole")).yaml.parent)
    change(kit)
    conversion = convert_voc(kit, out, skip_bad=True)
    assert [problem.kind for problem in conversion.problems] == [kind]
    assert file in conversion.table
    assert f"  {kind}: 1" in conversion.table
    found = contents(out)
    assert str(found.pop("problems.txt")).count("\\n") == 1
    for special in ("manifest.json", "voc.yaml"):
        whole.pop(special), found.pop(special)
    label, image = "labels/train2007/000002.txt", "images/train2007/000002.jpg"
    if n_left:
        assert found == whole
    else:
        assert set(whole) - set(found) == {label, image}
        assert all(whole[name] == content for name, content in found.items())
    before = snapshot(out)
    assert convert_voc(kit, out, skip_bad=True).placed == {}
    assert snapshot(out) == before


@pytest.mark.parametrize(
    "name",
    ["../VOC2012/JPEGImages/2008_000001", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "000001 -1", "C:x", "\ufffd"],
)
def test_a_name_that_is_no_plain_stem_is_refused(name: str, kit: Path, out: Path) -> None:
    list_also(kit, name)
    message = refusal(kit, out)
    assert "wrong name in a list: 1" in message
    assert f"{TRAIN}: line 3: {name!r}" in message
    assert len(convert_voc(kit, out, skip_bad=True).splits[1].labels) == 2


def test_an_image_in_training_and_test_is_named(kit: Path, out: Path) -> None:
    list_also(kit, "000004")
    assert "image listed twice: 1\n    VOC2007/ImageSets/Main/test.txt: line 1: 000004" in refusal(kit, out)


def test_ten_examples_of_each_kind_are_shown_and_all_are_listed(tmp_path: Path, out: Path) -> None:
    stems = [f"{n:06}" for n in range(30)]
    kit = write_kit(tmp_path / "kit", {"2007": {"train": stems, "val": ["900000"], "test": ["900001"]}})
    for stem in stems[:12]:
        (kit / "VOC2007" / "JPEGImages" / f"{stem}.jpg").unlink()
    for stem in stems[12:15]:
        (kit / "VOC2007" / "Annotations" / f"{stem}.xml").write_text(annotation(box("dgo"), box("ct")))
    for text in (refusal(kit, out), convert_voc(kit, out, skip_bad=True).table):
        assert "18 problems" in text
        assert "  missing image: 12\n    VOC2007/JPEGImages/000000.jpg" in text
        assert text.count("    VOC2007/JPEGImages/") == 10
        assert "    ... and 2 more" in text
        assert text.count("    VOC2007/Annotations/") == 6
        listed = (out / "problems.txt").read_text().splitlines()
        assert [line.partition(":")[0] for line in listed] == ["missing image"] * 12 + ["unknown class"] * 6


def test_a_split_without_an_image_that_can_be_used_is_left_out(kit: Path, out: Path) -> None:
    (kit / "VOC2012/JPEGImages/2008_000002.jpg").unlink()
    conversion = convert_voc(kit, out, skip_bad=True)
    assert "images/val2012" not in conversion.yaml.read_text()
    assert "val2012 has no image that can be used." in conversion.notes
    assert not (out / "images" / "val2012").exists()
