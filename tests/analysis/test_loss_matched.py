"""Validation at equal training loss, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.analysis.curves import Curve
from qreg_yolo.analysis.loss_tables import LossMatched, loss_matched, loss_matched_table
from qreg_yolo.analysis.table import to_markdown


def curve(*values: float) -> Curve:
    return Curve(np.arange(1.0, len(values) + 1), np.array(values))


LOW = curve(10, 9, 8, 7, 6, 5, 4, 3, 2, 1)
"""Training loss of a network that fits well; its validation loss is the epoch."""
RISING = curve(*range(1, 11))


def test_the_end_of_a_run_beside_the_other_where_that_fitted_as_well() -> None:
    training, validation = curve(50, 8, 7, 6, 5, 4), curve(50, 3, 3, 3, 3, 8)
    # last five: training 6, validation 4; the other's epochs with 8, 7, 6, 5, 4 are its third to seventh
    assert loss_matched(training, validation, LOW, RISING) == LossMatched(6, 4, 5)


def test_epochs_that_are_not_finite_do_not_count() -> None:
    broken = curve(*(math.nan if value == 6 else 100 + value for value in LOW.values))
    # 107, 105, 108, 104 and, as near as 103, 109, which was earlier
    assert loss_matched(curve(*[106.0] * 5), curve(*[0.0] * 5), broken, RISING).other == (4 + 6 + 3 + 7 + 2) / 5


@pytest.mark.parametrize("target", [0.5, 2.8, 8.5, 11.0])
def test_a_loss_that_the_other_never_had_has_no_partner(target: float) -> None:
    assert math.isnan(loss_matched(curve(target), curve(1), LOW, RISING).other)
    assert math.isnan(loss_matched(curve(target), curve(1), curve(math.nan), curve(1)).other)


def test_runs_are_compared_place_by_place() -> None:
    training = {"fp32": [LOW, LOW], "4-bit": [curve(*[6.0] * 5), curve(*[6.0] * 5), LOW], "2-bit": [curve(40.0)]}
    validation = {"fp32": [RISING, RISING], "4-bit": [curve(4), curve(8), RISING], "2-bit": [curve(3)]}
    table = loss_matched_table(training, validation, "train/loss", "val/loss")
    four, two = (to_markdown(table).splitlines()[row] for row in (4, 5))
    assert four == ("| 4-bit | 2 | 6.00000 ± 0.00000 | 6.00000 ± 2.82843 | 5.00000 ± 0.00000 | 1.00000 ± 2.82843 |"), (
        "the third run has no partner"
    )
    assert two == "| 2-bit | 1 | 40.00000 | 3.00000 | - | - |"
    assert table.notes[-1] == "Left out, because fp32 has 2 runs: the last 1 of 4-bit."


def test_it_comes_with_the_path_of_a_validation_loss_against_a_training_loss(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("epoch,train/loss,val/loss,lr\n1,2.0,3.0,1\n2,1.0,4.0,1\n")
    both = [f"{name}={tmp_path / name}.csv" for name in ("a", "b")]
    words = "val/loss at equal train/loss"
    assert words in report.loss_curves(both, tmp_path / "x.png", column="val/loss", x="train/loss")
    assert words not in report.loss_curves(both, tmp_path / "x.png", column="val/loss")
    assert "at equal" not in report.loss_curves(both, tmp_path / "x.png", column="val/loss", x="lr")
    assert "at equal" not in report.loss_curves(both[:1], tmp_path / "x.png", column="val/loss", x="train/loss")
