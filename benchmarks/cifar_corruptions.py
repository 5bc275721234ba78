"""Times the generation of CIFAR's corrupted test images: all 19 corruptions at all five severities, nothing written.

python benchmarks/cifar_corruptions.py cifar-10-batches-py --workers 0 2 --check

The images are made as ``qreg-yolo classify robustness`` makes them: batch by batch, in this process or in workers.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from qreg_yolo.corrupt import NAMES, PRESETS, SEVERITIES
from qreg_yolo.datasets.cifar import LabelledImages, cifar_in, read_cifar
from qreg_yolo.datasets.corrupted.cifar import Chunk, corrupt_chunk
from qreg_yolo.datasets.corrupted.pool import run_ordered
from qreg_yolo.io.records import provenance

LIMIT_S = 300.0
"""Seconds that the whole may take."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="cifar-10-batches-py or cifar-100-python")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes; 0: this one")
    parser.add_argument("--preset", choices=list(PRESETS), default="cifar32")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--check", action="store_true", help="exit 1 where the limit is exceeded by every number")
    args = parser.parse_args()
    test = read_cifar(str(cifar_in(args.folder)), args.folder, "test")
    origin = provenance()
    print(
        f"- machine: {platform.machine()}, {os.cpu_count()} logical cores; NumPy {np.__version__}, "
        f"OpenCV {cv2.__version__}\n- {len(test.keys)} images x {len(NAMES)} corruptions x {len(SEVERITIES)} "
        f"severities, preset {args.preset}, batches of {args.batch}\n"
        f"- commit {origin['commit']}; {origin['command']}; {origin['time']}\n"
        "\n| worker processes | seconds | images per second | load average before |\n|--:|--:|--:|--:|"
    )
    times = []
    for workers in args.workers:
        load = os.getloadavg()[0]
        start = time.perf_counter()
        made = generate(test, args.preset, args.batch, workers)
        times.append(time.perf_counter() - start)
        print(f"| {workers} | {times[-1]:.1f} | {made / times[-1]:,.0f} | {load:.2f} |", flush=True)
    return 1 if args.check and min(times) > LIMIT_S else 0


def generate(test: LabelledImages, preset: str, batch: int, workers: int) -> int:
    """Makes every image; returns how many that were."""
    function = partial(corrupt_chunk, seed=0, preset=preset, frost=None)
    with closing(run_ordered(function, chunks(test, batch), workers)) as parts:
        return sum(len(part) for part in parts)


def chunks(test: LabelledImages, batch: int) -> Iterator[Chunk]:
    for name in NAMES:
        for severity in SEVERITIES:
            for start in range(0, len(test.keys), batch):
                part = slice(start, start + batch)
                yield Chunk(test.images[part], test.keys[part], name, severity)


if __name__ == "__main__":
    sys.exit(main())
