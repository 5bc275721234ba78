from __future__ import annotations

import numpy as np
import pytest

from qreg_yolo.corrupt import BENCHMARK_NAMES, CORRUPTIONS, DETERMINISTIC_NAMES, NAMES, PRESETS, constants, corrupt

IMAGE = np.zeros((32, 32, 3), np.uint8)


def test_names_in_canonical_order():
    assert tuple(CORRUPTIONS) == NAMES
    assert all(tuple(sorted(p)) == tuple(sorted(NAMES)) for p in PRESETS.values())
    assert NAMES[:15] == BENCHMARK_NAMES
    assert NAMES[15:] == ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    assert len(DETERMINISTIC_NAMES) == 8
    assert set(NAMES) > DETERMINISTIC_NAMES


def test_every_preset_has_five_severities_of_everything():
    assert {len(values) for preset in PRESETS.values() for values in preset.values()} == {5}


def test_tables_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["imagenet224"]["contrast"] = ()
    with pytest.raises(AttributeError):
        constants("snow", 1).mix = 0.5


@pytest.mark.parametrize(
    ("preset", "name", "severity", "expected"),
    [
        ("imagenet224", "snow", 4, (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65)),
        ("imagenet224", "motion_blur", 5, (20, 15)),
        ("imagenet224", "spatter", 5, (0.67, 0.4, 1, 0.65, 1.5, True)),
        ("cifar32", "fog", 5, (1.5, 1.75, 32)),
        ("cifar32", "frost", 4, (0.85, 0.4, 0.2, None)),
        ("tiny64", "saturate", 5, (30, 0.2)),
        ("tiny64", "snow", 5, (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6)),
        ("inception299", "elastic_transform", 1, (720, (252, 252), 1.0, 36, False)),
        ("inception299", "glass_blur", 3, (1.1, 2, 4)),
    ],
)
def test_constants_by_hand(preset, name, severity, expected):
    assert constants(name, severity, preset) == expected


@pytest.mark.parametrize(
    ("preset", "counts", "last"),
    [
        ("imagenet224", [12, 16, 11, 13, 11], [1.11, 1.15, 1.2, 1.24, 1.3]),
        ("cifar32", [7, 12, 16, 21, 26], [1.06, 1.11, 1.15, 1.2, 1.25]),
    ],
)
def test_zoom_factors_include_both_ends(preset, counts, last):
    factors = PRESETS[preset]["zoom_blur"]
    assert [len(f) for f in factors] == counts
    assert [f[0] for f in factors] == [1.0] * 5
    assert [f[-1] for f in factors] == pytest.approx(last, rel=1e-12)


def test_zoom_factors_carry_the_rounding_of_arange():
    assert PRESETS["imagenet224"]["zoom_blur"][4] == tuple(np.arange(1, 1.31, 0.03))


def test_an_unknown_corruption_names_the_nearest():
    with pytest.raises(ValueError, match=r"'glas_blur'\. Did you mean 'glass_blur'\?"):
        corrupt(IMAGE, "glas_blur", 1)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, True, "3"])
def test_a_wrong_severity_is_named_with_the_remedy(severity):
    with pytest.raises(ValueError, match=rf"Severity is {severity!r}: use an integer from 1"):
        corrupt(IMAGE, "fog", severity)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"'imagenet'\. Did you mean 'imagenet224'\?"):
        corrupt(IMAGE, "fog", 1, preset="imagenet")
