"""Download of the official PASCAL VOC archives into a VOCdevkit: resumed, checked, unpacked file by file.

An archive stays in ``.download/`` of the devkit until all of it is unpacked, so that an interrupted run can resume.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from qreg_yolo.datasets.voc.devkit import LISTS
from qreg_yolo.errors import DataError
from qreg_yolo.terminal import Progress, no_progress


@dataclass(frozen=True)
class Archive:
    """An uncompressed tar file that holds a part of the devkit."""

    path: str
    """Below the base URL."""
    md5: str
    lists: tuple[str, ...]
    """Files of the devkit that only this archive brings: if one exists, it was unpacked."""

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rpartition("/")[2]


BASE_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"
"""Oxford's server; http://host.robots.ox.ac.uk/pascal/VOC, the old address, redirects there."""
ARCHIVES = tuple(
    Archive(path, md5, tuple(f"VOC{year}/{LISTS}/{name}.txt" for name in names))
    for path, md5, year, names in (
        (
            "voc2007/VOCtrainval_06-Nov-2007.tar",
            "c52e279531787c972589f7e41ab4ae64",
            2007,
            ("train", "val", "trainval"),
        ),
        ("voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f", 2007, ("test",)),
        (
            "voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
            2012,
            ("train", "val", "trainval"),
        ),
    )
)
FOLDER = ".download"
_MEMBER = re.compile(rf"VOCdevkit/(VOC\d{{4}}/(?:Annotations|JPEGImages|{LISTS})/\w[\w.-]*)")
"""The members that are unpacked; nothing else is needed, and nothing of this form leaves the devkit."""
_TIMEOUT_S = 60
_CHUNK = 1 << 20
_GO_ON = "Check the network and run the command again: it resumes."


def fetch_devkit(
    devkit: Path,
    *,
    archives: Sequence[Archive] = ARCHIVES,
    base_url: str = BASE_URL,
    progress: Progress = no_progress,
) -> list[str]:
    """Fetches the archives that ``devkit`` lacks, unpacks them, and returns their names.

    Args:
        devkit: Folder that holds ``VOC2007`` and the like; made if absent.
        archives: The archives of a whole devkit.
        base_url: Their address.
        progress: Reports progress in bytes.

    Raises:
        DataError: The server cannot be reached, or sent something else than the archive.
        OSError: ``devkit`` cannot be written, or the disk is full.
    """
    fetched = []
    for archive in archives:
        tar = devkit / FOLDER / archive.name
        if not tar.is_file():
            if any((devkit / name).is_file() for name in archive.lists):
                continue
            tar.parent.mkdir(parents=True, exist_ok=True)
            _download(f"{base_url}/{archive.path}", tar, archive.md5, progress)
        _unpack(tar, devkit, progress)
        tar.unlink()
        fetched.append(archive.name)
    with suppress(OSError):  # not there, or not empty
        (devkit / FOLDER).rmdir()
    return fetched


def _download(url: str, target: Path, md5: str, progress: Progress) -> None:
    """Writes ``target`` once it is complete and has this hash; until then a partial file."""
    part = target.with_name(f"{target.name}.part")
    present = part.stat().st_size if part.is_file() else 0
    try:
        with urlopen(Request(url, headers={"Range": f"bytes={present}-"}), timeout=_TIMEOUT_S) as response:
            _receive(response, url, part, present, progress)
    except HTTPError as error:
        error.close()
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not present:  # else: it was all there
            raise DataError(f"{url}: the server answers {error.code} {error.reason}. Try again later.") from error
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: {getattr(error, 'reason', None) or error!r}. {_GO_ON}") from error
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise DataError(f"{url}: its MD5 is {found}, not {md5}; it was deleted. Run the command again.")
    part.replace(target)


def _receive(response: HTTPResponse, url: str, part: Path, present: int, progress: Progress) -> None:
    """Downloads the rest of ``part``, or starts over where the server cannot resume."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        present = 0
    elif not (response.headers["Content-Range"] or "").startswith(f"bytes {present}-"):
        raise DataError(f"{url}: the server sends {response.headers['Content-Range']!r}, not from byte {present} on.")
    total = present + int(response.headers["Content-Length"] or 0)
    with part.open("ab" if present else "wb") as file, progress(f"Fetching {part.stem}", total) as advance:
        advance(present)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            advance(len(chunk))
    if part.stat().st_size < total:
        raise DataError(f"{url}: the connection ended after {part.stat().st_size} of {total} bytes. {_GO_ON}")


def _unpack(tar: Path, devkit: Path, progress: Progress) -> None:
    """Writes annotations, image lists and images; the archive's own paths, links and modes are not followed."""
    try:
        with tarfile.open(tar, "r:") as archive, progress(f"Unpacking {tar.stem}", tar.stat().st_size) as advance:
            position = 0
            for member in archive:
                advance(archive.offset - position)
                position = archive.offset
                match = _MEMBER.fullmatch(member.name.removeprefix("./"))
                source = archive.extractfile(member) if match and member.isreg() else None
                if match and source:
                    place = devkit / match[1]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("wb") as file:
                        shutil.copyfileobj(source, file)
    except tarfile.TarError as error:
        raise DataError(f"'{tar}' cannot be unpacked: {error}. Delete it and run the command again.") from error


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # what is published of these archives
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
