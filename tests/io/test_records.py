from __future__ import annotations

import csv
import math
import multiprocessing
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import qreg_yolo
from qreg_yolo.io import records
from qreg_yolo.io.records import Record, RecordsError

HEADER = (  # the schema of docs/architecture.md, in its order
    "run_id,track,model,variant,method,weight_bits,act_bits,init,training,recipe,precision,seed,weights_sha256,data,split,"
    "n_images,evaluation,preset,corruption,severity,metric,value,unit,commit,command,versions,time"
)
ROW = Record(
    run_id="r1",
    track="detect",
    model="yolov5n.yaml",
    method="lsq",
    weight_bits=4,
    act_bits=4,
    precision="fp32",
    seed=0,
    weights_sha256="0" * 64,
    data="demo",
    split="val",
    n_images=100,
    metric="map50_95",
    value=0.1 + 0.2,
    unit="fraction",
    commit="abc",
    command="""qreg-yolo train --data 'a, "b".yaml'""",
    versions="torch=2 python=3.11",
    time="2026-01-31T00:00:00+00:00",
)


def test_the_columns_are_the_schema_in_order(tmp_path: Path) -> None:
    assert ",".join(records.COLUMNS) == HEADER
    records.append(tmp_path / "r.csv", [ROW])
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == HEADER


def test_what_is_appended_is_read_back_equal(tmp_path: Path) -> None:
    corrupted = replace(ROW, preset="paper", corruption="fog", severity=3, evaluation="imgsz=64 conf=0.001")
    undefined = replace(ROW, run_id="0012", value=math.nan, command="ü\tß")
    for batch in ([ROW], [], [corrupted, undefined]):
        records.append(tmp_path / "r.csv", batch)
    table = records.read(tmp_path / "r.csv")
    assert table.columns == HEADER.split(",")
    rows = [Record(**row) for row in table.to_dicts()]
    assert rows[:2] == [ROW, corrupted]
    assert math.isnan(rows[2].value)
    assert replace(rows[2], value=0) == replace(undefined, value=0)


def test_an_older_table_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    """Older tables lack five columns, and have three that were never filled."""
    records.append(tmp_path / "new.csv", [ROW])
    header, row = (line.split(",") for line in (HEADER, (tmp_path / "new.csv").read_text().splitlines()[1]))
    cells = dict(zip(header, next(csv.reader([",".join(row)])), strict=True))
    old = [name for name in header if name not in ("variant", "evaluation", "init", "training", "recipe")]
    old[old.index("unit") : old.index("unit")] = ["lo", "hi"]
    path = tmp_path / "old.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*old, "baseline_run_id"], restval="")
        writer.writeheader()
        writer.writerow({name: cells.get(name, "") for name in old})
    before = path.read_bytes()
    table = records.read(path)
    assert table.columns == [*HEADER.split(","), "lo", "hi", "baseline_run_id"]
    assert Record(**table.select(records.COLUMNS).to_dicts()[0]) == ROW
    for refused in (lambda: records.check_appendable(path), lambda: records.append(path, [ROW])):
        with pytest.raises(RecordsError, match="another version"):
            refused()
    assert path.read_bytes() == before
    records.check_appendable(tmp_path / "new.csv")
    records.check_appendable(tmp_path / "none.csv")


def test_settings_are_written_compactly_and_differences_named() -> None:
    one = records.settings_text({"imgsz": 640, "half": False, "conf": 0.25, "classes": [0, 2], "map": None, "n": "a b"})
    assert one == "imgsz=640 half=false conf=0.25 classes=0,2 map=none n=a-b"
    assert records.settings_differences(one, one) == []
    assert records.settings_differences(one, one.replace("640", "320")) == ["imgsz=640 and imgsz=320"]
    assert records.settings_differences("a=1", "a=1 b=2") == ["b=unknown and b=2"]
    assert records.settings_differences(None, one) == records.settings_differences(one, None) == []


def test_a_table_of_one_kind_keeps_its_types(tmp_path: Path) -> None:
    records.append(tmp_path / "r.csv", [replace(ROW, run_id="7", value=1)])
    table = records.read(tmp_path / "r.csv")
    assert table.schema["run_id"] == pl.String
    assert table.schema["value"] == pl.Float64
    assert table.schema["severity"] == pl.Int64
    assert table.schema["preset"] == pl.String


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_torn_last_line_is_dropped_by_read_and_by_append(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW])
    whole = path.read_bytes()
    records.append(path, [replace(ROW, run_id="torn")])
    path.write_bytes(path.read_bytes()[: max(len(whole) + 1, path.stat().st_size - cut)])
    assert records.read(path)["run_id"].to_list() == ["r1"]
    records.append(path, [replace(ROW, run_id="next")])
    assert records.read(path)["run_id"].to_list() == ["r1", "next"]


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("run_id,track,mo")
    assert records.read(path).height == 0
    records.append(path, [ROW])
    assert records.read(path).height == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("important notes, no line end", "not a table of records"),
        ("a,b\n1,2\n", "lacks the columns: run_id, track"),
        (HEADER.replace(",unit", "") + "\n", "lacks the columns: unit"),
    ],
)
def test_a_file_that_is_no_table_of_ours_is_refused_and_left_alone(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(content)
    with pytest.raises(RecordsError, match=message):
        records.read(path)
    with pytest.raises(RecordsError, match=message):
        records.append(path, [ROW])
    assert path.read_text() == content


def test_a_table_with_more_columns_is_read_but_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW])
    header, row = path.read_text().splitlines()
    path.write_text(f"{header},extra\n{row},1\n")
    assert records.read(path)["extra"].to_list() == [1]
    with pytest.raises(RecordsError, match="other columns"):
        records.append(path, [ROW])


def test_a_line_that_does_not_fit_the_header_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, replace(ROW, run_id="r2")])
    whole = path.read_text()
    path.write_text("\ufeff" + whole)
    assert records.read(path)["run_id"].to_list() == ["r1", "r2"]
    header, first, second = whole.splitlines()
    count = len(records.COLUMNS)
    for text, words in (
        (f"{header}\n{first}\n{second},1\n", f"line 3: {count + 1} cells below {count} columns"),
        (f"{header}\n{first.rpartition(',')[0]}\n{second}\n", f"line 2: {count - 1} cells below {count} columns"),
        (f"{header}\n{first}\n\n{second}\n", f"line 3: 0 cells below {count} columns"),
        (f"{header},split\n{first},test\n", "the column 'split' twice"),
    ):
        path.write_text(text)
        with pytest.raises(RecordsError, match=words):
            records.read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"), [(",map50_95,", ",,", "record 2 has no 'metric'"), (",100,", ",many,", "not a record")]
)
def test_a_damaged_row_is_an_error_that_names_it(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW, ROW])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace(old, new)]))
    with pytest.raises(RecordsError, match=message):
        records.read(path)


def test_a_short_write_appends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.csv"
    records.append(path, [ROW])
    before = path.read_bytes()
    write = records.os.write
    monkeypatch.setattr(records.os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(OSError, match="only a part"):
        records.append(path, [ROW])
    assert path.read_bytes() == before


def _append_often(path: Path, name: str) -> None:
    for number in range(50):
        records.append(path, [replace(ROW, run_id=name, seed=number), replace(ROW, run_id=name, seed=number)])


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_often, args=(path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    table = records.read(path)
    assert table.height == 200
    for name in ("a", "b"):
        assert table.filter(pl.col("run_id") == name)["seed"].to_list() == [n for n in range(50) for _ in range(2)]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_writer_waits_for_the_one_before(tmp_path: Path) -> None:
    import fcntl

    path = tmp_path / "r.csv"
    records.append(path, [ROW])
    before = path.read_bytes()
    writer = threading.Thread(target=records.append, args=(path, [ROW]))
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert path.read_bytes() == before
    writer.join(60)
    assert records.read(path).height == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "0"},
        {"seed": True},
        {"value": "0.5"},
        {"n_images": 1.0},
        {"unit": ""},
        {"data": None},
        {"command": "a\nb"},
        {"command": "a\n"},
        {"track": "segment"},
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordsError, match=next(iter(wrong))):
        replace(ROW, **wrong)


def test_provenance_fits_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["qreg-yolo", "train", "name=a b", "project=line\nbreak"])
    found = records.provenance()
    replace(ROW, **found)
    assert found["command"].startswith("qreg-yolo train 'name=a b' ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["time"])
    for name in ("qreg-yolo", "torch", "ultralytics", "numpy", "python"):
        assert re.search(rf"(^| ){name}=\d+\.", found["versions"])


def test_the_commit_is_that_of_the_packages_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "qreg_yolo"
    installed = tmp_path / ".venv" / "site-packages" / "qreg_yolo"
    own = Path(records.__file__).relative_to(Path(qreg_yolo.__file__).parent)
    for folder in (package, installed):
        (folder / own).parent.mkdir(parents=True)
        (folder / own).touch()
    monkeypatch.setattr(records, "__file__", str(package / own))
    git("init")
    assert records.provenance()["commit"] == "unknown"  # no commit yet
    git("add", "qreg_yolo")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert records.provenance()["commit"] == head
    (package / own).write_text("edited")
    assert records.provenance()["commit"] == f"{head}-dirty"
    monkeypatch.setattr(records, "__file__", str(installed / own))
    assert records.provenance()["commit"] == f"v{records.__version__}"
