"""Trains LSQ and LSQ+ at 4 and 2 bits on the demo set, three seeds each, and tables the last epoch's accuracy.

    python results/demo-lsqplus/study.py --project runs/demo-lsqplus --jobs 2

Runs that are finished are not run again. Writes ``records.csv`` and ``table.md`` beside this file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import polars as pl

from qreg_yolo import records
from qreg_yolo.quant import QuantSpec

HERE = Path(__file__).parent
METHODS = ("lsq", "lsq+")
WIDTHS = (4, 2)
SEEDS = (0, 1, 2)


def run_one(project: Path, method: str, bits: int, seed: int, threads: int) -> Path:
    """Returns the folder of one run, training it unless its records are there."""
    label = QuantSpec(method=method, weight_bits=bits, act_bits=bits).label
    folder = project / f"{label}-s{seed}"
    if not (folder / "records.csv").exists():
        command = [
            sys.executable, "-m", "qreg_yolo", "train", "--bits", str(bits), "--method", method, "--seed", str(seed),
            "--threads", str(threads), f"project={project}", f"name={folder.name}", "exist_ok=true",
        ]  # fmt: skip
        with (project / f"{folder.name}.log").open("w") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    return folder


def table(frame: pl.DataFrame) -> str:
    """Returns the Markdown table: mean and standard deviation over seeds, last epoch."""
    lines = [
        "| bits (W and A) | method | n | mAP50 | sd | mAP50-95 | sd | val box loss | sd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    last = frame.filter(pl.col("run_id").str.contains("-last-"))
    for bits, method in product(WIDTHS, METHODS):
        rows = last.filter((pl.col("weight_bits") == bits) & (pl.col("method") == method))
        cells = []
        for metric in ("map50", "map50_95", "val_box_loss"):
            values = rows.filter(pl.col("metric") == metric)["value"].to_list()
            cells += [f"{mean(values):.4f}", f"{stdev(values):.4f}"]
        lines.append(f"| {bits} | {method} | {rows['seed'].n_unique()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path("runs/demo-lsqplus"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    arguments = parser.parse_args()
    project = arguments.project.absolute()
    project.mkdir(parents=True, exist_ok=True)
    grid = [(method, bits, seed) for seed, bits, method in product(SEEDS, WIDTHS, METHODS)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        folders = list(pool.map(lambda cell: run_one(project, *cell, arguments.threads), grid))
    frame = pl.concat([records.read(folder / "records.csv") for folder in folders])
    frame.write_csv(HERE / "records.csv")
    (HERE / "table.md").write_text(table(frame) + "\n", encoding="utf-8")
    print(table(frame))


if __name__ == "__main__":
    main()
