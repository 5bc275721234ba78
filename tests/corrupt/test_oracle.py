"""Pixel by pixel against imagecorruptions-imaug fed with the same draws; skipped where it is not installed.

`pip install -e '.[oracle]'`; without torch: `pytest --noconftest tests/corrupt/test_oracle.py`.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from qreg_yolo.corrupt.apply import CORRUPTIONS
from qreg_yolo.corrupt.frost import FrostOverlays, _read
from qreg_yolo.corrupt.presets import constants
from qreg_yolo.corrupt.spec import NAMES, SEVERITIES
from tests.corrupt.golden import psnr
from tests.corrupt.peer_draws import PeerDraws
from tests.corrupt.pictures import PICTURES

peer = pytest.importorskip("imagecorruptions")
pytestmark = pytest.mark.filterwarnings("default")  # the peer's own

OWN_GENERATOR = ("shot_noise", "impulse_noise", "glass_blur")
"""The peer's draws cannot be replayed, or are tables here: see test_golden.py."""
OPENCV_4 = int(cv2.__version__.split(".")[0]) < 5
LIMITS = {
    "zoom_blur": (54.0, 4, 1.0),
    "elastic_transform": (54.0, 4 if OPENCV_4 else 1, 1.0),
    "spatter": (65.0, 15, 1e-3),
}
"""PSNR at least, largest difference, share of pixels off by more than 1 at most; OpenCV 4 remaps to 1/32 px."""


def _peer_overlays():
    folder = Path(peer.__file__).parent / "frost"
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))
    return FrostOverlays(tuple(_read(p) for p in paths), "peer")


HARD_EDGES = {"zoom_blur": (53.0, 4, 1.0)} | ({"elastic_transform": (54.0, 6, 1.0)} if OPENCV_4 else {})
"""The same for steps from 0 to 255 at one pixel, sharper than in a photograph: samples lie hundredths of a px apart."""


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("title", PICTURES)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in OWN_GENERATOR])
def test_same_draws_give_the_same_pixels(name, title, severity):
    image = PICTURES[title](*((150, 207) if title == "texture" else ()))
    values = constants(name, severity)
    if name == "frost":
        values = values._replace(overlays=_peer_overlays())
    np.random.seed(severity)  # noqa: NPY002 - the peer's generator
    expected = peer.corrupt(image, severity, name)
    np.random.seed(severity)  # noqa: NPY002
    ours = CORRUPTIONS[name](image, values, PeerDraws())
    difference = expected.astype(int) - ours
    limits = LIMITS | (HARD_EDGES if title == "blocks" else {})
    least, largest, share = limits.get(name, (55.0, 1, 0.0))
    assert psnr(ours, expected) >= least
    assert abs(difference).max() <= largest
    assert (abs(difference) > 1).any(axis=2).mean() <= share
