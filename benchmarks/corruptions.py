"""Times the 19 corruptions, one thread, against imagecorruptions-imaug on real photographs.

python benchmarks/corruptions.py VOCdevkit/VOC2007/JPEGImages --check
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and numba are loaded

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from qreg_yolo.corrupt import NAMES, SEVERITIES, corrupt  # noqa: E402
from qreg_yolo.io.records import provenance  # noqa: E402

SUM_RATIO = 8.0
"""How many times faster the sum of the 19 has to be."""
SLOWEST = 1 / 1.1
"""No corruption may be more than 10 % slower."""
Side = Callable[[np.ndarray, str, int, int], object]


def main() -> int:
    args = parse_args()
    cv2.setNumThreads(1)
    photographs = load(args.folder, args.images)
    sides = {"peer": peer(), "ours": ours}
    lines = settings(args, photographs)
    rounds = measure(sides, photographs, args)
    table, failures = report(rounds, args.names)
    print("\n".join([*lines, f"- load average at the end: {load_average()}", "", *table, ""]))
    for failure in failures:
        print(f"limit exceeded: {failure}")
    return 1 if args.check and failures else 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of photographs (.jpg)")
    parser.add_argument("--images", type=int, default=8, help="how many, spread evenly over the sorted folder")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds, after one to warm up")
    parser.add_argument("--severity", type=int, choices=SEVERITIES, default=3)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is exceeded")
    return parser.parse_args()


def load(folder: Path, count: int) -> list[np.ndarray]:
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        sys.exit(f"No .jpg in {folder}: name a folder of photographs, such as VOCdevkit/VOC2007/JPEGImages.")
    chosen = paths[:: max(1, len(paths) // count)][:count]
    pictures: list[Any] = [cv2.imread(str(path)) for path in chosen]
    return [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]


def peer() -> Side:
    warnings.simplefilter("ignore")  # its own, on every call
    try:
        import imagecorruptions
    except ImportError as error:
        sys.exit(f"The peer is missing ({error}): pip install -e '.[oracle]'.")
    return lambda image, name, severity, _: imagecorruptions.corrupt(image, severity, name)


def ours(image: np.ndarray, name: str, severity: int, key: int) -> np.ndarray:
    return corrupt(image, name, severity, key=str(key))


def measure(
    sides: dict[str, Side], photographs: list[np.ndarray], args: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Returns peer -> corruption -> ms per image of each round; who goes first alternates."""
    times: dict[str, dict[str, list[float]]] = {who: {n: [] for n in args.names} for who in sides}
    for turn in range(args.rounds + 1):
        for name in args.names:
            order = list(sides) if turn % 2 else list(sides)[::-1]
            for who in order:
                start = time.perf_counter()
                for key, image in enumerate(photographs):
                    sides[who](image, name, args.severity, key)
                if turn:
                    times[who][name].append(1e3 * (time.perf_counter() - start) / len(photographs))
    return times


def report(times: dict[str, dict[str, list[float]]], names: list[str]) -> tuple[list[str], list[str]]:
    """Returns the table and the limits exceeded."""
    sums = {who: {"sum": [sum(row) for row in zip(*t.values(), strict=True)]} for who, t in times.items()}
    table = ["| corruption | peer ms | ours ms | ratio (quartiles) |", "|---|--:|--:|--:|"]
    failures = []
    for name, source in [*((n, times) for n in names), ("sum", sums)]:
        slow, fast = source["peer"][name], source["ours"][name]
        ratios = [p / o for p, o in zip(slow, fast, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        medians = f"{statistics.median(slow):.2f} | {statistics.median(fast):.2f}"
        table.append(f"| {name} | {medians} | **{ratio:.1f}** ({low:.1f}-{high:.1f}) |")
        limit = SUM_RATIO if name == "sum" else SLOWEST
        if ratio < limit and (name != "sum" or len(names) == len(NAMES)):
            failures.append(f"{name}: {ratio:.2f} times the peer's speed, at least {limit:.2f} is asked for")
    return table, failures


def settings(args: argparse.Namespace, photographs: list[np.ndarray]) -> list[str]:
    packages = ("imagecorruptions-imaug", "numpy", "numba", "scikit-image", "scipy", "pillow")
    origin: dict[str, Any] = dict(provenance())
    sizes = sorted({f"{p.shape[1]}x{p.shape[0]}" for p in photographs})
    return [
        f"# The 19 corruptions at severity {args.severity}, one thread, ms per image",
        "",
        f"- machine: {platform.machine()}, {os.cpu_count()} logical cores, {platform.platform()}",
        f"- versions: {', '.join(f'{p} {version(p)}' for p in packages)}, OpenCV {cv2.__version__}",
        f"- photographs: {len(photographs)}, {', '.join(sizes)} px; rounds: {args.rounds} after one to warm up",
        f"- commit: {origin['commit']}",
        f"- time: {origin['time']}",
        f"- load average at the start: {load_average()}",
    ]


def load_average() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
