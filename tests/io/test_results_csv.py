"""`results.csv` is read right, or refused with the line and both counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qreg_yolo.analysis.curves import read_curve
from qreg_yolo.classify.outputs import write_results
from qreg_yolo.io.results_csv import ResultsError, read_results

PLAIN = "epoch,time,val/loss\n1,10,0.5\n2,20,0.25\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "results.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\n" + PLAIN.replace("\n", "\n\n  \n"),
        PLAIN + "   ",
        PLAIN.replace(",", ",       ").replace("epoch", "          epoch"),
        '"epoch","time","val/loss"\n"1","10","0.5"\n"2","20","0.25"\n',
        '\ufeff"epoch", "time", " val/loss "\r\n1, "10", 0.5\r\n2, 20, " 0.25"\r\n',
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("loss\n", "loss,,\n"),
        "epoch,time,val/loss\n1,10,0.5,\n2,20,0.25,,\n",
        ",epoch,time,val/loss\n0,1,10,0.5\n1,2,20,0.25\n",
        "epoch,time,val/loss\n1.0,1e1,5e-1\n2.0,+20,.25\n",
    ],
    ids=[
        "plain", "no line end at the end", "byte order mark", "CRLF", "CR", "blank lines", "blanks at the end",
        "padded", "quoted", "all of it", "commas at the ends", "empty headings at the end", "empty cells at the ends",
        "index column of pandas", "other spellings of numbers",
    ],
)  # fmt: skip
def test_what_can_be_read_is_read_right(tmp_path: Path, text: str) -> None:
    table = read_results(written(tmp_path, text))
    assert table.column("epoch") == [1, 2]
    assert table.column("val/loss") == [0.5, 0.25]
    assert table.last() == {"epoch": 2, "time": 20, "val/loss": 0.25}
    assert read_curve(tmp_path / "results.csv", "val/loss").values.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN + "3,30,0.1,0.2\n", "line 4 has 4 cells, the first line 3 headings"),
        (PLAIN + "3,30\n", "line 4 has 2 cells, the first line 3 headings"),
        ("\n" + PLAIN.replace("\n", "\r\n\r\n") + "3,30\r\n", "line 8 has 2 cells"),
        (PLAIN + "3,30,0.1,0.2", "line 4 has 4 cells"),
        (PLAIN + "3,30\n   ", "line 4 has 2 cells"),
        ("epoch,time,val/loss,\n1,10,0.5,7\n", "line 2 has 4 cells, the first line 3 headings"),
        ("epoch,time,val/loss\n1,0.5,\n", "line 2 has 2 cells, the first line 3 headings"),
        ("epoch,val/loss\n1,10,0.5\n2,20,0.25\n", "line 2 has 3 cells, the first line 2 headings"),
        (PLAIN + PLAIN, "line 4 is not a row of numbers ('epoch' is 'epoch')"),
        (PLAIN.replace(",0.5", ",0,5"), "line 2 has 4 cells"),
        (PLAIN.replace("0.5", '"0,5"'), "line 2 is not a row of numbers ('val/loss' is '0,5')"),
        (PLAIN.replace("0.5", "1_0"), "line 2 is not a row of numbers"),
        (PLAIN.replace("0.5", "٣"), "line 2 is not a row of numbers"),
        (PLAIN.replace("2,20", "nan,20"), "line 3 has the epoch nan"),
        (PLAIN.replace("2,20", "2.5,20"), "line 3 has the epoch 2.5"),
        (PLAIN.replace("2,20", "-1,20"), "line 3 has the epoch -1"),
        (PLAIN.replace("2,20", "inf,20"), "line 3 has the epoch inf"),
        (PLAIN.replace("2,20", ",20"), "line 3 has the epoch empty"),
        (PLAIN.replace("time", " val/loss "), "the heading 'val/loss' twice, in columns 2 and 3"),
        (PLAIN.replace("epoch", '"epoch'), "line 3 is not a line of a CSV file"),
        (PLAIN.replace("0.5", "5" * 200_000), "is not a line of a CSV file"),
        (PLAIN.replace(",", ";"), "has no column 'epoch'"),
        ("", "has no column 'epoch'"),
        (PLAIN.encode("utf-16"), "is not text in UTF-8"),
        (PLAIN.encode("utf-16-le"), "results.csv"),  # Python 3.10 refuses NUL itself
    ],
)
def test_what_cannot_be_read_is_refused_with_the_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ResultsError) as refused:
        read_results(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("torn", ["3", "3,", "3,30", "3,30,", "3,30,-", "3,30,1e"])
def test_the_last_line_of_a_run_that_is_writing_may_be_torn(tmp_path: Path, torn: str) -> None:
    assert read_results(written(tmp_path, PLAIN + torn)).column("epoch") == [1, 2]
    with pytest.raises(ResultsError, match="line 4"):
        read_results(written(tmp_path, PLAIN + torn + "\n"))


def test_an_empty_cell_between_others_is_no_number(tmp_path: Path) -> None:
    table = read_results(written(tmp_path, "epoch,time,val/loss\n1,,0.5\n"))
    assert math.isnan(table.column("time")[0])
    assert table.last() == {"epoch": 1, "val/loss": 0.5}


def test_a_table_without_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no epoch yet"):
        read_results(written(tmp_path, "epoch,time\n")).last()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_results(tmp_path / "nowhere.csv")


def test_a_classifier_that_another_version_resumes_keeps_numbers_below_their_headings(tmp_path: Path) -> None:
    """The rows before come from the checkpoint, with the columns that were recorded then."""
    rows = [{"epoch": 1.0, "old": 7.0, "val/loss": 0.5}, {"epoch": 2.0, "new": 8.0, "val/loss": 0.25}]
    write_results(tmp_path, rows)
    table = read_results(tmp_path / "results.csv")
    assert table.column("val/loss") == [0.5, 0.25]
    assert table.last() == {"epoch": 2, "new": 8, "val/loss": 0.25}
    assert math.isnan(table.column("old")[1])


ZERO = "epoch,time,train/loss,metrics/mAP,val/loss,lr/pg0\n0,0,,0.25,0.5,\n"


@pytest.mark.parametrize("end", ["", ","])
def test_the_row_before_training_is_apart(tmp_path: Path, end: str) -> None:
    table = read_results(written(tmp_path, ZERO.replace("0.5,\n", f"0.5,{end}\n") + "1,9,0.7,0.3,0.4,0.1\n"))
    assert table.untrained is not None
    assert [None if math.isnan(value) else value for value in table.untrained] == [0, 0, None, 0.25, 0.5, None]
    assert table.column("epoch") == [1]
    assert table.lines == (3,)
    assert read_curve(tmp_path / "results.csv", "val/loss").values.tolist() == [0.4]
    with pytest.raises(ResultsError, match="holds no epoch yet"):
        read_results(written(tmp_path, ZERO)).last()


def test_an_epoch_0_with_a_training_loss_is_trained(tmp_path: Path) -> None:
    table = read_results(written(tmp_path, ZERO.replace("0,0,,0.25,0.5,", "0,9,0.8,0.25,0.5,0.1")))
    assert table.untrained is None
    assert table.column("train/loss") == [0.8]
    with pytest.raises(ResultsError, match="line 2 has 5 cells"):
        read_results(written(tmp_path, ZERO.replace("0,0,,0.25,0.5,", "0,9,0.8,0.25,0.5,")))
