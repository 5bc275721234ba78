"""Reader of ``results.csv``, the table of epochs of Ultralytics, the YOLOv5 repository and ``classify train``."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qreg_yolo.errors import MissingFileError, UserError

FILE = "results.csv"
"""Name of the table in every run's folder."""
EPOCH = "epoch"
"""Heading that every table has."""
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_REMEDY = "Correct or delete that line."


class ResultsError(UserError, ValueError):
    """A file that is not a table of epochs, or one whose rows do not fit its headings."""


@dataclass(frozen=True)
class ResultsTable:
    """Rows of numbers below their headings, as `read_results` returns them."""

    path: Path
    """The file."""
    headings: tuple[str, ...]
    """Without padding, in the order of the file; an index column that pandas wrote has the heading ``""``."""
    lines: tuple[int, ...]
    """The line of each row, counted from 1 with the blank ones."""
    rows: tuple[tuple[float, ...], ...]
    """One per epoch of training, in the order of the file, each as long as `headings`; an empty cell is nan."""
    untrained: tuple[float, ...] | None = None
    """The row of epoch 0 without training losses: the accuracy before training; None: it was not measured."""

    def column(self, heading: str) -> list[float]:
        """Returns the values below ``heading``, one per row."""
        index = self.headings.index(heading)
        return [row[index] for row in self.rows]

    def last(self) -> dict[str, float]:
        """Returns the last row (heading -> number) without its missing numbers.

        Raises:
            ResultsError: The table has no row.
        """
        if not self.rows:
            raise ResultsError(f"{self.path} holds no epoch yet. Wait for the first one to end.")
        pairs = zip(self.headings, self.rows[-1], strict=True)
        return {heading: value for heading, value in pairs if heading and not math.isnan(value)}


def read_results(path: Path) -> ResultsTable:
    """Returns the table of a ``results.csv``, each number under its own heading or an error.

    Padding, quotes, blank lines, a byte order mark and any line end are accepted. Empty cells between others count as
    missing, and those at the end of an untrained row. An incomplete last line without a line end is left out: a run is
    still writing it.

    Raises:
        FileNotFoundError: No such file.
        ResultsError: The file is not such a table, a heading occurs twice, or a line does not fit the headings.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist. Give the results.csv of a training run, or its folder.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is not text in UTF-8. Give the results.csv of a training run.") from error
    lines = _lines(path, text)
    headings = tuple(lines[0][1]) if lines else ()
    _check_headings(path, headings)
    unfinished = 1 + len(_LINE_END.findall(text))  # the number of a last line without its line end
    kept, rows = [], []
    for line, cells in lines[1:]:
        try:
            rows.append(_row(path, line, headings, cells))
            kept.append(line)
        except ResultsError:
            if line != unfinished or len(cells) > len(headings):
                raise
    if rows and _is_untrained(headings, ["" if math.isnan(value) else f"{value:g}" for value in rows[0]]):
        return ResultsTable(path, headings, tuple(kept[1:]), tuple(rows[1:]), rows[0])
    return ResultsTable(path, headings, tuple(kept), tuple(rows))


def _is_untrained(headings: tuple[str, ...], cells: Sequence[str]) -> bool:
    """Returns whether a row is of an untrained network: epoch 0, without training losses.

    The YOLOv5 repository counts trained epochs from 0.
    """
    given = dict(zip(headings, cells, strict=False))  # without its empty cells at the end a row is shorter
    losses = [cell for heading, cell in given.items() if heading.startswith("train/")]
    return given.get(EPOCH) == "0" and bool(losses) and not any(losses)


def _lines(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Returns (number of the line, its cells without padding) of each line that is not blank."""
    found = []
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                found.append((reader.line_num, cells))
    except csv.Error as error:
        raise ResultsError(
            f"{path}, line {reader.line_num} is not a line of a CSV file ({error}). {_REMEDY}"
        ) from error
    return found


def _check_headings(path: Path, headings: tuple[str, ...]) -> None:
    if EPOCH not in headings:
        raise ResultsError(f"{path} has no column '{EPOCH}'. Give the results.csv of a training run.")
    for index, heading in enumerate(headings):
        if heading and heading in headings[:index]:
            raise ResultsError(
                f"{path} has the heading '{heading}' twice, in columns {headings.index(heading) + 1} and {index + 1}. "
                "Rename or delete one of the two columns."
            )


def _row(path: Path, line: int, headings: tuple[str, ...], cells: list[str]) -> tuple[float, ...]:
    if len(cells) < len(headings) and _is_untrained(headings, cells):
        cells = [*cells, *[""] * (len(headings) - len(cells))]
    if len(cells) != len(headings):
        raise ResultsError(
            f"{path}, line {line} has {len(cells)} cells, the first line {len(headings)} headings: which number "
            f"belongs to which heading is unknown. {_REMEDY}"
        )
    for heading, cell in zip(headings, cells, strict=True):
        if cell and not _NUMBER.fullmatch(cell):
            raise ResultsError(f"{path}, line {line} is not a row of numbers ('{heading}' is {cell[:40]!r}). {_REMEDY}")
    row = tuple(float(cell or "nan") for cell in cells)
    epoch = row[headings.index(EPOCH)]
    if not (epoch >= 0 and epoch.is_integer()):
        given = cells[headings.index(EPOCH)] or "empty"
        raise ResultsError(f"{path}, line {line} has the epoch {given}, which is not a whole number from 0. {_REMEDY}")
    return row
