"""Trains the demo set at several widths, methods and precisions, three seeds each; tables the last epoch's accuracy.

    python results/demo/study.py --project runs/demo-study --jobs 2

Runs that are finished are not run again. Writes ``records.csv`` and the three tables beside this file: widths (LSQ),
methods (LSQ and LSQ+ at 4 and 2 bits), precision (float32 and bfloat16 training, in fp32 and at 4 bits).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import polars as pl

from qreg_yolo.io import records
from qreg_yolo.quant import QuantSpec

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
METRICS = ("map50", "map50_95", "val_box_loss")


class Cell(NamedTuple):
    """One row of a table: what is trained, whatever the seed."""

    method: str
    bits: int
    amp: str = "off"

    @property
    def precision(self) -> str:
        """The records' name of the arithmetic that ``amp`` gives on the CPU."""
        return "fp32" if self.amp == "off" else self.amp

    @property
    def width(self) -> str:
        """The width as a reader knows it."""
        return "fp32" if self.bits == 32 else str(self.bits)


class Table(NamedTuple):
    """A table's rows, and what stands in front of their numbers."""

    name: str
    header: tuple[str, ...]
    label: Callable[[Cell], tuple[str, ...]]
    cells: tuple[Cell, ...]


TABLES = (
    Table("widths", ("bits (W and A)",), lambda c: (c.width,), tuple(Cell("lsq", b) for b in (32, 8, 4, 2))),
    Table(
        "methods",
        ("bits (W and A)", "method"),
        lambda c: (c.width, c.method),
        tuple(Cell(method, bits) for bits in (4, 2) for method in ("lsq", "lsq+")),
    ),
    Table(
        "precision",
        ("bits (W and A)", "training in"),
        lambda c: (c.width, c.precision),
        tuple(Cell("lsq", bits, amp) for bits in (32, 4) for amp in ("off", "bf16")),
    ),
)


def run_one(project: Path, cell: Cell, seed: int, threads: int) -> Path:
    """Returns the folder of one run, training it unless its records are there."""
    label = QuantSpec(method=cell.method, weight_bits=cell.bits, act_bits=cell.bits).label
    folder = project / f"{label}-{cell.precision}-s{seed}"
    if not (folder / "records.csv").exists():
        command = [
            sys.executable, "-m", "qreg_yolo", "train", "--bits", str(cell.bits), "--method", cell.method,
            "--amp", cell.amp, "--seed", str(seed), "--threads", str(threads), f"project={project}",
            f"name={folder.name}", "exist_ok=true",
        ]  # fmt: skip
        with (project / f"{folder.name}.log").open("w") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder


def markdown(table: Table, frame: pl.DataFrame) -> str:
    """Returns a table: mean and sample standard deviation over the seeds, last epoch."""
    columns = [*table.header, "n", "mAP50", "sd", "mAP50-95", "sd", "val box loss", "sd"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    last = frame.filter(pl.col("run_id").str.contains("-last-"))
    for cell in table.cells:
        method = "fp32" if cell.bits == 32 else cell.method
        trained = last.filter(split="train", method=method, weight_bits=cell.bits, precision=cell.precision)["run_id"]
        rows = last.filter(pl.col("run_id").is_in(trained.unique().to_list()))
        numbers = []
        for metric in METRICS:
            values = rows.filter(metric=metric)["value"].to_list()
            numbers += [f"{mean(values):.4f}", f"{stdev(values):.4f}"]
        lines.append(f"| {' | '.join([*table.label(cell), str(rows['seed'].n_unique()), *numbers])} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, then writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path("runs/demo-study"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    arguments = parser.parse_args()
    project = arguments.project.absolute()
    project.mkdir(parents=True, exist_ok=True)
    cells = dict.fromkeys(cell for table in TABLES for cell in table.cells)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(run_one, project, cell, seed, arguments.threads) for seed in SEEDS for cell in cells]
        folders = [job.result() for job in jobs]
    frame = pl.concat([records.read(folder / "records.csv") for folder in folders])
    shown = pl.col("command").str.replace_all(str(project), arguments.project.name, literal=True)
    frame.with_columns(shown).write_csv(HERE / "records.csv")
    for table in TABLES:
        text = markdown(table, frame)
        (HERE / f"{table.name}.md").write_text(text + "\n", encoding="utf-8")
        print(f"{table.name}\n{text}\n")


if __name__ == "__main__":
    main()
