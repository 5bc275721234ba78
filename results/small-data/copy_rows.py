"""Copies the rows of a study's finished trainings next to this file: ``python copy_rows.py STUDY_FOLDER``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from qreg_yolo.io import records

HERE = Path(__file__).parent


def main(study: Path) -> None:
    """Writes ``records.csv`` of all finished trainings, and ``training/<run>.csv``, the epochs of each."""
    done = sorted(path.parent for path in study.glob(f"trainings/*/{records.FILE}"))
    if not done:
        sys.exit(f"'{study}' has no finished training.")
    tables = [(run / records.FILE).read_text(encoding="utf-8").splitlines(keepends=True) for run in done]
    rows = [line for table in tables for line in table[1:]]
    (HERE / records.FILE).write_text("".join([*tables[0][:1], *rows]), encoding="utf-8")
    (HERE / "training").mkdir(exist_ok=True)
    for run in done:
        shutil.copy(run / "results.csv", HERE / "training" / f"{run.name}.csv")
    print(f"{len(done)} trainings, {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
