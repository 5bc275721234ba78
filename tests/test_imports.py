"""Modules that an import must not load, each seen in a fresh interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

HEAVY = ("torch", "ultralytics", "numpy", "polars", "matplotlib", "cv2", "scipy", "skimage", "numba", "albumentations")


def heavy_modules_loaded_by(statement: str, root: Path = ROOT) -> list[str]:
    """Returns which of `HEAVY` a statement loads, with the packages of ``root`` first on the path."""
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import qreg_yolo; qreg_yolo.__version__; dir(qreg_yolo)",
        "import qreg_yolo.config.detection as c; c.resolve(None, {'bits': 4}, {'epochs': 1})",
        "import qreg_yolo.io.records as r; r.provenance()",
        "import qreg_yolo.io.files, qreg_yolo.io.resources, qreg_yolo.quant.spec",
        "import qreg_yolo.classify as c; dir(c)",
        "import qreg_yolo.config.classification as c; c.resolve(None, {'bits': 4, 'epochs': 8}, {})",
        "import qreg_yolo.corrupt as c; dir(c); c.NAMES; c.constants('fog', 3)",
        "import qreg_yolo.datasets.voc.convert, qreg_yolo.datasets.voc.download",
        "from qreg_yolo.cli.process import prepare_ultralytics; prepare_ultralytics(online=False, checkpoints=False); "
        "import qreg_yolo.datasets.voc.convert",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert heavy_modules_loaded_by(statement) == []


def test_the_corruptions_load_nothing_but_numpy_and_opencv() -> None:
    loaded = heavy_modules_loaded_by("from qreg_yolo.corrupt import corrupt")
    assert sorted(loaded) == ["cv2", "numpy"]


def test_processes_that_corrupt_cifar_load_no_torch() -> None:
    loaded = heavy_modules_loaded_by("import qreg_yolo.datasets.corrupted.cifar")
    assert sorted(loaded) == ["cv2", "numpy"]


def test_classification_needs_neither_the_host_nor_opencv() -> None:
    loaded = heavy_modules_loaded_by("import qreg_yolo.classify.runs")
    assert sorted(loaded) == ["numpy", "torch"]


def test_the_analysis_needs_neither_torch_nor_the_host_nor_pyplot() -> None:
    loaded = heavy_modules_loaded_by(
        "import sys, qreg_yolo.analysis.report; assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert loaded == ["numpy", "matplotlib"]


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "qreg_yolo").mkdir()
    shutil.copy(ROOT / "qreg_yolo" / "__init__.py", tmp_path / "qreg_yolo")
    shutil.copy(ROOT / "qreg_yolo" / "lazy.py", tmp_path / "qreg_yolo")
    (tmp_path / "torch.py").touch()  # stands in for the real one, which takes seconds
    assert heavy_modules_loaded_by("import qreg_yolo", tmp_path) == []
    with (tmp_path / "qreg_yolo" / "__init__.py").open("a") as file:
        file.write("\nimport torch\n")
    assert heavy_modules_loaded_by("import qreg_yolo", tmp_path) == ["torch"]


def test_public_names_are_all_listed_and_a_wrong_one_is_an_attribute_error() -> None:
    import qreg_yolo

    assert set(qreg_yolo.__all__) - {"__version__"} == set(qreg_yolo._HOME)
    assert set(qreg_yolo.__all__) <= set(dir(qreg_yolo))
    with pytest.raises(AttributeError, match="Quantyolo"):
        _ = qreg_yolo.Quantyolo


@pytest.mark.parametrize("name", ["QuantSpec", "calibrate", "dequantize_model", "quantize_model", "QuantYOLO"])
def test_public_names_resolve_to_the_object_of_their_package(name: str) -> None:
    import importlib

    import qreg_yolo

    assert getattr(qreg_yolo, name) is getattr(importlib.import_module(qreg_yolo._HOME[name]), name)
