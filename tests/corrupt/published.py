"""The four published sets of constants, as listed in ``published_constants.json``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TABLE = json.loads((Path(__file__).parent / "published_constants.json").read_text(encoding="utf-8"))
SIZE = {"cifar32": 32, "tiny64": 64, "inception299": 299}
"""Px of the square images that a set was made for; imagenet224 is compared with its peer in test_oracle.py."""
FROST_SCALE = {"cifar32": 0.2, "tiny64": 0.3, "inception299": None}
"""Of the overlays; the table lists that of cifar32 alone."""


def published(preset, name):
    """Returns five entries, severity 1..5, as the table lists them."""
    entry = TABLE[preset][name]
    if isinstance(entry, str):  # "as cifar32"
        return published(entry.split()[-1], name)
    if name == "zoom_blur":  # the originals' factors, not their decimals: 26 px times 1.25 is 32 or 33 by the last bit
        return [np.arange(1, factors[-1] + 0.005, round(factors[1] - 1, 2)) for factors in entry["factors"]]
    if isinstance(entry, dict):
        key = "ic alpha" if (preset, name) == ("imagenet224", "elastic_transform") else next(iter(entry))
        return entry[key]
    return entry


def plain(value, name):
    """Returns the package's constants of one severity in the form of the table."""
    if name == "elastic_transform":
        return value.alpha if value.relative else [value.alpha, value.sigma[0], value.affine]
    if name == "pixelate":
        return value.scale
    if name in ("frost", "fog"):
        return list(value[:2])
    return [float(one) for one in value] if isinstance(value, tuple) else value
