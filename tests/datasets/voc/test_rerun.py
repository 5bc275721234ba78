from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qreg_yolo.datasets.voc.convert import convert_voc
from qreg_yolo.errors import DataError
from qreg_yolo.io import files
from tests import ROOT
from tests.datasets.voc.synthetic_devkit import LISTS, annotate, annotation, box, contents, refusal, snapshot, write_kit


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return write_kit(tmp_path / "VOCdevkit")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "VOC"


# ---------------------------------------------------------------------------------------------- run again


@pytest.mark.parametrize("options", [{}, {"skip_bad": True}])
def test_a_second_run_changes_nothing(options: dict[str, bool], kit: Path, out: Path) -> None:
    convert_voc(kit, out)
    (out / "labels" / "train2007.cache").write_bytes(b"Ultralytics' own file")
    before = snapshot(out)
    conversion = convert_voc(kit, out, **options)
    assert "Already converted: nothing was changed." in conversion.table
    assert snapshot(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["VOC", "VOCdevkit"]


def test_another_devkit_or_setting_is_refused(kit: Path, out: Path, tmp_path: Path) -> None:
    convert_voc(kit, out)
    before = snapshot(out)
    message = refusal(kit, out, keep_difficult=True)
    assert all(
        word in message
        for word in ("keep_difficult=False, this call has keep_difficult=True", "another --out", "delete")
    )
    other = write_kit(tmp_path / "other")
    message = refusal(other, out)
    assert all(word in message for word in (f"devkit={kit}, this call has devkit={other}", "another --out", "delete"))
    assert snapshot(out) == before


def lose_a_label(kit: Path, out: Path) -> str:
    (out / "labels/train2007/000001.txt").unlink()
    return "labels/train2007/000001.txt"


def change_a_label(kit: Path, out: Path) -> str:
    (out / "labels/train2007/000001.txt").write_text("0 0.5 0.5 1 1\n")
    return "labels/train2007/000001.txt"


def swap_an_image(kit: Path, out: Path) -> str:
    image = out / "images/train2007/000001.jpg"
    image.unlink()
    image.symlink_to(kit / "VOC2007/JPEGImages/000002.jpg")
    return "images/train2007/000001.jpg"


def add_an_image(kit: Path, out: Path) -> str:
    (out / "images/train2007/cat.jpg").write_bytes(b"x")
    return "images/train2007/cat.jpg"


def add_a_label(kit: Path, out: Path) -> str:
    (out / "labels/train2007/cat.txt").write_text("")
    return "labels/train2007/cat.txt"


def change_the_yaml(kit: Path, out: Path) -> str:
    (out / "voc.yaml").write_text("path: elsewhere\n")
    return "voc.yaml"


def annotate_anew(kit: Path, out: Path) -> str:
    annotate(kit, annotation(box("cat")))
    return "labels/train2007/000002.txt"


def grow_the_devkit(kit: Path, out: Path) -> str:
    more = {"2007": {"train": [*LISTS["2007"]["train"], "000009"]}}
    write_kit(kit, more)
    return "labels/train2007/000009.txt"


@pytest.mark.parametrize(
    "damage",
    [
        lose_a_label,
        change_a_label,
        swap_an_image,
        add_an_image,
        add_a_label,
        change_the_yaml,
        annotate_anew,
        grow_the_devkit,
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_finished_folder_that_is_not_what_the_devkit_gives_is_refused(
    damage: Callable[[Path, Path], str], kit: Path, out: Path
) -> None:
    convert_voc(kit, out)
    name = damage(kit, out)
    before = snapshot(out)
    message = refusal(kit, out)
    assert "differs" in message
    assert f"'{name}'" in message
    assert snapshot(out) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}', '{"sha256": {}}'])
def test_a_manifest_of_something_else_is_refused(text: str, kit: Path, out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_text(text)
    assert "manifest.json" in refusal(kit, out)


def test_what_is_not_ours_is_not_touched(kit: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "images").mkdir(parents=True)
    before = snapshot(out)
    assert "holds 'images', but no finished conversion" in refusal(kit, out)
    assert snapshot(out) == before
    before = snapshot(kit)
    assert "holds 'VOC2007'" in refusal(kit, kit)
    assert snapshot(kit) == before
    (file := out.with_name("file")).write_text("mine")
    assert "is a file" in refusal(kit, file)
    (empty := out.with_name("empty")).mkdir()
    monkeypatch.chdir(empty)
    assert "the current folder" in refusal(kit, Path("."))
    monkeypatch.chdir(kit)
    assert convert_voc(kit, empty).placed, "an empty folder elsewhere is used"


# ---------------------------------------------------------------------------------------------- interrupted


PROGRAM = """
import os, sys
from pathlib import Path
from qreg_yolo.datasets.voc import annotations, convert, output
from qreg_yolo.io import files

name, number = sys.argv[3].split(":")
homes = {"link_or_copy": files, "write_text": files, "_parse": annotations, "rmtree": output.shutil}
home = homes[name]
original, calls = getattr(home, name), []

def call(*arguments, **options):
    calls.append(1)
    if len(calls) == int(number):
        os._exit(9)  # as kill -9: nothing is cleaned up
    return original(*arguments, **options)

setattr(home, name, call)
convert.convert_voc(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "moment",
    [
        "_parse:3",
        "link_or_copy:1",
        "link_or_copy:5",
        "write_text:1",
        "write_text:2",
        "rmtree:1",
    ],
)
def test_after_a_kill_nothing_half_is_in_place_and_the_next_run_completes(moment: str, kit: Path, out: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(kit), str(out), moment],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert run.returncode == 9
    assert out.exists() == (moment == "rmtree:1"), "only once it is whole"
    convert_voc(kit, out)
    reference = convert_voc(kit, out.with_name("reference")).yaml.parent
    same = [{k: v for k, v in contents(folder).items() if k != "voc.yaml"} for folder in (out, reference)]
    assert same[0] == same[1]


def test_a_kill_while_problems_are_listed_does_not_block_the_next_run(kit: Path, out: Path) -> None:
    out.mkdir()
    (out / ".problems.txt.x1y2.tmp").write_text("half")
    convert_voc(kit, out)
    assert not list(out.glob(".problems*"))


def test_after_an_interruption_nothing_is_left_and_the_next_run_completes(
    kit: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Path] = []
    original = files.link_or_copy

    def interrupt(source: Path, target: Path) -> str:
        if len(placed) == 4:
            raise KeyboardInterrupt
        placed.append(target)
        return original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files, "link_or_copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert_voc(kit, out)
    assert len(placed) == 4
    assert [path.name for path in out.parent.iterdir()] == ["VOCdevkit"]
    assert convert_voc(kit, out).placed == {"symbolic link": 7}


def test_what_a_killed_run_left_is_removed_once_no_run_can_be_using_it(kit: Path, out: Path) -> None:
    old, young = (out.with_name(f".VOC.partial-{name}") for name in ("old", "young"))
    for folder in (old, young):
        (folder / "VOC").mkdir(parents=True)
    os.utime(old, (time.time() - 4000,) * 2)
    convert_voc(kit, out)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_full_disk_leaves_nothing(kit: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sync", full)
    with pytest.raises(OSError, match="No space"):
        convert_voc(kit, out)
    assert [path.name for path in out.parent.iterdir()] == ["VOCdevkit"]


def test_another_run_that_was_faster_is_not_overwritten(kit: Path, out: Path) -> None:
    @contextmanager
    def race(label: str, total: int) -> Iterator[Callable[[int], object]]:
        yield lambda step: None
        if label == "Writing":
            convert_voc(kit, out)

    with pytest.raises(DataError, match="Another run has written"):
        convert_voc(kit, out, progress=race)
    assert convert_voc(kit, out).placed == {}


def test_progress_adds_up(kit: Path, out: Path) -> None:
    seen: dict[str, list[int]] = {}

    @contextmanager
    def watch(label: str, total: int) -> Iterator[Callable[[int], object]]:
        seen[label] = [total, 0]

        def advance(step: int) -> None:
            seen[label][1] += step

        yield advance

    convert_voc(kit, out, progress=watch)
    assert list(seen) == ["train2012", "train2007", "val2012", "val2007", "test2007", "Writing"]
    assert all(total == done > 0 for total, done in seen.values())
    assert seen["Writing"][0] == 7
