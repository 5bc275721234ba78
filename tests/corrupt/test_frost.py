from __future__ import annotations

import importlib.metadata

import cv2
import numpy as np
import pytest

from qreg_yolo.corrupt import FrostOverlays, corrupt, frost
from tests.corrupt.synthetic_images import blocks, texture


@pytest.fixture(autouse=True)
def _fresh_cache():
    frost.load_overlays.cache_clear()
    yield
    frost.load_overlays.cache_clear()


def _write(folder, name, rgb):
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath(name).write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def test_a_folder_comes_first_in_rgb_and_sorted(tmp_path):
    _write(tmp_path / "eis ü", "b.png", texture())
    _write(tmp_path / "eis ü", "a.PNG", blocks())
    (tmp_path / "eis ü" / "notes.txt").write_text("no image")
    overlays = frost.load_overlays(tmp_path / "eis ü")
    assert overlays.source == "folder eis ü"
    assert np.array_equal(overlays.images[0], blocks())
    assert np.array_equal(overlays.images[1], texture())
    assert np.array_equal(
        corrupt(blocks(), "frost", 1, frost=tmp_path / "eis ü"), corrupt(blocks(), "frost", 1, frost=overlays)
    )


def test_an_installed_distribution_is_found_without_importing_it(tmp_path, monkeypatch):
    for i in range(1, 7):
        _write(tmp_path / "imagecorruptions" / "frost", f"frost{i}.png", np.full((40, 50, 3), 30 * i, np.uint8))
    (tmp_path / "imagecorruptions" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    info = tmp_path / "imagecorruptions-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagecorruptions\nVersion: 9.9\n")
    files = [f"imagecorruptions/frost/frost{i}.png,," for i in range(6, 0, -1)]
    (info / "RECORD").write_text("\n".join([*files, "imagecorruptions/__init__.py,,"]) + "\n")
    monkeypatch.setattr(importlib.metadata.MetadataPathFinder, "find_distributions", _only(tmp_path))
    overlays = frost.load_overlays()
    assert overlays.source == "imagecorruptions 9.9"
    assert [int(image[0, 0, 0]) for image in overlays.images] == [30, 60, 90, 120, 150]  # five of six, as the original


def _only(folder):
    find = importlib.metadata.MetadataPathFinder.find_distributions

    def find_distributions(context):
        return find(importlib.metadata.DistributionFinder.Context(name=context.name, path=[str(folder)]))

    return find_distributions


def test_without_either_overlays_are_drawn_like_the_originals_palettes(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata.MetadataPathFinder, "find_distributions", _only(tmp_path))
    overlays = frost.load_overlays()
    assert overlays.source == "procedural 1"
    assert len(overlays.images) == 5
    for image, (mean, deviation) in zip(overlays.images, frost._PALETTES, strict=True):
        assert image.reshape(-1, 3).mean(0) == pytest.approx(mean, abs=4)
        assert image[..., 1].std() == pytest.approx(deviation, rel=0.15)
    assert not np.array_equal(overlays.images[1], overlays.images[2])


@pytest.mark.parametrize("size", [(32, 32), (900, 700), (90, 1400)])
def test_an_overlay_is_larger_than_the_image(size):
    overlays = FrostOverlays((blocks(),), "test")
    for scale in (None, 0.2, 20.0):
        rows, columns = overlays.fitted(0, *size, scale).shape[:2]
        assert rows > size[0]
        assert columns > size[1]


def test_a_missing_or_empty_folder_and_a_broken_picture_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: give a folder"):
        frost.load_overlays(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="No frost overlay in folder"):
        frost.load_overlays(tmp_path)
    for content in (b"", b"no image"):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.png cannot be decoded: remove it"):
            frost.load_overlays(tmp_path)
