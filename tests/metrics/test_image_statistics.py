"""Per-image files: they come back as they were, and what is not one of them is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.errors import AnalysisError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.image_statistics import from_detections, path_of
from tests.metrics.synthetic_detections import simulated, unpacked


def test_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "fog-3.npz"
    before = simulated(np.random.default_rng(0))
    image_statistics.write(path, before)
    after = image_statistics.read(path)
    for name in ("confidence", "category", "image", "hits", "targets", "names"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
        assert getattr(before, name).dtype == getattr(after, name).dtype
    assert [file.name for file in path.parent.iterdir()] == ["fog-3.npz"]


def test_a_set_without_detections_and_without_images(tmp_path: Path) -> None:
    for n_images in (0, 3):
        empty = from_detections(
            [], [], [], np.zeros((0, 10)), np.zeros((n_images, 2)), [str(i) for i in range(n_images)]
        )
        image_statistics.write(tmp_path / "a.npz", empty)
        assert len(image_statistics.read(tmp_path / "a.npz").names) == n_images


def test_detections_are_sorted_and_their_hits_packed() -> None:
    correct = np.arange(10) < np.array([[3], [10], [0]])
    found = from_detections([0.2, 0.9, 0.5], [1, 0, 1], [0, 1, 1], correct, [[0, 1], [1, 1]], ["a", "b"])
    assert found.confidence.tolist() == pytest.approx([0.9, 0.5, 0.2])
    assert (found.category.tolist(), found.image.tolist()) == ([0, 1, 1], [1, 1, 0])
    assert found.hits.tolist() == [0b1111111111, 0, 0b111]
    assert np.array_equal(unpacked(found), correct[[1, 2, 0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": [0, 2]}, "image holds 0..2. Give 0..1"),
        ({"category": [0, 5]}, "category holds 0..5"),
        ({"category": [-1, 0]}, "category holds -1..0"),
        ({"names": ["a"]}, "for 1 images"),
        ({"confidence": [0.5, float("nan")]}, "nan"),
        ({"targets": [[1, -1], [0, 0]]}, "targets holds -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, object], words: str) -> None:
    given = {
        "confidence": [0.5, 0.4], "category": [0, 1], "image": [0, 1], "correct": np.zeros((2, 10)),
        "targets": [[1, 0], [0, 1]], "names": ["a", "b"],
    }  # fmt: skip
    with pytest.raises(AnalysisError, match=words):
        from_detections(**{**given, **change})  # type: ignore[arg-type]


def test_other_files_are_refused_by_name_and_nothing_in_them_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "fog-3.npz"
    image_statistics.write(path, simulated(np.random.default_rng(0)))
    whole = path.read_bytes()
    for data in (b"", b"text", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(
            AnalysisError, match=r"fog-3.npz holds no per-image statistics: .* measure that condition again"
        ):
            image_statistics.read(path)
    np.savez(path, confidence=np.array([print], dtype=object))
    with pytest.raises(AnalysisError, match="allow_pickle=False"):
        image_statistics.read(path)
    np.savez(path, confidence=np.zeros(3))
    with pytest.raises(AnalysisError, match="'confidence' is float64"):
        image_statistics.read(path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(AnalysisError, match="no per-image statistics"):
        image_statistics.read(path.with_suffix(".npy"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fog-3.npz"
    image_statistics.write(path, simulated(np.random.default_rng(0)))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        image_statistics.write(path, simulated(np.random.default_rng(1)))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_where_files_lie() -> None:
    assert path_of(Path("per_image"), "run", "fog", 3) == Path("per_image/run/fog-3.npz")
    assert path_of(Path("per_image"), "run", "clean", 0) == Path("per_image/run/clean-0.npz")
    for corruption, severity in (("fog", 6), ("fog", 0), ("clean", 1)):
        with pytest.raises(AnalysisError, match=f"severity={severity}"):
            path_of(Path("per_image"), "run", corruption, severity)
    for run_id in ("../../etc", "a/b", "..", ""):
        with pytest.raises(AnalysisError, match="run_id"):
            path_of(Path("per_image"), run_id, "fog", 3)
