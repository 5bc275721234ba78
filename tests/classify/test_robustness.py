"""Many classifiers on corrupted images in one pass: the same numbers by every way, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.classify import runs
from qreg_yolo.classify.datasets import load_split
from qreg_yolo.classify.evaluate import BATCH as VAL_BATCH
from qreg_yolo.classify.robustness import Classifier, corrupted, measure
from qreg_yolo.corrupt import SEVERITIES, corrupt
from qreg_yolo.datasets.corrupted import cifar
from qreg_yolo.datasets.corrupted.request import Request
from qreg_yolo.datasets.demo.patterns import demo_set
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.io import records
from qreg_yolo.metrics import image_statistics
from tests.classify.classify_helpers import command_line, train
from tests.classify.robustness_helpers import BATCH, NAMES, request
from tests.classify.synthetic_networks import NORMED
from tests.results_helpers import files_of, numbers


def test_the_clean_condition_is_what_val_measures(trained: list[Path], tmp_path: Path) -> None:
    measure(request(trained, tmp_path / "out", corruptions=(), batch=None))
    found = numbers(tmp_path / "out")
    for number, weights in enumerate(trained):
        runs.validate(weights, runs.Measuring(model=NORMED, verify=False, project=str(tmp_path / str(number))))
        rows = records.read(tmp_path / str(number) / "val" / "records.csv").to_dicts()
        (theirs,) = (row for row in rows if row["metric"] == "accuracy_top1")
        assert found[theirs["run_id"], None, None, "accuracy_top1"] == theirs["value"]
        assert 0 < theirs["value"] < 1, "agreement proves nothing"
    ours = records.read(tmp_path / "out" / "records.csv").to_dicts()[-1]
    same = ("model", "method", "weight_bits", "act_bits", "precision", "weights_sha256", "data", "split", "unit")
    assert [ours[name] for name in same] == [theirs[name] for name in same]
    assert ours["n_images"] == theirs["n_images"] == 24 < VAL_BATCH


def test_every_pixel_is_that_of_the_written_files(cifar10: Path, tmp_path: Path) -> None:
    names = ("shot_noise", "snow", "frost")
    asked = Request(out=tmp_path / "C", corruptions=names, severities=SEVERITIES, preset="cifar32", seed=3, limit=20)
    cifar.write_cifar(cifar10 / "cifar-10-batches-py", asked)
    everything = load_split("cifar10", "test", str(cifar10), verify=False)
    images = everything.subset(select_keys(everything.keys, 20))
    parts = [slice(0, 7), slice(7, 14), slice(14, 20)]

    def shown(name: str, severities: tuple[int, ...]) -> Any:
        asked = [((name, severity), part) for severity in severities for part in parts]
        options = {"seed": 3, "preset": "cifar32", "frost": None}
        return np.concatenate(list(corrupted(images, asked, options, workers=0)))

    for name in names:
        assert np.array_equal(shown(name, SEVERITIES), np.load(tmp_path / "C" / f"{name}.npy"))
    assert np.array_equal(shown("clean", (0,)), images.images)


def test_conditions_are_those_of_written_files_and_of_reading_them(
    trained: list[Path], cifar10: Path, tmp_path: Path
) -> None:
    names = ("gaussian_noise", "frost", "contrast")
    asked = Request(out=tmp_path / "C", corruptions=names, severities=SEVERITIES, preset="cifar32", seed=3)
    cifar.write_cifar(cifar10 / "cifar-10-batches-py", asked)
    both = {"corruptions": names, "severities": SEVERITIES}
    measure(request(trained, tmp_path / "made", seed=3, **both))
    measure(request(trained, tmp_path / "read", published=tmp_path / "C", **both))
    measure(request(trained, tmp_path / "other", seed=4, **both))
    assert files_of(tmp_path / "made") == files_of(tmp_path / "read")
    assert numbers(tmp_path / "made") == numbers(tmp_path / "read")
    assert len(files_of(tmp_path / "made")) == 2 * (1 + 3 * 5)
    assert files_of(tmp_path / "made") != files_of(tmp_path / "other"), "the seed decides nothing"
    presets = [set(records.read(tmp_path / out / "records.csv")["preset"]) for out in ("made", "read")]
    assert presets == [{None, "cifar32"}, {None, "published"}]


def test_the_demo_set_and_a_limit(cifar10: Path, tmp_path: Path) -> None:
    weights = [train(cifar10, tmp_path / "demo", data="demo", epochs=1, batch=256) / "weights" / "last.safetensors"]
    some = {"corruptions": ("fog",), "limit": 40, "batch": 16}
    measure(request(weights, tmp_path / "made", severities=(2,), **some))
    (file,) = (tmp_path / "made" / "per_image").rglob("fog-2.npz")
    chosen = [int(name.removesuffix(".png")) for name in image_statistics.read(file).names]
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 40
    data, folder = demo_set("val"), tmp_path / "C"
    folder.mkdir()
    pixels = [
        corrupt(data.images[i], "fog", severity, key=data.keys[i], preset="cifar32")
        if severity == 2
        else data.images[i]
        for severity in SEVERITIES
        for i in range(len(data))
    ]
    np.save(folder / "fog.npy", np.stack(pixels))
    np.save(folder / "labels.npy", np.tile(data.labels, 5).astype(np.uint8))
    measure(request(weights, tmp_path / "read", severities=(2,), published=folder, **some))
    assert files_of(tmp_path / "made") == files_of(tmp_path / "read")
    rows = np.add.outer(np.arange(5) * len(data), chosen).ravel()  # what corrupt --limit writes
    for name in ("fog", "labels"):
        np.save(folder / f"{name}.npy", np.load(folder / f"{name}.npy")[rows])
    measure(request(weights, tmp_path / "part", severities=(2,), published=folder, **some))
    assert files_of(tmp_path / "made") == files_of(tmp_path / "part")


def test_tables_and_figures_take_the_records(trained: list[Path], tmp_path: Path) -> None:
    result = measure(request(trained, tmp_path / "out"))
    assert "top-1 [points]" in result.table
    asked = report.Request(records=tmp_path / "out" / "records.csv")
    text = report.table(asked, "cells")
    assert "accuracy_top1" in text
    assert "lsq 4" in text
    assert "[" in text.splitlines()[3], "no interval"
    report.heatmap(asked, tmp_path / "heatmap.png")
    report.severity_curves(asked, tmp_path / "curves.png", corruption="brightness")
    assert (tmp_path / "heatmap.png").stat().st_size > 1000


def test_workers_and_additions_change_no_number(
    trained: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(request(trained, tmp_path / "all", workers=2))
    passes = []
    original = Classifier.predictions
    monkeypatch.setattr(Classifier, "predictions", lambda *a: passes.append(1) or original(*a))
    parts: list[tuple[list[Path], tuple[str, ...], int]] = [
        (trained[1:], NAMES[1:], 2 * 3),
        (trained, NAMES, 1 * 3 + 3 * 3),
        (trained, NAMES, 0),
    ]
    for weights, corruptions, expected in parts:
        passes.clear()
        result = measure(request(weights, tmp_path / "parts", corruptions=corruptions))
        assert len(passes) == expected
    assert "6 of 6 conditions were measured before" in result.table
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "all")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "all")
    assert len(set(numbers(tmp_path / "all").values())) > 2, "the corruptions change nothing"


KILLER = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
from qreg_yolo.robustness import journal
from qreg_yolo.classify.robustness import Classifier
journal.FLUSH_SECONDS = 0.0
original, left = Classifier.predictions, [{after}]
def predictions(*arguments):
    print("pass", flush=True)
    if left[0] == 0:
        {action}
    left[0] -= 1
    return original(*arguments)
Classifier.predictions = predictions
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def stopped(after: int, action: str, weights: list[Path], out: Path) -> subprocess.CompletedProcess[str]:
    options: list[Any] = ["--model", NORMED, "--corruptions", ",".join(NAMES), "--severities", "5", "--batch", BATCH]
    patch = KILLER.format(after=after, action=action)
    return command_line("classify", "robustness", *weights, *options, "--out", out, patch=patch)


def test_a_killed_run_goes_on_where_it_was(trained: list[Path], tmp_path: Path) -> None:
    out, total = tmp_path / "killed", 2 * 3 * 3
    first = stopped(8, KILL, trained, out)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert len(numbers(out)) == 2, "the clean condition of both models, and a part of the next"
    second = stopped(3, KILL.replace("KILL", "INT"), trained, out)
    assert second.returncode == 130, second.stderr
    assert "start the same command again" in second.stderr
    last = stopped(-1, KILL, trained, out)
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("pass\n") == total - 8 - 3
    measure(request(trained, tmp_path / "whole"))
    assert numbers(out) == numbers(tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(out.glob("unfinished*"))


def test_a_full_disk_keeps_what_was_written(trained: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("resource")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    refused = stopped(4, full, trained[:1], tmp_path / "out")
    assert refused.returncode == 1, refused.stderr
    assert "cannot be written" in refused.stderr
    assert "start the same command again" in refused.stderr
    assert "Traceback" not in refused.stderr
    last = stopped(-1, full, trained[:1], tmp_path / "out")
    assert last.returncode == 0, last.stderr
    assert last.stdout.count("pass\n") == 3 * 3 - 4
