"""``qreg-yolo data voc``: from a devkit to a training run, and what it says when that cannot be."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from qreg_yolo.cli import data as command
from qreg_yolo.cli import process
from qreg_yolo.datasets.voc import download
from qreg_yolo.detect.data_check import check_data
from qreg_yolo.io import files, records
from qreg_yolo.io.resources import data_path
from tests.cli.conftest import Outcome, assert_refused, qreg_yolo, train_run
from tests.datasets.voc.synthetic_devkit import LISTS, write_kit
from tests.file_server import serve


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    return write_kit(tmp_path / "VOCdevkit")


def convert(kit: Path, out: Path, *options: str) -> Outcome:
    return qreg_yolo("data", "voc", "--devkit", kit, "--out", out, *options)


def test_what_it_writes_can_be_trained_on(kit: Path, hyp: Path, tmp_path: Path) -> None:
    outcome = convert(kit, tmp_path / "VOC")
    assert outcome.code == 0, outcome.err
    yaml = tmp_path / "VOC" / "voc.yaml"
    assert outcome.out.splitlines()[-1] == f"Data YAML: {yaml}"
    assert all(label in outcome.err for label in ("train2012", "test2007", "Writing"))
    assert [len(check_data(yaml, split).images) for split in ("train", "val")] == [5, 2]
    run = train_run(tmp_path / "runs", hyp, yaml, "--bits", 4, "batch=5")
    table = records.read(run.folder / "records.csv")
    assert set(table.select("split", "n_images").unique().rows()) == {("train", 5), ("val", 2)}
    again = convert(kit, tmp_path / "VOC")
    assert (again.code, "nothing was changed" in again.out) == (0, True), "with Ultralytics' caches in it"


def test_the_folder_voc_is_what_data_voc_trains_on(kit: Path, hyp: Path) -> None:
    assert convert(kit, Path("VOC")).code == 0
    assert [len(check_data(data_path("voc"), split).images) for split in ("train", "val")] == [5, 2]


def test_options(kit: Path, tmp_path: Path) -> None:
    label = Path("labels/train2007/000001.txt")
    assert convert(kit, tmp_path / "a", "--keep-difficult").code == 0
    assert len((tmp_path / "a" / label).read_text().splitlines()) == 2
    (kit / "VOC2007/JPEGImages/000002.jpg").unlink()
    outcome = convert(kit, tmp_path / "b", "--skip-bad")
    assert outcome.code == 0
    assert f"Left out for 1 problem ({tmp_path}/b/problems.txt):\n  missing image: 1\n" in outcome.out
    assert len((tmp_path / "b" / label).read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--devkit"]),
        (["--devkit", "nowhere"], ["--out"]),
        (["--devkit", "nowhere", "--out", "VOC"], ["'nowhere'", "--download"]),
        (["--devkit", ".", "--out", "VOC", "--skipbad"], ["--skipbad", "--skip-bad"]),
        (["--devkit", ".", "--out", "VOC", "more"], ["more"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_usage(options: list[str], words: list[str]) -> None:
    assert_refused(qreg_yolo("data", "voc", *options), 2, *words)
    assert not Path("VOC").exists()


def test_what_cannot_be_used(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "VOC"
    assert_refused(convert(tmp_path / "work", out), 1, "is not a VOCdevkit", "JPEGImages/*.jpg", "--download")
    (kit / "VOC2012/Annotations/2008_000001.xml").write_text("<!DOCTYPE annotation><annotation/>")
    assert_refused(convert(kit, out), 1, "1 problem", "malformed XML", "2008_000001.xml", str(out / "problems.txt"))
    write_kit(kit)
    assert convert(kit, out).code == 0
    assert_refused(convert(kit, out, "--keep-difficult"), 1, "other settings", "another --out")
    assert_refused(convert(kit, kit), 1, "holds 'VOC2007'")


def test_interrupted(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "link_or_copy", interrupt)
        outcome = convert(kit, tmp_path / "VOC")
    assert (outcome.code, "Interrupted." in outcome.err) == (130, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VOCdevkit", "work"]
    assert convert(kit, tmp_path / "VOC").code == 0


def test_only_download_fetches_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network_attempts: list[str]
) -> None:
    whole, file = write_kit(tmp_path / "whole"), io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(whole / "VOC2012", "VOCdevkit/VOC2012")
    kit = write_kit(tmp_path / "VOCdevkit", {"2007": LISTS["2007"]})
    with serve() as server:
        server.files["/2012.tar"] = file.getvalue()
        md5 = hashlib.md5(file.getvalue()).hexdigest()
        archives = (download.Archive("2012.tar", md5, ("VOC2012/ImageSets/Main/train.txt",)),)
        defaults = {**download.fetch_devkit.__kwdefaults__, "archives": archives, "base_url": server.url}
        monkeypatch.setattr(download.fetch_devkit, "__kwdefaults__", defaults)
        outcome = convert(kit, tmp_path / "without")
        assert (outcome.code, server.asked) == (0, [])
        assert "no train2012" in outcome.out
        outcome = convert(kit, tmp_path / "with", "--download")
        assert (outcome.code, len(server.asked)) == (0, 1), outcome.err
    assert "Fetching 2012.tar" in outcome.err
    assert (tmp_path / "with/images/train2012/2008_000001.jpg").is_file()
    assert network_attempts == []


@pytest.mark.parametrize("options", [[], ["--download"]])
def test_the_process_stays_off_the_network_without_download(
    options: list[str], kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    original = process.prepare_ultralytics
    monkeypatch.setattr(
        command,
        "prepare_ultralytics",
        lambda *, online, **more: (asked.append(online), original(online=online, **more)),
    )
    assert convert(kit, tmp_path / "VOC", *options).code == 0
    assert asked == [bool(options)]
