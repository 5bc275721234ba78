"""Pixel by pixel against imagecorruptions-imaug fed with the same draws; skipped where it is not installed.

`pip install -e '.[oracle]'`; without torch: `pytest --noconftest tests/corrupt/test_oracle.py`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from qreg_yolo.corrupt.apply import CORRUPTIONS
from qreg_yolo.corrupt.frost import FrostOverlays, _read
from qreg_yolo.corrupt.presets import constants
from qreg_yolo.corrupt.spec import NAMES, SEVERITIES
from tests.corrupt.golden import psnr
from tests.corrupt.peer_draws import PeerDraws
from tests.corrupt.published import SIZE, published
from tests.corrupt.synthetic_images import IMAGES, texture

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
@pytest.mark.parametrize("title", IMAGES)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in OWN_GENERATOR])
def test_same_draws_give_the_same_pixels(name, title, severity):
    image = IMAGES[title](*((150, 207) if title == "texture" else ()))
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


SAME_ALGORITHM = (
    "gaussian_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "fog",
    "brightness",
    "contrast",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
)
"""The peer's frost, elastic and pixelate differ in more than constants from the sets for 32, 64 and 299 px."""


def _with_constants(name, c):
    """Returns the peer's function with its table of constants replaced: the assignment to ``c`` in its source."""
    functions = importlib.import_module("imagecorruptions.corruptions")
    tree = ast.parse(inspect.getsource(getattr(functions, name)))
    tables = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "c"
    ]  # fmt: skip
    assert len(tables) == 1, "the peer's source has changed"
    tables[0].value = ast.Name("given_constants", ast.Load())
    namespace = {**vars(functions), "given_constants": c}
    exec(compile(ast.fix_missing_locations(tree), name, "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("preset", SIZE)
@pytest.mark.parametrize("name", SAME_ALGORITHM)
def test_the_peer_with_published_constants_of_other_sets(name, preset, severity):
    if (name, severity) == ("spatter", 3) and preset != "inception299":
        pytest.skip("noise above 1: the peer's uint8 wraps there, see docs/deviations.md")
    image = texture(SIZE[preset], SIZE[preset])
    np.random.seed(severity)  # noqa: NPY002 - the peer's generator
    function = _with_constants(name, published(preset, name)[severity - 1])
    expected = np.uint8(function(Image.fromarray(image), severity))
    np.random.seed(severity)  # noqa: NPY002
    ours = CORRUPTIONS[name](image, constants(name, severity, preset), PeerDraws())
    difference = abs(expected.astype(int) - ours)
    least, largest, share = LIMITS.get(name, (55.0, 1, 0.0))
    assert psnr(ours, expected) >= least
    assert difference.max() <= largest
    assert (difference > 1).any(axis=2).mean() <= share
