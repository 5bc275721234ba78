"""The built-in demo detection set, written once to the user's cache folder and checked by hash.

`qreg_yolo.datasets.demo.scene` draws the images; this module gives them Ultralytics' layout on disk::

    demo-v1-640-192/demo.yaml  manifest.json  images/{train,val}/*.png  labels/{train,val}/*.txt

The manifest holds the SHA-256 of the files as they were written, so that another libpng is not mistaken for damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2

from qreg_yolo.datasets.demo.scene import CLASS_NAMES, GENERATOR_VERSION, Label, draw_image
from qreg_yolo.errors import InvalidValueError

N_TRAIN, N_VAL = 640, 192
"""Number of images of the default set."""
YAML_NAME, MANIFEST_NAME = "demo.yaml", "manifest.json"
_DATA_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".txt"})


def default_cache_root() -> Path:
    """Returns ``$QREG_YOLO_CACHE``, else ``$XDG_CACHE_HOME/qreg-yolo``, else ``~/.cache/qreg-yolo``."""
    own = os.environ.get("QREG_YOLO_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "qreg-yolo"


def ensure_demo_data(root: Path | None = None, *, n_train: int = N_TRAIN, n_val: int = N_VAL) -> Path:
    """Returns the path of the demo set's data YAML; writes it if it is absent, and repairs it if it is damaged.

    The set is built in a scratch folder next to its destination and moved there in one step: an interrupted build
    leaves no half set. A damaged set is repaired file by file with the same bytes; it is never absent in between.

    Args:
        root: Cache folder; None takes `default_cache_root`.
        n_train: Number of training images; part of the folder's name.
        n_val: Number of validation images; as ``n_train``.

    Raises:
        OSError: The cache folder cannot be written.
    """
    name = f"demo-v{GENERATOR_VERSION}-{n_train}-{n_val}"
    folder = (default_cache_root() if root is None else Path(root)).absolute() / name
    if find_damage(folder, n_train=n_train, n_val=n_val):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            write_demo_data(scratch / name, n_train=n_train, n_val=n_val, location=folder)
            if not _move_whole(scratch / name, folder) and find_damage(folder, n_train=n_train, n_val=n_val):
                _repair(scratch / name, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / YAML_NAME


def write_demo_data(out: Path, *, n_train: int, n_val: int, location: Path | None = None) -> Path:
    """Writes a demo set of any size into ``out`` and returns the path of its data YAML.

    Args:
        out: Folder to write to; made where absent.
        n_train: Number of training images, at least 1.
        n_val: Number of validation images, at least 1.
        location: Folder that the YAML names, where the set will be moved after writing; None for ``out``.

    Raises:
        ValueError: A number of images is below 1.
    """
    if min(n_train, n_val) < 1:
        raise InvalidValueError(f"n_train={n_train}, n_val={n_val}: a demo set needs at least 1 image in each split.")
    for split, count in (("train", n_train), ("val", n_val)):
        _write_split(out, split, count)
    (out / YAML_NAME).write_text(_yaml_text((location or out).absolute()), encoding="utf-8")
    hashes = {name: _sha256(out / name) for name in _expected_files(n_train, n_val)}
    manifest = {"generator_version": GENERATOR_VERSION, "sha256": hashes}
    (out / MANIFEST_NAME).write_text(json.dumps(manifest, indent=0), encoding="utf-8")
    return out / YAML_NAME


def find_damage(folder: Path, *, n_train: int, n_val: int) -> list[str]:
    """Returns the damaged files of the set in ``folder``, relative paths in order; empty if it is whole.

    Damaged are files that are missing or changed, images and label files that do not belong to the set, and a YAML that
    names another folder (the set was moved).
    """
    expected = _expected_files(n_train, n_val)
    hashes = _read_manifest(folder)
    if sorted(hashes) != sorted(expected):
        return [MANIFEST_NAME]
    damaged = [name for name in expected if _sha256(folder / name) != hashes[name]]
    if not damaged and (folder / YAML_NAME).read_text(encoding="utf-8") != _yaml_text(folder):
        damaged = [YAML_NAME]
    return damaged + [name for name in _unlisted(folder, expected) if Path(name).suffix.lower() in _DATA_SUFFIXES]


def label_text(labels: list[Label]) -> str:
    """Returns YOLO's label file: one line ``class x y w h`` per object, shares of the image with six decimals."""
    return "".join(f"{label.class_id} {label.x:.6f} {label.y:.6f} {label.w:.6f} {label.h:.6f}\n" for label in labels)


def _stem(split: str, index: int) -> str:
    return f"{split}/{split}-{index:04d}"


def _expected_files(n_train: int, n_val: int) -> list[str]:
    """Returns the relative paths of all files of a set but the manifest."""
    stems = [_stem(split, i) for split, n in (("train", n_train), ("val", n_val)) for i in range(n)]
    return [YAML_NAME, *(f"images/{stem}.png" for stem in stems), *(f"labels/{stem}.txt" for stem in stems)]


def _write_split(out: Path, split: str, count: int) -> None:
    """Writes ``count`` images and label files of one split."""
    for kind in ("images", "labels"):
        (out / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, labels = draw_image(split, index)
        (out / "labels" / f"{_stem(split, index)}.txt").write_text(label_text(labels), encoding="utf-8")
        (out / "images" / f"{_stem(split, index)}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _yaml_text(location: Path) -> str:
    """Returns Ultralytics' data YAML for a set in the folder ``location`` (a JSON string is a YAML string)."""
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASS_NAMES))
    path = json.dumps(str(location), ensure_ascii=False)
    return f"path: {path}\ntrain: images/train\nval: images/val\nnames:\n{names}"


def _sha256(path: Path) -> str | None:
    """Returns the hash of a file in hexadecimal; None if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _read_manifest(folder: Path) -> dict[str, str]:
    """Returns the hashes by relative path; empty if the manifest is absent, unreadable or of another version."""
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        return dict(manifest["sha256"]) if manifest["generator_version"] == GENERATOR_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _unlisted(folder: Path, expected: list[str]) -> list[str]:
    """Returns the files under images/ and labels/ that are not ``expected`` (such as Ultralytics' caches)."""
    found = [path for kind in ("images", "labels") for path in (folder / kind).rglob("*") if path.is_file()]
    return sorted({path.relative_to(folder).as_posix() for path in found} - set(expected))


def _move_whole(built: Path, folder: Path) -> bool:
    """Renames ``built`` to ``folder``; returns False if that exists already."""
    try:
        built.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return False
    return True


def _repair(built: Path, folder: Path) -> None:
    """Replaces each file of the set in ``folder`` by the one in ``built``, then removes other files."""
    names = list(_read_manifest(built))
    for name in [*names, MANIFEST_NAME]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(built / name, folder / name)
    for name in _unlisted(folder, names):
        (folder / name).unlink(missing_ok=True)
