"""The fit of anchors to a dataset, and better anchors where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qreg_yolo.detect import QuantYOLO
from qreg_yolo.detect.anchor_head import ANCHORS
from qreg_yolo.detect.auto_anchor import fit_of, fitted_anchors, object_sizes, update_anchors
from tests import TINY
from tests.detect.conftest import SETTINGS, ultralytics_warnings
from tests.detect.factories import build


def test_sizes_are_those_at_the_training_size() -> None:
    labels = [
        {"shape": (100, 200), "bboxes": np.array([[0.5, 0.5, 0.1, 0.2], [0.2, 0.2, 1.0, 0.5]])},
        {"shape": (50, 50), "bboxes": np.zeros((0, 4))},
        {"shape": (640, 320), "bboxes": np.array([[0.5, 0.5, 0.5, 0.5]])},
    ]
    assert object_sizes(labels, 320) == pytest.approx(np.array([[32, 32], [320, 80], [80, 160]]))
    assert object_sizes([], 320).shape == (0, 2)


def test_sizes_of_rectangular_batches_come_from_the_files(tmp_path: Path) -> None:
    """There Ultralytics has dropped the shape; a picture on its side is turned upright."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (100, 200)).save(tmp_path / "side.jpg", exif=exif)
    Image.new("RGB", (200, 100)).save(tmp_path / "upright.png")
    boxes = np.array([[0.5, 0.5, 0.1, 0.2]])
    labels = [{"im_file": str(tmp_path / name), "bboxes": boxes} for name in ("side.jpg", "upright.png")]
    assert object_sizes(labels, 320) == pytest.approx(np.array([[32, 32], [32, 32]]))


def test_best_possible_recall_by_hand() -> None:
    """Factors to the anchors 10x10 and 40x20: (1, 4), (3, 4/3), (4, 4), (100, 40 / 1)."""
    sizes = np.array([[10.0, 10], [30, 20], [40, 5], [0.1, 0.5]])
    anchors = np.array([[10.0, 10], [40, 20]])
    fit = fit_of(sizes, anchors, 4.0)
    assert fit.recall == 2 / 4
    assert fit.per_object == 3 / 4
    assert fit.fitness == pytest.approx((1 + 3 / 4) / 4)
    assert fit_of(sizes, anchors, 4.01).recall == 3 / 4


def test_fitted_anchors_find_the_clusters() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[8, 8], [20, 9], [9, 22], [40, 40], [90, 30], [30, 90], [120, 120], [250, 120], [140, 280]], float)
    sizes = np.repeat(true, 40, 0) * rng.uniform(0.93, 1.07, (360, 2))
    anchors = fitted_anchors(sizes, 4.0)
    assert np.all(np.diff(anchors.prod(1)) >= 0)
    assert fit_of(sizes, anchors, 4.0).fitness > 0.93
    assert fit_of(sizes, np.array(ANCHORS, float).reshape(-1, 2), 4.0).fitness < 0.8
    assert np.array_equal(fitted_anchors(sizes, 4.0), anchors), "not the same in every process"


def test_too_few_objects_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"8 objects.*--autoanchor"):
        fitted_anchors(np.arange(16.0).reshape(8, 2) + 3, 4.0)


def _labels(size: tuple[float, float]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sides = np.array(size) / 640 * rng.uniform(0.5, 2, (50, 2))
    return [{"shape": (640, 640), "bboxes": np.concatenate((np.full((50, 2), 0.5), sides), 1)}]


@pytest.mark.parametrize(
    ("asked", "resumed", "size", "said", "changed"),
    [
        (False, False, (60, 60), "recall 1.0000", False),
        (False, False, (400, 6), "--autoanchor", False),
        (True, False, (400, 6), "fitted", True),
        (True, True, (400, 6), "recall", False),
    ],
)
def test_anchors_are_reported_and_changed_only_if_asked(
    asked: bool, resumed: bool, size: tuple[float, float], said: str, changed: bool
) -> None:
    model = build(bits=32, head={"kind": "anchor", "autoanchor": asked})
    with ultralytics_warnings() as lines:
        update_anchors(model, _labels(size), 640, resumed)
    assert len(lines) == 1
    assert lines[0].startswith("Anchors: best possible recall")
    assert said in lines[0]
    anchors = model.model[-1].anchor_wh
    assert (anchors.tolist() == np.array(ANCHORS).tolist()) is not changed
    areas = anchors.prod(2).flatten()
    assert bool((areas.diff() >= 0).all()), "small anchors belong to the fine level"


def test_other_heads_have_no_anchors() -> None:
    model = build(bits=32)
    with ultralytics_warnings() as lines:
        update_anchors(model, _labels((60, 60)), 640, False)
    assert lines == []


def test_a_run_trains_saves_and_validates_with_fitted_anchors(tiny_data: Path, tmp_path: Path) -> None:
    model = QuantYOLO(TINY)
    seen: list[Any] = []
    model.add_callback(
        "on_train_start", lambda t: seen.extend((t.model.model[-1].anchor_wh, t.ema.ema.model[-1].anchor_wh))
    )
    model.train(
        data=str(tiny_data), qreg={"bits": 4, "head": {"kind": "anchor", "autoanchor": True}}, epochs=1,
        project=str(tmp_path), name="run", **SETTINGS,
    )  # fmt: skip
    live, averaged = seen
    assert live.tolist() == averaged.tolist()
    assert live.tolist() != np.array(ANCHORS).tolist()
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / "run" / "weights" / f"best{suffix}"
        if path.exists():
            assert QuantYOLO(str(path)).model.model[-1].anchor_wh.tolist() == live.tolist()
