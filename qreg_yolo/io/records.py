"""Records: a table with one measured number per row, and its provenance."""

from __future__ import annotations

import codecs
import csv
import io
import os
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from filelock import lock_descriptor

from qreg_yolo import __version__
from qreg_yolo.errors import FileAccessError, UserError
from qreg_yolo.io.files import sha256

if TYPE_CHECKING:
    import polars

FILE = "records.csv"
"""Name of the table in every output folder."""
TRACKS: tuple[str, ...] = ("detect", "classify")
_VERSIONED = ("torch", "ultralytics", "numpy")
_ADDED = ("variant", "init", "training", "recipe", "evaluation")
"""Columns that tables of older versions lack; they are read as empty."""


class RecordsError(UserError, ValueError):
    """A file that is not a table of records, or a number without its provenance."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured number; validated on construction. None is an empty cell.

    Raises:
        RecordsError: A value of the wrong type, an empty text, a line break, or an unknown track.
    """

    run_id: str
    """Names the run that produced the number."""
    track: Literal["detect", "classify"]
    """`detect` | `classify`."""
    model: str
    """Architecture, for example `yolov5n.yaml`."""
    variant: str | None = None
    """Name of the study's variant that the run is of; None: of none, or an older table."""
    method: str
    """`fp32` | `lsq` | `lsq+` | `pact` | `dorefa`."""
    weight_bits: int
    """1..8, or 32 for full precision."""
    act_bits: int
    """1..8, or 32 for full precision."""
    init: str | None = None
    """Start of the learned ranges, such as `mse` or `paper`; None: no range is learned, or an older table."""
    training: str | None = None
    """`qat`, or `none`: quantized without training; None: full precision, or an older table."""
    recipe: str | None = None
    """Name of the recipe; None: without one, or an older table."""
    precision: str
    """Arithmetic of the measurement: `fp32`, `fp16` or `bf16`."""
    seed: int
    """Seed of the training run, 0 or more."""
    weights_sha256: str
    """SHA-256 of the checkpoint that was measured: 64 hexadecimal digits."""
    data: str
    """Dataset, by name."""
    split: str
    """`train` | `val` | `test`."""
    n_images: int
    """Number of images, counted where they were measured."""
    evaluation: str | None = None
    """Settings of the measurement (`settings_text`): only numbers with equal ones compare. None: an older table."""
    preset: str | None = None
    """Constants of the corruptions; None: clean images."""
    corruption: str | None = None
    """Name of the corruption; None: clean images."""
    severity: int | None = None
    """1..5; None: clean images."""
    metric: str
    """For example `map50_95`."""
    value: float
    """The number, in `unit`; may be nan where it is undefined."""
    unit: str
    """For example `fraction` (0..1), `points` (0..100), `MB`, `s`."""
    commit: str
    """Commit of this package's checkout, or its version; see `provenance`."""
    command: str
    """The command line."""
    versions: str
    """`name=version` of the packages that computed it, separated by spaces."""
    time: str
    """Time of the measurement: UTC, ISO 8601."""

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if type(value) not in types and not (float in types and type(value) is int):
                wanted = " or ".join("None" if t is type(None) else t.__name__ for t in types)
                raise RecordsError(f"{name}={value!r} is {type(value).__name__}, not {wanted}. Convert it first.")
            if isinstance(value, str) and (not value or len(value.splitlines()) > 1 or value[-1] in "\r\n"):
                raise RecordsError(f"{name}={value!r} is empty or holds a line break. Give one line of text.")
        if self.track not in TRACKS:
            raise RecordsError(f"track={self.track!r} is not one of: {', '.join(TRACKS)}.")


COLUMNS: tuple[str, ...] = tuple(f.name for f in fields(Record))
"""The columns of the table, in order."""
_TYPES: dict[str, tuple[type, ...]] = {
    name: (str,) if typing.get_origin(hint) is Literal else typing.get_args(hint) or (hint,)
    for name, hint in typing.get_type_hints(Record).items()
}
"""Column -> the Python types of its cells."""


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)  # None becomes an empty cell
    return text.getvalue().encode("utf-8")


_HEADER = _csv_lines([COLUMNS])


def append(path: Path, records: Iterable[Record]) -> None:
    """Appends rows to the table, all or none of them; the first call writes the header.

    Writers on one machine wait for each other. A torn last line of an earlier crash is dropped first.

    Args:
        path: The CSV file; its folder has to exist.
        records: The rows.

    Raises:
        RecordsError: The file has other columns than ours; it is left as it is.
        OSError: The file cannot be written; it is left as it was.
    """
    rows = _csv_lines(astuple(record) for record in records)
    if not rows:
        return
    with path.open("ab+", buffering=0) as file:
        lock_descriptor(file.fileno())  # closing the file releases it
        end = _intact_size(file, path, exact=True)
        file.truncate(end)
        data = rows if end else _HEADER + rows
        if os.write(file.fileno(), data) != len(data):
            file.truncate(end)
            raise FileAccessError(
                f"{path}: the disk took only a part of {len(data)} bytes; nothing was appended. Free space."
            )
        os.fsync(file.fileno())


def read(path: Path) -> polars.DataFrame:
    """Returns the table: text columns as String, whole numbers as Int64, numbers as Float64; empty cells are null.

    A last line without its line end (a crash while it was written) is dropped. Columns that an older
    version's table lacks are null; those that only it has follow the others.

    Raises:
        RecordsError: A column is missing or occurs twice, a line has more or fewer cells than the header, or a required
            cell is empty or unreadable.
    """
    import polars as pl

    with path.open("rb") as file:
        end = _intact_size(file, path, exact=False)
        file.seek(0)
        data = file.read(end).removeprefix(codecs.BOM_UTF8) or _HEADER
    _check_cells(data, path)
    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64}
    schema = {name: kinds[types[0]] for name, types in _TYPES.items()}
    try:
        table = pl.read_csv(io.BytesIO(data), schema_overrides=schema)
    except pl.exceptions.PolarsError as error:
        raise RecordsError(f"{path} has a row that is not a record: {error}. Correct or delete that row.") from error
    missing = [pl.lit(None, schema[name]).alias(name) for name in _ADDED if name not in table.columns]
    table = table.with_columns(missing)
    table = table.select([*COLUMNS, *(name for name in table.columns if name not in COLUMNS)])
    for name in COLUMNS:
        if type(None) not in _TYPES[name] and table[name].null_count():
            row = int(table[name].is_null().arg_true()[0]) + 1
            raise RecordsError(f"{path}: record {row} has no '{name}'. Correct or delete that row.")
    return table


def _check_cells(data: bytes, path: Path) -> None:
    """Raises unless each line has as many cells as the header, and no column occurs twice."""
    lines = csv.reader(io.StringIO(data.decode("utf-8", errors="replace"), newline=""))
    header = next(lines)
    if twice := [name for name in header if header.count(name) > 1]:
        raise RecordsError(f"{path} has the column '{twice[0]}' twice. Keep one of them.")
    for row in lines:
        if len(row) != len(header):
            raise RecordsError(
                f"{path}, line {lines.line_num}: {len(row)} cells below {len(header)} columns. Correct or delete that "
                "line."
            )


def recorded(checkpoint: Path, metric: str, **wanted: object) -> float | None:
    """Returns what the records of a checkpoint's own run say about it on clean images; None: nothing, or not that.

    Args:
        checkpoint: ``RUN/weights/...``; the records are ``RUN/records.csv``.
        metric: For example `map50_95`.
        **wanted: Further columns and their values, such as ``evaluation``.
    """
    try:
        rows = read(checkpoint.absolute().parent.parent / FILE).rows(named=True)
    except (OSError, RecordsError):
        return None
    wanted |= {"metric": metric, "corruption": None, "weights_sha256": sha256(checkpoint)}
    found = [row["value"] for row in rows if all(row[name] == value for name, value in wanted.items())]
    return float(found[-1]) if found else None


def check_appendable(path: Path) -> None:
    """Raises unless rows can be appended to the table; it may be missing.

    Raises:
        RecordsError: It has other columns than this version's.
    """
    if path.is_file():
        with path.open("rb") as file:
            _intact_size(file, path, exact=True)


def settings_text(settings: Mapping[str, object]) -> str:
    """Returns the settings of a measurement as a record's column ``evaluation``.

    >>> settings_text({"imgsz": 640, "rect": True, "classes": [0, 2], "conf": 0.001, "fraction": 1.0})
    'imgsz=640 rect=true classes=0,2 conf=0.001 fraction=1'
    """
    return " ".join(f"{name}={_setting(value)}" for name, value in settings.items())


def _setting(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(_setting, value))
    return f"{value:.6g}" if isinstance(value, float) else "-".join(str(value).split())


def settings_differences(one: str | None, other: str | None) -> list[str]:
    """Returns the settings in which two columns ``evaluation`` differ; none if either is of an older table.

    >>> settings_differences("imgsz=256 conf=0.001", "imgsz=128 conf=0.001")
    ['imgsz=256 and imgsz=128']
    """
    if one is None or other is None:
        return []
    mine, theirs = (dict(word.split("=", 1) for word in text.split()) for text in (one, other))
    names = dict.fromkeys([*mine, *theirs])
    return [
        f"{name}={mine.get(name, 'unknown')} and {name}={theirs.get(name, 'unknown')}"
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def provenance() -> dict[str, str]:
    """Returns the `Record` fields ``commit``, ``command``, ``versions`` and ``time``."""
    return {
        "commit": _commit(),
        "command": _command(),
        "versions": _versions(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _command() -> str:
    """Returns the command line as typed, the program without its folder."""
    program = Path(sys.argv[0])
    words = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return " ".join(shlex.join([*words, *sys.argv[1:]]).splitlines()).strip() or "unknown"


def _intact_size(file: BinaryIO, path: Path, *, exact: bool) -> int:
    """Returns the size of the whole lines in bytes, after checking that the first is our header.

    Args:
        file: The table, positioned anywhere.
        path: Its name, for the error text.
        exact: Whether the columns have to equal `COLUMNS` (to append), or only include them (to read).
    """
    file.seek(0)
    first = file.readline()
    if not first.endswith(b"\n"):
        if _HEADER.startswith(first):  # empty, or the very first write was torn
            return 0
        raise RecordsError(f"{path} is not a table of records: it has no header. Give another path.")
    columns = first.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace").rstrip("\r\n").split(",")
    if missing := [name for name in COLUMNS if name not in columns and name not in _ADDED]:
        raise RecordsError(
            f"{path} lacks the columns: {', '.join(missing)}. Give a table of this version, or a new path."
        )
    if exact and tuple(columns) != COLUMNS:
        raise RecordsError(f"{path} is a table of another version: it has other columns. Give a new path.")
    return len(first) + file.read().rfind(b"\n") + 1


def _commit() -> str:
    """Returns the commit of this checkout (``-dirty`` where edited), ``v<version>`` outside one, or ``unknown``."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package: a repository further up is not ours
        return f"v{__version__}"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip() or "unknown"


def _versions() -> str:
    found = {"qreg-yolo": __version__}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["python"] = ".".join(map(str, sys.version_info[:3]))
    return " ".join(f"{name}={number}" for name, number in found.items())
