"""Tiny files in the official CIFAR formats."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.datasets import cifar

PER_FILE = {"cifar10": 16, "cifar100": 80}


def write_cifar(folder: Path, name: str = "cifar10", n_test: int = 24) -> Path:
    """Writes a set with a few images per file, keys and protocol as in the official one; returns ``folder``."""
    files = cifar.OFFICIAL[name]
    root = folder / files.folder
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in (files.train, files.test):
        for file in split:
            n = n_test if split is files.test else PER_FILE[name]
            labels = rng.integers(0, files.classes, n)
            levels = (labels * 255 // files.classes)[:, None] + rng.integers(-40, 40, (n, 3 * 32 * 32))
            images = np.clip(levels, 0, 255).astype(np.uint8)  # brightness tells the class
            content = {b"data": images, files.label_key.encode(): [int(label) for label in labels]}
            dump(root / file, {**content, b"filenames": [f"{file}_s_{i:06}.png".encode() for i in range(n)]})
    names = [f"class {label}".encode() for label in range(files.classes)]
    dump(root / files.meta[0], {files.names_key.encode(): names})
    return folder


def dump(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def make_official(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Lets the files in ``folder`` count as the official ones."""
    files = cifar.OFFICIAL[name]
    root = folder / files.folder

    def sums(names: Mapping[str, str]) -> dict[str, str]:
        return {file: hashlib.md5((root / file).read_bytes()).hexdigest() for file in names}

    meta = (files.meta[0], sums({files.meta[0]: ""})[files.meta[0]])
    new = replace(files, train=sums(files.train), test=sums(files.test), meta=meta)
    monkeypatch.setitem(cifar.OFFICIAL, name, new)
