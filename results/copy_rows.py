"""Copies the rows of a study's finished trainings: ``python results/copy_rows.py STUDY_FOLDER results/NAME``."""

from __future__ import annotations

import sys
from pathlib import Path

from qreg_yolo.io import records


def main(study: Path, out: Path) -> None:
    """Writes ``records.csv`` of all finished trainings, and ``training/<run>.csv``, the epochs of each.

    The study's folder is called ``STUDY`` in the commands.
    """
    done = sorted(path.parent for path in study.glob(f"trainings/*/{records.FILE}"))
    if not done:
        sys.exit(f"'{study}' has no finished training.")
    tables = [(run / records.FILE).read_text(encoding="utf-8").splitlines(keepends=True) for run in done]
    rows = [line for table in tables for line in table[1:]]
    text = "".join([*tables[0][:1], *rows]).replace(str(study.resolve()), "STUDY")
    (out / "training").mkdir(parents=True, exist_ok=True)
    (out / records.FILE).write_text(text, encoding="utf-8")
    for run in done:
        (out / "training" / f"{run.name}.csv").write_bytes((run / "results.csv").read_bytes())
    print(f"{len(done)} trainings, {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
