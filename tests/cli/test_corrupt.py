"""``qreg-yolo corrupt``: from a source to sets, what it says where that cannot be, and that it may be stopped."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from qreg_yolo.cli import corrupt as command
from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.sources import read_source
from tests import ROOT
from tests.cli.conftest import Outcome, assert_refused, qreg_yolo
from tests.datasets.corrupted.corrupted_helpers import contents, request, write_set

FEW = ["--corruptions", "snow,gaussian_noise,frost", "--severities", "1,4", "--seed", 3]


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set", 12)


def corrupt(*arguments: object) -> Outcome:
    return qreg_yolo("corrupt", *arguments, *([] if "--workers" in arguments else ["--workers", 0]))


def test_what_the_options_write_is_what_the_library_writes(yaml: Path, tmp_path: Path) -> None:
    outcome = corrupt(yaml, tmp_path / "out", *FEW, "--limit", 5)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"6 sets of 5 images in '{tmp_path}/out'.\nValidate one: yolo val data=")
    assert "About " in outcome.err
    assert "Writing" in outcome.err
    write_sets(read_source(yaml), request(tmp_path / "library", limit=5))
    assert contents(tmp_path / "out") == contents(tmp_path / "library")


def test_the_tool_and_a_plain_folder(yaml: Path, tmp_path: Path) -> None:
    arguments = [yaml.parent / "images", tmp_path / "out", "--corruptions", "contrast", "--format", "jpg"]
    arguments += ["--quality", 80, "--workers", 0]
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "corrupt_voc.py"), *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 5 * 12


def test_a_sheet_has_a_tile_per_cell(yaml: Path, tmp_path: Path) -> None:
    assert corrupt(yaml, tmp_path / "sheet.png", "--sheet", *FEW).code == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[1] == 24 + 3 * (36 + 4)
    assert_refused(corrupt(yaml, tmp_path / "sheet.gif", "--sheet"), 1, "sheet.gif", ".png or .jpg")
    assert_refused(corrupt(yaml, tmp_path / "nowhere/sheet.png", "--sheet", *FEW), 1, "cannot be written")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--corruptions", "fogg"], ["'fogg' is not one of the 19", "Did you mean 'fog'"]),
        (["--corruptions", "16"], ["'16'", "19, 15, or names"]),
        (["--corruptions", ""], ["not one of the 19"]),
        (["--severities", "6"], ["severities='6'", "1 to 5"]),
        (["--severities", "0-3"], ["severities='0-3'"]),
        (["--format", "pgn"], ["Did you mean 'png'"]),
        (["--quality", "90"], ["quality=90 applies to jpg"]),
        (["--format", "jpg", "--quality", "101"], ["quality=101"]),
        (["--preset", "imagnet224"], ["Did you mean 'imagenet224'"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--limit", "0"], ["limit=0"]),
        (["--workers", "-2"], ["workers=-2"]),
        (["--frost-dir", "nowhere"], ["nowhere", "does not exist"]),
        (["--skipbad"], ["--skip-bad"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_usage(options: list[str], words: list[str], yaml: Path, tmp_path: Path) -> None:
    assert_refused(corrupt(yaml, tmp_path / "out", *options), 2, *words)
    assert not (tmp_path / "out").exists()


def test_a_wrong_source(yaml: Path, tmp_path: Path) -> None:
    assert_refused(corrupt("vco", tmp_path / "out"), 2, "Did you mean 'voc'")
    assert_refused(corrupt(yaml, tmp_path / "out", "--split", "tset"), 1, "split='tset'", "test")
    assert_refused(corrupt(yaml, tmp_path / "out", "--split", "test"), 1, "no 'test' images", "train")
    assert_refused(corrupt(tmp_path / "work", tmp_path / "out"), 1, "has no images", "png")
    assert_refused(corrupt(yaml, yaml.parent / "images" / "out"), 1, "is in the source's folder")


def test_much_is_asked_about(yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ASK_ABOVE", 1000)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert_refused(corrupt(yaml, tmp_path / "out", *FEW), 2, "About ", "--yes")
    assert not (tmp_path / "out").exists()
    assert corrupt(yaml, tmp_path / "out", *FEW, "--yes").code == 0


def test_an_unreadable_image_is_named_and_left_out_only_if_asked(yaml: Path, tmp_path: Path) -> None:
    (yaml.parent / "images/test/000.jpg").write_bytes(b"no image")
    assert_refused(corrupt(yaml, tmp_path / "out", *FEW), 1, "1 of 12 images", "000.jpg", "--skip-bad")
    outcome = corrupt(yaml, tmp_path / "out", *FEW, "--skip-bad")
    assert outcome.code == 0
    assert "6 sets of 11 images" in outcome.out
    assert "Left out: 1 images" in outcome.out
    assert "000.jpg: " in outcome.out


def test_a_place_that_cannot_be_written(yaml: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(corrupt(yaml, tmp_path / "file", *FEW), 1, "is a file")
    assert_refused(corrupt(yaml, tmp_path / "file" / "out", *FEW), 1, "cannot be written", "another folder")


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
{first}
from qreg_yolo.cli import main
if __name__ == "__main__":
    main(["corrupt", *sys.argv[1:]])
"""


def start(first: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(first=first), *map(str, arguments)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )  # fmt: skip


def wait_for_lines(journal: Path, count: int) -> None:
    end = time.monotonic() + 60
    while not journal.is_file() or journal.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end, "no image was finished"
        time.sleep(0.002)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_started_again_it_completes_the_same(how: signal.Signals, tmp_path: Path) -> None:
    yaml, out = write_set(tmp_path / "set", 24, 96, 120), tmp_path / "out"
    arguments = [yaml, out, "--corruptions", "snow,gaussian_noise", "--severities", "1-5", "--workers", 1]
    process = start("", *arguments)
    wait_for_lines(out / "files.jsonl", 3)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: the workers get it too
    else:
        process.kill()
    printed, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how), said
    if how == signal.SIGINT:
        assert "The same command resumes" in said
        assert "Interrupted." in said
        assert "Traceback" not in said + printed
    finished = (out / "files.jsonl").read_bytes().splitlines()
    assert 3 <= len(finished) < 24
    assert not (out / "snow/1/data.yaml").exists(), "a set without it is not whole"
    stamps = {path: path.stat().st_mtime_ns for line in finished[:3] for path in out.glob("*/*/images/000.png")}
    again = corrupt(*arguments)
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "a finished file is not written again"
    assert corrupt(yaml, tmp_path / "whole", *arguments[2:-1], 0).code == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_full_disk(yaml: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))"
    process = start(full, yaml, tmp_path / "out", *FEW, "--workers", 0)
    printed, said = process.communicate(timeout=60)
    assert_refused(Outcome(process.returncode, printed, said, ""), 1, "cannot be written", "Make room", "resumes")
    assert not list((tmp_path / "out").rglob("images/**/*.tmp")), "nothing half-written"
    assert corrupt(yaml, tmp_path / "out", *FEW).code == 0
    shutil.rmtree(tmp_path / "out")


def test_cifar_takes_its_own_defaults(tmp_path: Path) -> None:
    import pickle

    import numpy as np

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2], b"filenames": [b"a.png", b"b.png"]}
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    assert corrupt(folder, tmp_path / "out", "--corruptions", "brightness").code == 0
    assert (
        np.load(tmp_path / "out/brightness.npy")[:, 0, 0, 0].tolist()
        == [12] * 2 + [25] * 2 + [38] * 2 + [51] * 2 + [76] * 2
    )
    assert_refused(corrupt(folder, tmp_path / "out", "--format", "jpg"), 2, "--format")
    assert_refused(corrupt(folder, tmp_path / "out2", "--severities", "3"), 1, "all five")
