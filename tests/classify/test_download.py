"""CIFAR from a web server of this machine, by torchvision, as ``--download`` fetches it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from qreg_yolo.classify.datasets import download_cifar
from qreg_yolo.datasets import cifar
from tests.datasets.synthetic_cifar import make_official, write_cifar
from tests.file_server import Server, serve

CLASSES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def offer(name: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serves a tiny set's archive where torchvision looks for the official one, whose files ours count as."""
    make_official(monkeypatch, write_cifar(folder, name), name)
    files, packed = cifar.OFFICIAL[name], io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder / files.folder, files.folder)
    server.files[f"/{name}.tar.gz"] = packed.getvalue()
    source = CLASSES[name]
    monkeypatch.setattr(source, "url", f"{server.url}/{name}.tar.gz")
    monkeypatch.setattr(source, "filename", f"{name}.tar.gz")
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())


@pytest.mark.parametrize("name", list(CLASSES))
def test_what_is_missing_is_fetched_once(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(name, server, tmp_path / "source", monkeypatch)
    download_cifar(name, tmp_path / "new")
    there, source = (cifar.read_cifar(name, tmp_path / folder, "train") for folder in ("new", "source"))
    assert np.array_equal(there.images, source.images)
    asked = len(server.asked)
    assert asked > 0
    download_cifar(name, tmp_path / "new")
    assert len(server.asked) == asked
    damaged = tmp_path / "new" / cifar.OFFICIAL[name].folder / cifar.OFFICIAL[name].meta[0]
    damaged.unlink()
    download_cifar(name, tmp_path / "new")
    assert damaged.is_file()


@pytest.mark.parametrize("name", list(CLASSES))
def test_torchvision_expects_the_same_files(name: str) -> None:
    files, source = cifar.OFFICIAL[name], CLASSES[name]
    assert dict(source.train_list) == files.train
    assert dict(source.test_list) == files.test
    assert (source.base_folder, source.meta["filename"], source.meta["md5"]) == (files.folder, *files.meta)


@pytest.mark.parametrize("fault", ["gone", "another"])
def test_an_archive_that_cannot_be_had(
    fault: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("cifar10", server, tmp_path / "source", monkeypatch)
    if fault == "gone":
        server.files.clear()
    else:
        server.files["/cifar10.tar.gz"] = b"another file"
    with pytest.raises(OSError, match="404" if fault == "gone" else "archive of cifar10 could not be fetched"):
        download_cifar("cifar10", tmp_path / "new")
    assert not (tmp_path / "new" / "cifar-10-batches-py").exists()
