"""Our statistics against the peer's, which `golden.py` took from imagecorruptions-imaug's output."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from qreg_yolo.corrupt import DETERMINISTIC_NAMES, NAMES, SEVERITIES, corrupt
from tests.corrupt.golden import FILE, SKIPPED, statistics
from tests.corrupt.synthetic_images import IMAGES

GOLDEN = json.loads(FILE.read_text())
DRAWS = 12
SIGMAS = 5.0
SLACK = 0.25
"""Grey levels of mean, standard deviation and root mean square error: float32 and float64 floor differently where the
exact result is an integer."""


@pytest.mark.parametrize("title", IMAGES)
@pytest.mark.parametrize("name", GOLDEN["table"])
def test_statistics_are_the_peers(name, title):
    clean = IMAGES[title]()
    draws = 1 if name in DETERMINISTIC_NAMES else DRAWS
    for severity, expected in zip(SEVERITIES, GOLDEN["table"][name][title], strict=True):
        ours = statistics([corrupt(clean, name, severity, key=f"golden {i}") for i in range(draws)], clean)
        for column, slack in enumerate((SLACK, SLACK, _decibels(expected[4]))):
            deviation = max(expected[2 * column + 1], ours[2 * column + 1])
            tolerance = slack + SIGMAS * deviation * (1 / draws + 1 / GOLDEN["about"]["draws"]) ** 0.5
            difference = ours[2 * column] - expected[2 * column]
            assert abs(difference) <= tolerance, (severity, column, difference, tolerance)


def _decibels(psnr):
    """Returns what `SLACK` levels more error are in dB."""
    return 20 * np.log10(1 + SLACK / (255 * 10 ** (-psnr / 20)))


def test_the_comparison_can_fail():
    """A sigma of 0.085 in place of 0.08, or rounding in place of flooring, is seen."""
    clean = IMAGES["texture"]()
    expected = GOLDEN["table"]["gaussian_noise"]["texture"][0]
    stronger = np.random.Generator(np.random.PCG64(0)).normal(0.0, 0.085 * 255, (DRAWS, *clean.shape))
    ours = statistics([np.clip(clean + n, 0, 255).astype(np.uint8) for n in stronger], clean)
    assert abs(ours[4] - expected[4]) > _decibels(expected[4]) + SIGMAS * expected[5]
    rounded = cv2.GaussianBlur(clean, (9, 9), 1.0, borderType=cv2.BORDER_REPLICATE).mean()
    assert rounded - GOLDEN["table"]["gaussian_blur"]["texture"][0][0] > SLACK


def test_all_but_frost_are_in_the_file():
    assert [n for n in NAMES if n not in SKIPPED] == list(GOLDEN["table"])
    assert "imagecorruptions-imaug" in GOLDEN["about"]["versions"]
