"""A table of estimates, and its forms: terminal text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qreg_yolo import terminal


@dataclass(frozen=True)
class Estimate:
    """A number, its scatter over seeds, and its interval over images; nan: not measured."""

    value: float
    sd: float = math.nan
    """Standard deviation over seeds (n - 1); nan for one seed."""
    n: int = 1
    """Seeds."""
    lo: float = math.nan
    hi: float = math.nan
    """Ends of the 95 % interval; nan without per-image files."""

    @property
    def sign_is_open(self) -> bool:
        """Whether the interval exists and holds 0."""
        return self.lo <= 0 <= self.hi


Entry = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table before it has a format."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...]
    """Explanations, gaps and warnings."""
    digits: int = 2
    """Decimals of a number for reading."""
    digits_of: Mapping[str, int] = field(default_factory=dict)
    """Name of a column -> the same where it has others."""


EMPTY = "-"
"""Text of an entry that was not measured."""
_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
_LATEX |= {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


def entry_text(entry: Entry, digits: int = 2) -> str:
    """Returns an entry for reading: ``-1.23 ± 0.10 [-2.00, -0.40]``, or a dash where nothing was measured."""
    if isinstance(entry, str):
        return entry
    if math.isnan(entry.value):
        return EMPTY
    text = f"{entry.value:.{digits}f}"
    if not math.isnan(entry.sd):
        text += f" ± {entry.sd:.{digits}f}"
    return text if math.isnan(entry.lo) else f"{text} [{entry.lo:.{digits}f}, {entry.hi:.{digits}f}]"


def _texts(table: Table) -> list[list[str]]:
    """Returns the rows for reading."""
    digits = [table.digits_of.get(name, table.digits) for name in table.header]
    return [[entry_text(*pair) for pair in zip(row, digits, strict=True)] for row in table.rows]


def to_text(table: Table) -> str:
    """Returns the table for a terminal: columns aligned, numbers to the right, notes below."""
    left = [i for i, entry in enumerate((table.rows or [table.header])[0]) if isinstance(entry, str)]
    lines = terminal.table([table.header, *_texts(table)], left)
    return "\n".join([table.title, "", *lines, "", *table.notes])


def to_markdown(table: Table) -> str:
    """Returns the table as GitHub-flavoured Markdown."""
    rows = [[text.replace("|", r"\|") for text in row] for row in _texts(table)]
    rule = ["---:" if rows and isinstance(entry, Estimate) else "---" for entry in (table.rows or [table.header])[0]]
    lines = [f"| {' | '.join(row)} |" for row in (table.header, rule, *rows)]
    return "\n".join([f"**{table.title}**", "", *lines, "", *(f"- {note}" for note in table.notes)])


def to_csv(table: Table) -> str:
    """Returns the table as CSV at full precision: a number takes the columns value, sd, lo and hi; empty: not there."""
    numbers = [bool(table.rows) and isinstance(entry, Estimate) for entry in (table.rows or [table.header])[0]]
    header: list[str] = []
    for name, is_number in zip(table.header, numbers, strict=True):
        header += [name, f"{name} sd", f"{name} lo", f"{name} hi"] if is_number else [name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        cells: list[str] = []
        for entry in row:
            numbers_of = [entry] if isinstance(entry, str) else [entry.value, entry.sd, entry.lo, entry.hi]
            cells += [x if isinstance(x, str) else "" if math.isnan(x) else repr(x) for x in numbers_of]
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def to_latex(table: Table) -> str:
    """Returns the table as a LaTeX ``tabular`` (package booktabs), the notes as comments above it."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(sign, sign) for sign in text)

    def line(texts: Sequence[str], entries: Sequence[Entry]) -> str:
        pairs = zip(texts, entries, strict=True)
        return " & ".join(_minus(escaped(text), entry) for text, entry in pairs) + r" \\"

    spec = "".join("r" if isinstance(entry, Estimate) else "l" for entry in (table.rows or [table.header])[0])
    lines = [f"% {note}" for note in (table.title, *table.notes)]
    lines += [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", line(table.header, table.header), r"\midrule"]
    return "\n".join([*lines, *map(line, _texts(table), table.rows), r"\bottomrule", r"\end{tabular}"])


def _minus(text: str, entry: Entry) -> str:
    """Returns a number with LaTeX's minus signs; a word's hyphens stay."""
    return text if isinstance(entry, str) or text == EMPTY else text.replace("-", "$-$")


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "csv": to_csv,
    "latex": to_latex,
}
"""Name of a format -> its function."""
