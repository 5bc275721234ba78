"""Writes the golden statistics from the peer's output (never from ours): `python tests/corrupt/golden.py`.

Needs `pip install imagecorruptions-imaug` (extra `oracle`); the versions stand in the file.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from qreg_yolo.corrupt.spec import DETERMINISTIC_NAMES, NAMES, SEVERITIES
from tests.corrupt.synthetic_images import IMAGES

FILE = Path(__file__).parent / "golden.json"
DRAWS = 24
SKIPPED = ("frost",)  # it blends in photographs that are not ours to ship; its arithmetic is tested on its own


def psnr(noisy: np.ndarray, clean: np.ndarray) -> float:
    """Returns dB, 99 for equal images."""
    error = np.mean((noisy.astype(np.float64) - clean) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


def statistics(draws: list[np.ndarray], clean: np.ndarray) -> list[float]:
    """Returns mean, sd over draws of the mean, std, sd of it, PSNR, sd of it: over the draws of one corruption."""
    rows = np.array([(d.mean(), d.std(), psnr(d, clean)) for d in draws])
    return [round(float(v), 4) for pair in zip(rows.mean(0), rows.std(0), strict=True) for v in pair]


def main() -> None:
    import imagecorruptions

    table: dict[str, dict[str, list[list[float]]]] = {}
    for name in [n for n in NAMES if n not in SKIPPED]:
        count = 1 if name in DETERMINISTIC_NAMES else DRAWS
        np.random.seed(0)  # noqa: NPY002 - the peer draws from the global generator
        table[name] = {}
        for title, make in IMAGES.items():
            clean = make()
            draws = ([imagecorruptions.corrupt(clean, s, name) for _ in range(count)] for s in SEVERITIES)
            table[name][title] = [statistics(d, clean) for d in draws]
    versions = {p: version(p) for p in ("imagecorruptions-imaug", "numpy", "opencv-python", "scikit-image", "scipy")}
    head = {"columns": "mean, sd, std, sd, PSNR, sd", "draws": DRAWS, "versions": versions}
    lines = [f" {json.dumps(name)}: {json.dumps(rows)}" for name, rows in table.items()]
    body = ",\n".join(lines)
    FILE.write_text(f'{{\n"about": {json.dumps(head)},\n"table": {{\n{body}\n}}\n}}\n')


if __name__ == "__main__":
    main()
