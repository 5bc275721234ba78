from __future__ import annotations

import hashlib
import io
import re
import shutil
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.datasets.voc import download
from qreg_yolo.datasets.voc.convert import convert_voc
from qreg_yolo.datasets.voc.download import ARCHIVES, Archive, fetch_devkit
from qreg_yolo.errors import DataError
from tests.datasets.voc.synthetic_devkit import LISTS, contents, write_kit
from tests.file_server import Server, serve


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def tar_of(kit: Path, prefix: str = "VOCdevkit/") -> bytes:
    """Returns an uncompressed tar of the files of a devkit, and of others such as the official ones have."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in sorted(path for path in kit.rglob("*") if path.is_file()):
            archive.add(path, f"{prefix}{path.relative_to(kit).as_posix()}")
        for name in ("VOC2007/SegmentationClass/000001.png", "VOC2007/ImageSets/Layout/train.txt"):
            archive.addfile(tarfile.TarInfo(f"{prefix}{name}"))
    return file.getvalue()


def offer(server: Server, path: str, data: bytes, lists: Sequence[str]) -> Archive:
    server.files[f"/{path}"] = data
    return Archive(path, hashlib.md5(data).hexdigest(), tuple(f"{name}.txt" for name in lists))


@pytest.fixture
def archives(server: Server, tmp_path: Path) -> list[Archive]:
    """Returns three archives that hold the devkit of `write_kit`, as the official ones do."""
    offered = []
    for name, year, sets in (
        ("voc2007/trainval.tar", "2007", ["train", "val"]),
        ("voc2007/test.tar", "2007", ["test"]),
        ("voc2012/trainval.tar", "2012", ["train", "val"]),
    ):
        part = write_kit(tmp_path / "parts" / name, {year: {key: LISTS[year][key] for key in sets}})
        lists = [f"VOC{year}/ImageSets/Main/{key}" for key in sets]
        offered.append(offer(server, name, tar_of(part), lists))
    shutil.rmtree(tmp_path / "parts")
    return offered


def refusal(devkit: Path, archives: Sequence[Archive], url: str) -> str:
    with pytest.raises(DataError) as error:
        fetch_devkit(devkit, archives=archives, base_url=url)
    return str(error.value)


def test_the_devkit_is_fetched_once_and_is_whole(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    devkit = tmp_path / "new" / "VOCdevkit"
    assert fetch_devkit(devkit, archives=archives, base_url=server.url) == ["trainval.tar", "test.tar", "trainval.tar"]
    assert contents(devkit) == contents(write_kit(tmp_path / "reference")), "without the archives and what is not used"
    assert len(server.asked) == 3
    assert fetch_devkit(devkit, archives=archives, base_url=server.url) == []
    assert len(server.asked) == 3
    assert convert_voc(devkit, tmp_path / "VOC").problems == ()


def test_only_what_is_missing_is_fetched(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    devkit = write_kit(tmp_path / "kit", {"2007": LISTS["2007"]})
    assert fetch_devkit(devkit, archives=archives, base_url=server.url) == ["trainval.tar"]
    assert [path for path, _ in server.asked] == ["/voc2012/trainval.tar"]


def test_a_broken_connection_is_named_and_resumed(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    server.cut_after = 700
    size = len(server.files["/voc2007/trainval.tar"])
    message = refusal(tmp_path, archives, server.url)
    assert all(word in message for word in (f"{server.url}/voc2007/trainval.tar", f"700 of {size} bytes", "resumes"))
    assert f"1400 of {size}" in refusal(tmp_path, archives, server.url)
    server.cut_after = None
    fetch_devkit(tmp_path, archives=archives, base_url=server.url)
    assert [wanted for _, wanted in server.asked] == [f"bytes={n}-" for n in (0, 700, 1400, 0, 0)]
    assert contents(tmp_path) == contents(write_kit(tmp_path.with_name(f"{tmp_path.name}-reference")))


def test_progress_adds_up_over_a_resumed_download(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    seen: list[list[Any]] = []

    @contextmanager
    def watch(label: str, total: int) -> Iterator[Any]:
        entry = [label, total, 0]
        seen.append(entry)

        def advance(step: int) -> None:
            entry[2] += step

        yield advance

    server.cut_after = 700
    refusal(tmp_path, archives[:1], server.url)
    server.cut_after = None
    fetch_devkit(tmp_path, archives=archives[:1], base_url=server.url, progress=watch)
    (fetching, total, done), (unpacking, size, unpacked) = seen
    assert (fetching, unpacking) == ("Fetching trainval.tar", "Unpacking trainval")
    assert total == done == size
    assert 0.5 * size < unpacked <= size


def test_a_file_that_had_come_whole_is_not_fetched_again(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    part = tmp_path / ".download" / "trainval.tar.part"
    part.parent.mkdir()
    part.write_bytes(server.files["/voc2007/trainval.tar"])
    fetch_devkit(tmp_path, archives=archives[:1], base_url=server.url)
    assert server.asked == [("/voc2007/trainval.tar", f"bytes={len(server.files['/voc2007/trainval.tar'])}-")]
    assert (tmp_path / "VOC2007/ImageSets/Main/val.txt").is_file()


def test_a_server_that_does_not_resume_is_asked_for_all(
    server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    server.resumes = False
    part = tmp_path / ".download" / "trainval.tar.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 100)
    fetch_devkit(tmp_path, archives=archives[:1], base_url=server.url)
    assert (tmp_path / "VOC2007/ImageSets/Main/val.txt").is_file()


def test_a_server_that_sends_other_bytes(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    server.lies = True
    assert "'bytes 1-" in refusal(tmp_path, archives, server.url)
    assert not (tmp_path / "VOC2007").exists()


@pytest.mark.parametrize("had", [b"", b"x" * 64, b"x" * 10**6], ids=["fresh", "resumed", "too long"])
def test_a_wrong_hash_is_refused_and_the_next_run_starts_anew(
    had: bytes, server: Server, archives: list[Archive], tmp_path: Path
) -> None:
    good = server.files["/voc2007/trainval.tar"]
    if not had:
        server.files["/voc2007/trainval.tar"] = good[:-1] + b"!"
    part = tmp_path / ".download" / "trainval.tar.part"
    part.parent.mkdir()
    part.write_bytes(had)
    message = refusal(tmp_path, archives, server.url)
    assert all(word in message for word in ("MD5", archives[0].md5, "deleted", "again"))
    assert list((tmp_path / ".download").iterdir()) == []
    assert not (tmp_path / "VOC2007").exists()
    server.files["/voc2007/trainval.tar"] = good
    fetch_devkit(tmp_path, archives=archives, base_url=server.url)


def test_a_server_without_the_file_or_without_a_server(server: Server, archives: list[Archive], tmp_path: Path) -> None:
    server.files.clear()
    assert "404" in refusal(tmp_path, archives, server.url)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
    message = refusal(tmp_path, archives, f"http://127.0.0.1:{port}")
    assert all(word in message for word in (f"127.0.0.1:{port}/voc2007", "refused", "Check the network"))


def test_the_network_is_left_alone_by_default_in_the_tests(tmp_path: Path, network_attempts: list[str]) -> None:
    with pytest.raises(DataError, match="Check the network"):
        fetch_devkit(tmp_path)
    assert network_attempts == ["thor.robots.ox.ac.uk"]


def test_unpacking_that_was_interrupted_is_done_again_without_the_network(
    server: Server, archives: list[Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    original = shutil.copyfileobj

    def interrupt(*args: Any) -> None:
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(args)
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch_devkit(tmp_path, archives=archives[:1], base_url=server.url)
    assert (tmp_path / "VOC2007/ImageSets/Main/train.txt").is_file(), "looks unpacked"
    assert fetch_devkit(tmp_path, archives=archives[:1], base_url=server.url) == ["trainval.tar"]
    assert len(server.asked) == 1
    reference = write_kit(tmp_path.with_name(f"{tmp_path.name}-reference"), {"2007": without_test()})
    assert contents(tmp_path) == contents(reference)


def without_test() -> dict[str, list[str]]:
    return {name: stems for name, stems in LISTS["2007"].items() if name != "test"}


EVIL = "VOCdevkit/VOC2007/JPEGImages/"


def test_nothing_of_an_archive_is_written_outside_the_devkit(server: Server, tmp_path: Path) -> None:
    file = io.BytesIO()
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(fileobj=file, mode="w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size, member.mode = kind, target, 4, 0o4777
            archive.addfile(member, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)

        for name in ("../up.jpg", f"{outside}/absolute.jpg", f"{EVIL}../../../up.jpg", f"{EVIL}..", f"{EVIL}a/b.jpg"):
            add(name)
        add("VOCdevkit/../VOC2007/JPEGImages/up.jpg")
        add(f"{EVIL}link.jpg", tarfile.SYMTYPE, str(outside / "target.jpg"))
        add(f"{EVIL}link.jpg")  # through the link, where it was made
        add("VOCdevkit/VOC2012", tarfile.SYMTYPE, str(outside))
        add("VOCdevkit/VOC2012/JPEGImages/2.jpg")
        add(f"{EVIL}hard.jpg", tarfile.LNKTYPE, "../../outside.txt")
        add(f"{EVIL}pipe.jpg", tarfile.FIFOTYPE)
        add(f"{EVIL}good.jpg")
    archive_ = offer(server, "evil.tar", file.getvalue(), ["none"])
    devkit = tmp_path / "kit"
    fetch_devkit(devkit, archives=[archive_], base_url=server.url)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kit", "outside"]
    assert list(outside.iterdir()) == []
    found = {name for name, content in contents(devkit).items() if content is not None}
    assert found == {f"VOC2007/JPEGImages/{name}.jpg" for name in ("link", "good")} | {"VOC2012/JPEGImages/2.jpg"}
    image = devkit / "VOC2007/JPEGImages/link.jpg"
    assert not image.is_symlink()
    assert image.stat().st_mode & 0o7111 == 0, "not the archive's own mode"


def test_what_is_no_tar_is_refused(server: Server, tmp_path: Path) -> None:
    archive = offer(server, "page.tar", b"<html>" * 200, ["none"])
    assert "cannot be unpacked" in refusal(tmp_path, [archive], server.url)


def test_the_official_archives_are_those_that_torchvision_knows() -> None:
    spec = find_spec("torchvision")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = (Path(spec.submodule_search_locations[0]) / "datasets" / "voc.py").read_text(encoding="utf-8")
    theirs = dict(re.findall(r"/pascal/VOC/(voc\d+/\S+\.tar)\",.*?\"md5\": \"(\w{32})\"", source, re.DOTALL))
    assert len(ARCHIVES) == 3
    assert {archive.path: archive.md5 for archive in ARCHIVES}.items() <= theirs.items()
    assert download.BASE_URL.startswith("https://")
    assert [archive.name for archive in ARCHIVES] == [
        "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar",
    ]  # fmt: skip
