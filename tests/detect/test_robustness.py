"""Many models on corrupted images in one pass: Ultralytics' own numbers, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.datasets.corrupted.request import Request
from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.sources import read_source
from qreg_yolo.detect import QuantYOLO
from qreg_yolo.detect.batch_validator import BOXED, BatchValidator, coco_map
from qreg_yolo.detect.data_check import check_data
from qreg_yolo.detect.robustness import measure
from qreg_yolo.errors import AnalysisError
from qreg_yolo.io import records
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.average_precision import mean_average_precision
from tests.detect.conftest import Trained, train_tiny
from tests.detect.robustness_helpers import BATCH, CONDITIONS, listing, request
from tests.process_helpers import run_forked
from tests.results_helpers import files_of, numbers


@pytest.fixture
def data(several_shapes: Path) -> Path:
    return several_shapes


@pytest.fixture(scope="module")
def fp32(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the weights of a full-precision run of another image size; its confidences do not tie."""
    run = train_tiny(tiny_data, tmp_path_factory.mktemp("fp32"), {"bits": 32}, epochs=16, every=4, imgsz=96)
    return run.best.rename(run.best.with_name("fp32.pt"))


def written_sets(data: Path, out: Path) -> dict[str, Path]:
    """Writes the corrupted sets as ``qreg-yolo corrupt`` does, and returns their data YAMLs by corruption."""
    names = tuple(name for name, _ in CONDITIONS)
    write_sets(read_source(data, "val"), Request(out=out, corruptions=names, severities=(1,)))
    return {name: out / name / "1" / "data.yaml" for name in names}


def test_the_numbers_are_those_of_val_on_sets_on_disk(trained: Trained, fp32: Path, data: Path, tmp_path: Path) -> None:
    before, out = listing(data), tmp_path / "out"
    measure(request([fp32, trained.best], data, out))
    assert listing(data) == before, "something was written into the data folder"
    found = numbers(out)
    seen, sets = [], written_sets(data, tmp_path / "sets")
    for weights, size, tolerance in ((fp32, 96, 1e-6), (trained.best, 64, 5e-4)):
        (run_id,) = {key[0] for key in found if weights.stem in key[0]}
        for name, severity in ((None, None), *CONDITIONS):
            yaml = data if name is None else sets[name]
            box = (
                QuantYOLO(str(weights))
                .val(data=str(yaml), batch=BATCH, plots=False, project=str(tmp_path), name="val", imgsz=size)
                .box
            )
            theirs = {"map50_95": box.map, "map50": box.map50, "precision": box.mp, "recall": box.mr}
            for metric, value in theirs.items():
                assert found[run_id, name, severity, metric] == pytest.approx(float(value), abs=tolerance), metric
            seen.append(float(box.map))
            condition = ("clean", 0) if name is None else (name, severity)
            statistics = image_statistics.read(image_statistics.path_of(out / "per_image", run_id, *condition))
            own = float(mean_average_precision(statistics)[0])
            assert found[run_id, name, severity, "map50_95"] == pytest.approx(own, abs=1e-9)
    assert min(seen) > 0.005, "the models detect nothing, so agreement proves nothing"
    assert len(set(seen)) == len(seen)


def test_tables_and_figures_take_the_records(trained: Trained, fp32: Path, data: Path, tmp_path: Path) -> None:
    measure(request([fp32, trained.best], data, tmp_path / "out"))
    asked = report.Request(records=tmp_path / "out" / "records.csv")
    with pytest.raises(AnalysisError, match=r"imgsz=64 and imgsz=96.*--baseline"):
        report.table(asked, "cells")
    (baseline,) = records.read(asked.records).filter(method="fp32")["run_id"].unique()
    asked = replace(asked, baselines=[baseline])
    text = report.table(asked, "cells")
    assert "imgsz=64 and imgsz=96. The difference is not quantization's alone" in text
    assert "lsq 4" in text
    assert "[" in text.splitlines()[3], "no interval"
    report.heatmap(asked, tmp_path / "heatmap.png")
    assert (tmp_path / "heatmap.png").stat().st_size > 1000


def test_workers_sizes_and_additions_change_no_number(
    trained: Trained, fp32: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(request([fp32, trained.best], data, tmp_path / "all", workers=2))
    passes = []
    original = BatchValidator.detections
    monkeypatch.setattr(BatchValidator, "detections", lambda *a: passes.append(1) or original(*a))
    parts: list[tuple[list[Path], tuple[str, ...], int]] = [
        ([trained.best], ("brightness",), 2 * 3),
        ([fp32, trained.best], ("gaussian_noise", "brightness"), 1 * 3 + 3 * 3),
        ([fp32, trained.best], ("gaussian_noise", "brightness"), 0),
    ]  # fmt: skip
    for weights, corruptions, expected in parts:
        passes.clear()
        measure(request(weights, data, tmp_path / "parts", corruptions=corruptions))
        assert len(passes) == expected
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "all")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "all")


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
KILLER = """
import os, signal, sys
from pathlib import Path
from typing import Any
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
from qreg_yolo.detect.batch_validator import BatchValidator
from qreg_yolo.robustness import journal
from qreg_yolo.cli import main
journal.FLUSH_SECONDS = 0.0
original, left = BatchValidator.detections, [int(sys.argv[1])]
def detections(*arguments):
    print("pass", flush=True)
    if left[0] == 0:
        exec(sys.argv[2])
    left[0] -= 1
    return original(*arguments)
BatchValidator.detections = detections
main(sys.argv[3:])
"""


def stopped(after: int, how: str, weights: list[Path], data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    options = ["--data", data, "--split", "val", "--corruptions", "gaussian_noise,brightness", "--severities", "1"]
    more = ["--batch", BATCH, "--threads", 1, "--workers", 0, "--out", out]
    return run_forked(KILLER, after, how, "robustness", *weights, *options, *more)


def test_a_killed_run_goes_on_where_it_was(trained: Trained, fp32: Path, data: Path, tmp_path: Path) -> None:
    weights, out, total = [fp32, trained.best], tmp_path / "killed", 2 * 3 * 3
    first = stopped(5, KILL, weights, data, out)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert not (out / "records.csv").exists()
    second = stopped(4, KILL.replace("KILL", "INT"), weights, data, out)
    assert second.returncode == 130, second.stderr
    assert "start the same command again" in second.stdout + second.stderr
    last = stopped(-1, KILL, weights, data, out)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("pass\n") == total - 5 - 4
    measure(request(weights, data, tmp_path / "whole"))
    assert numbers(out) == numbers(tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(out.glob("unfinished*"))


def test_a_complete_condition_is_recorded_while_others_are_measured(
    trained: Trained, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qreg_yolo.robustness.journal.FLUSH_SECONDS", 0.0)
    original, recorded = BatchValidator.detections, []

    def count(*arguments: Any) -> Any:
        table = tmp_path / "out" / "records.csv"
        recorded.append(len(numbers(tmp_path / "out")) if table.is_file() else 0)
        return original(*arguments)

    monkeypatch.setattr(BatchValidator, "detections", count)
    measure(request([trained.best], data, tmp_path / "out"))
    assert recorded == [0] * 7 + [4, 8], "four numbers per condition, the last batch of each completes it"


def test_a_full_disk_keeps_what_was_written(trained: Trained, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    out = tmp_path / "out"
    refused = stopped(4, full, [trained.best], data, out)
    assert refused.returncode == 1, refused.stderr
    assert "cannot be written" in refused.stderr
    assert "start the same command again" in refused.stderr
    assert "Traceback" not in refused.stderr
    last = stopped(-1, full, [trained.best], data, out)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("pass\n") == 3 * 3 - 4


def test_a_limit_is_the_one_of_the_written_sets(trained: Trained, data: Path, tmp_path: Path) -> None:
    sets = Request(out=tmp_path / "sets", corruptions=("fog",), severities=(1,), limit=3)
    write_sets(read_source(data, "val"), sets)
    written = {path.stem for path in (tmp_path / "sets" / "fog" / "1" / "images").rglob("*.png")}
    measure(request([trained.best], data, tmp_path / "out", corruptions=("fog",), limit=3))
    (file,) = (tmp_path / "out" / "per_image").rglob("fog-1.npz")
    assert {Path(name).stem for name in image_statistics.read(file).names} == written
    assert len(written) == 3


def test_pycocotools_agrees(fp32: Path, data: Path, tmp_path: Path) -> None:
    result = measure(request([fp32], data, tmp_path / "out", corruptions=("fog",), coco_eval=True))
    differences = [float(line.split()[-2]) for line in result.table.splitlines() if ", pycocotools " in line]
    assert len(differences) == 2
    assert max(map(abs, differences)) < 5, "points; a few objects: the two sample the curve differently"


def test_coco_eval_says_what_it_did_not_check_and_how_to(trained: Trained, data: Path, tmp_path: Path) -> None:
    measure(request([trained.best], data, tmp_path / "out", corruptions=("fog",)))
    for corruptions, checked in ((("fog", "brightness"), 1), (("fog", "brightness"), 0)):
        asked = request([trained.best], data, tmp_path / "out", corruptions=corruptions, coco_eval=True)
        table = measure(asked).table
        assert sum(", pycocotools " in line for line in table.splitlines()) == checked
        assert f"did not check the {3 - checked} conditions that were measured before" in table
        assert "measure into a new folder with --out" in table
    whole = request([trained.best], data, tmp_path / "new", corruptions=("fog",), coco_eval=True)
    assert "did not check" not in measure(whole).table


def test_perfect_detections_have_a_coco_map_of_one(data: Path) -> None:
    images = check_data(data, "val", min_side=32)
    rows = []
    for number, label in enumerate(images.labels):
        height, width = label["shape"]
        for category, (x, y, w, h) in zip(label["cls"][:, 0], label["bboxes"], strict=True):
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            rows.append((number, 0.9, int(category), 0, corners))
    assert coco_map(np.array(rows, BOXED), images, len(images.names)) == pytest.approx(1.0)
    shifted = [(n, c, k, h, tuple(v + 1000 for v in box)) for n, c, k, h, box in rows]
    assert coco_map(np.array(shifted, BOXED), images, len(images.names)) == 0.0
