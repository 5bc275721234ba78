"""Collects reports of ``qreg-yolo noise --against TWIN`` into one table, a row per network and kind of weights.

python results/noise/collect.py runs/noise/*/noise.json > results/noise/networks.csv
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

TERMS = ("predicted", "shift", "gaussian", "remainder", "quantization")


def main() -> None:
    """Writes the table to standard output: ratios to the baseline with 95 % intervals, and the rise of each loss."""
    header = ["report", "network", "seed", "weights", "sigma2 / Var w"]
    for norm in ("gradient_norm", "relative_norm"):
        header += [f"{norm} ratio", f"{norm} lo", f"{norm} hi"]
    header += [
        "loss",
        "without",
        *(f"{term}{end}" for term in TERMS for end in ("", " lo", " hi")),
        "draws",
        "images",
        "commit",
    ]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(header)
    for path in map(Path, sorted(sys.argv[1:])):
        report = json.loads(path.read_text(encoding="utf-8"))
        if "against" not in report:  # a baseline itself
            continue
        seed = re.search(r"-s(\d+)/", report["weights"])
        for row, ratio in zip(report["rows"], report["against"]["rows"], strict=True):
            kind = "w_q" if row["trained"] else "own float weights"
            start = [path.parent.name, report["label"], seed and seed[1], kind, f"{row['ratio']:.4g}"]
            for norm in ("gradient_norm", "relative_norm"):
                start += [f"{ratio[norm][end]:.3f}" for end in ("value", "lo", "hi")]
            end = [report["draws"], report["n_images"], report["commit"][:7]]
            for loss, found in row["losses"].items() or [("", None)]:
                terms = [
                    f"{found[term][end]:.4g}" if found and found[term][end] is not None else ""
                    for term in TERMS
                    for end in ("value", "lo", "hi")
                ]
                writer.writerow([*start, loss, f"{found['loss']:.4g}" if found else "", *terms, *end])


if __name__ == "__main__":
    main()
