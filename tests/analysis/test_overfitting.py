"""The overfitting gap, and the losses it is computed from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.analysis.curves import Curve, read_curves
from qreg_yolo.analysis.loss_tables import overfitting_table
from qreg_yolo.analysis.table import to_csv, to_markdown
from qreg_yolo.io.strict_yaml import ConfigError

DETECTOR = """epoch,train/box_loss,train/obj_loss,val/box_loss,val/obj_loss,val/note
1,1.0,0.5,2.0,0.25,7
2,0.5,0.25,3.0,0.5,7
"""


def curve(*values: float) -> Curve:
    return Curve(np.arange(1.0, len(values) + 1), np.array(values))


def test_the_gap_by_hand() -> None:
    validation = {"fp32": [curve(3, 1, 2), curve(4, math.nan, 4)], "4-bit": [curve(3, 2, 1)]}
    training = {"fp32": [curve(3, 1, 0.5), curve(4, 2, 1.5)], "4-bit": [curve(3, 2, 1.5)]}
    table = overfitting_table(validation, training, "val/obj_loss")
    label, seeds, epochs, *numbers = table.rows[0]
    assert (label, seeds, epochs) == ("fp32", "2", "2, 1")
    assert [(round(one.value, 6), round(one.sd, 6)) for one in numbers] == [  # type: ignore[union-attr]
        (2.5, round(math.sqrt(4.5), 6)),  # best 1 and 4
        (3, round(math.sqrt(2), 6)),  # last 2 and 4
        (0.5, round(math.sqrt(0.5), 6)),  # gap 1 and 0
        (50, round(math.sqrt(5000), 6)),  # of best: 100 % and 0 %
        (1, round(math.sqrt(0.5), 6)),  # training, last 0.5 and 1.5
        (2, round(math.sqrt(0.5), 6)),  # 1.5 and 2.5 above it
    ]
    assert [one.value for one in table.rows[1][3:]] == [1, 1, 0, 0, 1.5, -0.5]  # type: ignore[union-attr]
    assert "| 4-bit | 1 | 3 | 1.00000 | 1.00000 | 0.00000 | 0.0 | 1.50000 |" in to_markdown(table)


def test_the_gap_over_a_best_loss_of_zero_has_no_percentage() -> None:
    table = overfitting_table({"a": [curve(1, 0, 2)]}, {}, "val/box_loss")
    best, last, gap, percentage = table.rows[0][3:]
    assert [best.value, last.value, gap.value] == [0, 2, 2]  # type: ignore[union-attr]
    assert math.isnan(percentage.value)  # type: ignore[union-attr]
    assert "| 0.00000 | 2.00000 | 2.00000 | - |" in to_markdown(table)


def test_without_training_losses_and_without_a_finite_value() -> None:
    table = overfitting_table({"a": [curve(math.nan, math.inf)]}, {}, "val/loss")
    assert len(table.header) == len(table.rows[0]) == 7
    assert to_csv(table).splitlines()[1].startswith("a,1,1,")


def test_the_whole_loss_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(DETECTOR)
    assert read_curves([f"a={path}"], "val/loss")["a"][0].values.tolist() == [2.25, 3.5]
    assert read_curves([f"a={path}"], "train/loss")["a"][0].values.tolist() == [1.5, 0.75]
    with pytest.raises(ConfigError, match="no column 'test/loss'"):
        read_curves([f"a={path}"], "test/loss")
    path.write_text("epoch,val/loss,val/box_loss\n1,5,1\n")
    assert read_curves([f"a={path}"], "val/loss")["a"][0].values.tolist() == [5], "a classifier's is its own column"
