"""The built wheel, used from an empty folder without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_its_resources_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    resources = [path for folder in ("hyp", "data") for path in (ROOT / folder).rglob("*.yaml")]
    expected = {f"qreg_yolo/_resources/{path.relative_to(ROOT)}" for path in resources}
    expected |= {str(p.relative_to(ROOT)) for p in (ROOT / "qreg_yolo").rglob("*.py")} | {"qreg_yolo/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"hyp/voc_scratch.yaml", "data/voc.yaml"} <= {name.removeprefix("qreg_yolo/_resources/") for name in names}


def test_the_wheels_metadata(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
        entry_points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert (metadata["Name"], metadata["Version"]) == ("qreg-yolo", "0.1.0")
    assert metadata["License-Expression"] == "AGPL-3.0-only"
    assert "qreg-yolo = qreg_yolo.cli:main" in entry_points


def test_an_installed_wheel_finds_its_recipes_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        "import qreg_yolo, qreg_yolo.config.detection as c, qreg_yolo.config.classification as k;"
        "import qreg_yolo.io.resources as r;"
        "print(qreg_yolo.__file__);"
        "[(k if n.startswith('cifar') else c).load(r.recipe_path(n)) for n in r.recipe_names()];"
        "print(r.recipe_path('voc_scratch')); print(r.data_path('voc'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        str(installed / "qreg_yolo" / "__init__.py"),
        str(installed / "qreg_yolo" / "_resources" / "hyp" / "voc_scratch.yaml"),
        str(installed / "qreg_yolo" / "_resources" / "data" / "voc.yaml"),
    ]


def test_an_installed_wheel_trains_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command,
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
        return result

    run(*pip, str(wheel))
    make_data = "write_demo_data(Path('data'), n_train=8, n_val=4)"
    run(sys.executable, "-c", f"from pathlib import Path; from qreg_yolo.datasets.demo.write import *; {make_data}")
    tiny = ["epochs=1", "imgsz=32", "batch=4", "nbs=4"]
    options = ["--bits", "4", "--hyp", "demo", "--data", "data/demo.yaml", "--threads", "1"]
    result = run(sys.executable, "-m", "qreg_yolo", "train", *options, *tiny)
    folder = empty / "runs" / "yolov5n-lsq-w4a4-s0"
    assert f"Results: {folder}" in result.stdout
    assert {path.name for path in (folder / "weights").iterdir()} == {"best.pt", "best.safetensors", "last.pt"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["commit"] == "v0.1.0", "a checkout's commit: not the installed package"
    assert sorted(path.name for path in empty.iterdir()) == ["data", "runs"]
