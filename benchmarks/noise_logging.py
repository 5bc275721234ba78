"""Times what ``--log-noise`` adds to an epoch: once per epoch, against the epoch's forward and backward passes.

    python benchmarks/noise_logging.py --check

One thread, processor time, so that other processes do not count. An epoch is so many times the median step; loading,
optimizer and validation are left out, which makes the share an upper bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch
import ultralytics  # noqa: F401 - its import sets the threads; ours come after it
from models import TASKS, ours, step
from report import cpu_model, load_average
from torch import Tensor

from qreg_yolo.io.records import provenance
from qreg_yolo.quant.weight_noise import noise_columns

LIMIT = 0.01
"""Share of an epoch that logging may take."""
EPOCHS = {
    "ResNet20, demo set": ("resnet20", 64, 32, 40),
    "ResNet20, CIFAR-10": ("resnet20", 128, 32, 390),
    "YOLOv5n, demo set": ("yolov5n", 16, 128, 22),
    "YOLOv5n, VOC07 trainval at 320 px": ("yolov5n", 16, 320, 313),
}
"""Name -> network, images per step, pixels of a side, steps per epoch."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="part of a name")
    parser.add_argument("--check", action="store_true", help="exit 1 where the limit is exceeded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance()
    print(f"- machine: {cpu_model()}, 1 thread; torch {torch.__version__}; load average {load_average()}")
    print(f"- commit {origin['commit']}; {origin['command']}; {origin['time']}\n")
    print("| epoch | steps | s per step | s per epoch | logging, s | share |\n|---|--:|--:|--:|--:|--:|")
    shares = []
    for name, epoch in EPOCHS.items():
        if args.only is None or args.only in name:
            seconds, logging = measure(*epoch[:3], rounds=args.rounds)
            total = epoch[3] * seconds
            shares.append(logging / total)
            print(
                f"| {name} | {epoch[3]} | {seconds:.3f} | {total:.1f} | {logging:.4f} | {shares[-1]:.2%} |", flush=True
            )
    return 1 if args.check and max(shares) > LIMIT else 0


def measure(network: str, batch: int, size: int, *, rounds: int) -> tuple[float, float]:
    """Returns the processor seconds of one step and of one epoch's logging (medians after a round to warm up)."""
    generator = torch.Generator().manual_seed(0)
    images: Tensor = torch.rand(batch, 3, size, size, generator=generator)
    task = dataclasses.replace(TASKS[network], batch=lambda: images)
    model = ours(task)

    def one_step() -> None:
        model.zero_grad(set_to_none=True)
        step(task, model, images)

    return timed(one_step, rounds), timed(lambda: noise_columns(model, everything=True), rounds)


def timed(work: Callable[[], object], rounds: int) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
