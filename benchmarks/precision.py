"""Times a training step of YOLOv5n (forward and backward) in float32 and bfloat16 on the CPU, float and quantized.

    python benchmarks/precision.py
    python benchmarks/precision.py --batch 4 --threads 1 --rounds 31

``fp32`` is Ultralytics' way (channels first); ``channels last`` and ``bf16`` are what `qreg-yolo train` does on the CPU
with ``--amp off`` and ``--amp bf16``. Every way runs once a round; the ratio is the median of those within the rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time

import torch
import ultralytics  # noqa: F401 - its import sets the threads; ours come after it
from models import TASKS, Task, ours, step
from report import cpu_model, load_average
from torch import Tensor, nn

from qreg_yolo.detect.precision import in_bf16
from qreg_yolo.io.records import provenance
from qreg_yolo.training.environment import cpu_has_bf16

WAYS = ("fp32", "channels last", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=320, help="pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(args.batch, 3, args.imgsz, args.imgsz, generator=generator)
    before = load_average()
    seconds = measure(images, args.warmup, args.rounds)
    origin = provenance()
    print(f"# YOLOv5n, batch {args.batch} at {args.imgsz} px, forward and backward\n")
    hardware = "with" if cpu_has_bf16() else "without"
    print(f"- machine: {cpu_model()} {hardware} bfloat16 hardware, {args.threads} threads; torch {torch.__version__}")
    print(f"- load average: {before} at the start, {load_average()} at the end; {args.rounds} rounds")
    print(f"- commit {origin['commit']}; {origin['command']}; {origin['time']}\n")
    print(markdown(seconds, args.batch))


def measure(images: Tensor, warmup: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Returns the seconds of each round by (network, way)."""
    task = dataclasses.replace(TASKS["yolov5n"], batch=lambda: images)
    variants = {(net, way): build(task, net, way) for net in ("fp32 network", "W4A4") for way in WAYS}
    seconds: dict[tuple[str, str], list[float]] = {variant: [] for variant in variants}
    nhwc = images.contiguous(memory_format=torch.channels_last)
    for number in range(warmup + rounds):
        for variant, model in variants.items():
            model.zero_grad(set_to_none=True)
            start = time.perf_counter()
            step(task, model, images if variant[1] == "fp32" else nhwc)
            if number >= warmup:
                seconds[variant].append(time.perf_counter() - start)
    return seconds


def build(task: Task, net: str, way: str) -> nn.Module:
    model = ours(task) if net == "W4A4" else task.build()
    if way != "fp32":
        model.to(memory_format=torch.channels_last)
    if way == "bf16":
        forward = model.forward
        model.forward = lambda image: in_bf16(forward, image)
    return model


def markdown(seconds: dict[tuple[str, str], list[float]], batch: int) -> str:
    lines = ["| network | way | ms | images/s | x faster than fp32 (quartiles) |", "|---|---|--:|--:|--:|"]
    for (net, way), own in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds[net, "fp32"], own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        median = statistics.median(own)
        lines.append(
            f"| {net} | {way} | {median * 1e3:.0f} | {batch / median:.1f} | **{middle:.2f}** ({low:.2f}-{high:.2f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
