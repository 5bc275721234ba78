"""Two networks' gradient norms, image by image."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.analysis.noise import compare_gradients, gradient_table, own_row, read_report
from qreg_yolo.analysis.table import to_text
from qreg_yolo.errors import AnalysisError
from tests.analysis.test_noise import report, row


def measured(one: dict[str, Any], norms: list[float]) -> dict[str, Any]:
    return {**one, "of_images": {"gradient_norm": norms, "relative_norm": [2 * norm for norm in norms]}}


FP32 = report(measured(row("lsq", 4, 0.02), [9, 9, 9]), measured(row("lsq", 32, 0.0), [1, 2, 4]))
W4 = {**report(measured(row("lsq", 4, 0.02, trained=True), [2, 8, 4]), measured(row("lsq", 32, 0.0), [2, 4, 8]))}


def test_the_ratio_is_paired_over_images_by_hand() -> None:
    own, plain = compare_gradients(W4, FP32)
    assert own["gradient_norm"] == own["relative_norm"], "both sides are doubled"
    # logarithms of 2, 4 and 1 to base 2: mean 1, deviation 1, t(2) = 4.3027
    reach = 4.3027 / math.sqrt(3)
    assert own["gradient_norm"]["value"] == pytest.approx(2)
    assert own["gradient_norm"]["lo"] == pytest.approx(2 ** (1 - reach), rel=1e-4)
    assert own["gradient_norm"]["hi"] == pytest.approx(2 ** (1 + reach), rel=1e-4)
    assert [plain["gradient_norm"][end] for end in ("value", "lo", "hi")] == pytest.approx([2, 2, 2])
    assert "lsq, as trained  4     2 [0.357, 11.2]" in to_text(gradient_table(W4, FP32))
    (single,) = compare_gradients(
        *({**one, "n_images": 1, "rows": [measured(one["rows"][0], [norm])]} for one, norm in ((W4, 3.0), (W4, 6.0)))
    )
    assert single["gradient_norm"] == {"value": pytest.approx(0.5), "lo": None, "hi": None}


def test_a_norm_that_is_not_finite_has_no_ratio() -> None:
    broken = {**W4, "rows": [measured(W4["rows"][0], [2, 8, 4])]}
    broken["rows"][0]["of_images"]["gradient_norm"] = [2, None, 4]
    (found,) = compare_gradients(broken, FP32)
    assert found["gradient_norm"] == {"value": None, "lo": None, "hi": None}
    assert gradient_table(broken, FP32).rows[0][2] == "-"


def test_a_network_is_compared_at_the_weights_it_runs_with() -> None:
    assert own_row(W4)["trained"]
    assert own_row(FP32)["bits"] == 32


@pytest.mark.parametrize(
    ("this", "words"),
    [
        ({**W4, "split": "val"}, "split is val for w.pt and train for w.pt"),
        ({**W4, "n_images": 8}, "n_images is 8"),
        ({**W4, "rows": [{**W4["rows"][0], "of_images": {}}]}, "without gradients"),
        ({**W4, "rows": [measured(W4["rows"][0], [0.0, 1.0, 1.0])]}, "no gradient at all"),
    ],
)
def test_what_cannot_be_compared(this: dict[str, Any], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        compare_gradients(this, FP32)


def test_reports_are_read_from_a_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "noise.json").write_text(json.dumps(FP32))
    assert read_report(tmp_path) == read_report(tmp_path / "noise.json") == FP32
    with pytest.raises(FileNotFoundError, match="none' does not exist"):
        read_report(tmp_path / "none")
    other = tmp_path / "other.json"
    for text in ("{", "[]", '{"rows": [{"bits": 4}]}', "\x00"):
        other.write_text(text)
        with pytest.raises(AnalysisError, match="not a report of 'qreg-yolo noise'"):
            read_report(other)
    other.write_text(json.dumps(report(measured(row("lsq", 4, 0.02), [1]))))
    with pytest.raises(AnalysisError, match="--bits 32"):
        read_report(other)
