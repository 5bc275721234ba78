"""``qreg-yolo noise`` from the command line, for both tracks, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.classify.synthetic_networks import NORMED
from tests.cli.conftest import Run, assert_refused, qreg_yolo

QUICK = ["--limit", 2, "--draws", 4, "--threads", 1]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a float checkpoint of a small network for the demo set."""
    folder = tmp_path_factory.mktemp("classifier")
    options = ["--model", NORMED, "--bits", 32, "--batch", 640, "--epochs", 1, "--threads", 1, "--project", folder]
    outcome = qreg_yolo("classify", "train", *options)
    assert outcome.code == 0, outcome.err
    return folder / "with_norm-demo-fp32-s0" / "weights" / "last.safetensors"


def test_a_classifier_in_tables(classifier: Path) -> None:
    outcome = qreg_yolo("noise", classifier, "--model", NORMED, "--bits", "2,8,32", *QUICK)
    assert outcome.code == 0, outcome.err
    for words in ("pact = dorefa", "full precision", "sigma^2/Var w", "Gradients at w_q", "mse", "cross_entropy"):
        assert words in outcome.out
    assert "2 images of demo/train" in outcome.out
    assert f"Results: {Path('runs/noise').absolute()} (noise.json, noise.png)" in outcome.out
    assert "gradients and losses" in outcome.err, "the bar"
    assert {path.name for path in Path("runs/noise").iterdir()} == {"noise.json", "noise.png"}
    assert qreg_yolo("noise", classifier, "--model", NORMED, "--no-loss").code == 0
    assert Path("runs/noise-2").is_dir(), "nothing is overwritten"


def test_a_detector_in_json(trained: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = qreg_yolo("noise", trained.best, "--bits", "4", "--methods", "lsq", "--json", "--no-loss", "--out", out)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report == json.loads((out / "noise.json").read_text())
    assert [(row["method"], row["bits"], row["trained"]) for row in report["rows"]] == [
        ("lsq", 4, True), ("lsq", 4, False),
    ]  # fmt: skip
    for row in report["rows"]:
        assert row["sigma2"] > 0
    assert report["track"] == "detect"
    assert str(out) in outcome.err


def test_beside_its_baseline(classifier: Path, tmp_path: Path) -> None:
    common = ["noise", classifier, "--model", NORMED, "--methods", "lsq"]
    outcome = qreg_yolo(*common, "--bits", "32", "--out", tmp_path / "fp32", *QUICK)
    assert outcome.code == 0, outcome.err
    words = [*common, "--bits", "2,32", "--against", tmp_path / "fp32", "--out", tmp_path / "same"]
    outcome = qreg_yolo(*words, *QUICK)
    assert outcome.code == 0, outcome.err
    assert "Gradients against fp32" in outcome.out
    found = json.loads((tmp_path / "same" / "noise.json").read_text())["against"]["rows"]
    assert found[1] == {norm: {"value": 1.0, "lo": 1.0, "hi": 1.0} for norm in ("gradient_norm", "relative_norm")}
    assert found[0]["gradient_norm"]["value"] != 1
    assert_refused(qreg_yolo(*words, "--limit", 3, "--draws", 4, "--threads", 1), 1, "n_images is 3", "--limit")
    assert json.loads((tmp_path / "same" / "noise.json").read_text())["n_images"] == 3, "what was measured is kept"
    assert_refused(qreg_yolo(*words, "--no-loss"), 2, "--against compares gradients")
    assert_refused(qreg_yolo(*common, "--against", "nowhere"), 2, "'nowhere' does not exist")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "lsq,dorefaa"], ["method='dorefaa'", "Did you mean 'dorefa'"]),
        (["--bits", "0"], ["bits=0 is not a width. Use 1 to 8, or 32"]),
        (["--bits", "4,9"], ["bits=9 is not a width"]),
        (["--bits", "1-33"], ["bits=9 is not a width"]),
        (["--bits", "33"], ["bits=33 is not a width"]),
        (["--bits", "four"], ["bits='four' is not a list of widths", "2,4,8"]),
        (["--bits", "4,4"], ["bits='4,4'", "each once"]),
        (["--draws", "1"], ["draws=1: give 4 or more"]),
        (["--limit", "0"], ["limit=0: give 1 or more"]),
        (["--edge-bits", "5"], ["first_last_bits='5' is not one of: 8, 32, same"]),
        (["--split", "test"], ["split='test' is not one of: train, val"]),
        (["--data", "cifar"], ["data='cifar'", "Did you mean 'cifar10'"]),
        (["--data", "cifar10"], ["--data cifar10 needs --data-dir DIR"]),
        (["--imgsz", "64"], ["--imgsz applies to detectors"]),
        (["--seed", "-1"], ["seed=-1: give 0 or more"]),
    ],
    ids=str,
)
def test_what_is_refused(more: list[object], words: list[str], classifier: Path) -> None:
    assert_refused(qreg_yolo("noise", classifier, "--model", NORMED, *more), 2, *words)
    assert not Path("runs").exists()


def test_files_that_are_no_checkpoint(trained: Run, classifier: Path, tmp_path: Path) -> None:
    assert_refused(qreg_yolo("noise", "nowhere.pt"), 2, "no checkpoint 'nowhere.pt'")
    lost = ["nowhere.safetensors", "--data-dir", tmp_path]
    assert_refused(qreg_yolo("noise", *lost), 2, "no checkpoint 'nowhere.safetensors'")
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    assert_refused(qreg_yolo("noise", text), 1, "text.pt")
    assert_refused(qreg_yolo("noise", trained.folder / "results.csv"), 1, "results.csv' is not a .pt or .safetensors")
    assert_refused(qreg_yolo("noise", trained.best, "--data", tmp_path / "none.yaml"), 2, "none.yaml")
    assert_refused(qreg_yolo("noise", trained.best, "--model", "a:b"), 2, "--model applies to classifiers")
    assert_refused(qreg_yolo("noise", trained.best, "--no-verify"), 2, "--no-verify applies to classifiers")
    assert_refused(qreg_yolo("noise", classifier), 2, "a model of your own", NORMED)
    file = tmp_path / "file"
    file.touch()
    assert_refused(
        qreg_yolo("noise", classifier, "--model", NORMED, "--no-loss", "--out", file / "x"),
        1,
        "cannot be written",
        "--out",
    )
