"""Cost of a compiled training step with quantization, times compiled fp32, in the trainer's own loop.

    python benchmarks/compiled_training.py                   # W4A4 LSQ beside fp32, the demo set, 320 px, batch 16
    python benchmarks/compiled_training.py --repeats 5 --bits 8

Each repeat trains both networks with ``compile=True``, each in a process of its own, the order changing from one repeat
to the next. A step is what lies between Ultralytics' two callbacks of a batch: images to floats, forward,
loss, backward, clipping, optimizer and EMA; loading is not part of it. The first epoch, which compiles, is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from qreg_yolo.io.records import provenance

FP32 = 32


def steps(bits: int, arguments: argparse.Namespace) -> list[float]:
    """Returns the seconds of each training step after the first epoch."""
    from ultralytics.utils import LOGGER

    from qreg_yolo.datasets.demo.write import ensure_demo_data
    from qreg_yolo.detect import QuantYOLO

    LOGGER.setLevel("ERROR")
    started = 0.0
    seconds: list[float] = []

    def start(_: Any) -> None:
        nonlocal started
        started = time.perf_counter()

    def end(trainer: Any) -> None:
        if trainer.epoch > 0:
            seconds.append(time.perf_counter() - started)

    model = QuantYOLO("yolov5n.yaml")
    model.add_callback("on_train_batch_start", start)
    model.add_callback("on_train_batch_end", end)
    with tempfile.TemporaryDirectory() as folder:
        model.train(
            data=str(ensure_demo_data()), qreg={"bits": bits}, epochs=arguments.epochs, imgsz=arguments.imgsz,
            batch=arguments.batch, nbs=arguments.batch, compile=True, val=False, plots=False, verbose=False,
            optimizer="SGD", pretrained=False, project=folder, name="run",
        )  # fmt: skip
    return seconds


def in_process(bits: int, arguments: argparse.Namespace) -> list[float]:
    """Runs `steps` in a process of its own."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("epochs", "imgsz", "batch")]
    command = [sys.executable, __file__, f"--steps-of={bits}", *sizes]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured: list[float] = json.loads(output.splitlines()[-1])
    return measured


def report(medians: dict[int, list[float]], count: int, arguments: argparse.Namespace) -> str:
    """Returns the table: each repeat's median step of both networks, and their ratio."""
    where = provenance()
    quantized = medians[arguments.bits]
    ratios = [q / fp for q, fp in zip(quantized, medians[FP32], strict=True)]
    lines = [
        f"YOLOv5n, W{arguments.bits}A{arguments.bits} LSQ (first and last layers 8 bits) beside fp32, both with "
        f"`compile=True`, {arguments.imgsz} px, batch {arguments.batch}, {count} steps per repeat and network",
        "",
        f"commit {where['commit']}; {where['versions']}; {where['command']}",
        "",
        "| repeat | fp32, median ms | quantized, median ms | ratio |",
        "|--:|--:|--:|--:|",
    ]
    for number, (fp, q, ratio) in enumerate(zip(medians[FP32], quantized, ratios, strict=True), 1):
        lines.append(f"| {number} | {1000 * fp:.1f} | {1000 * q:.1f} | {ratio:.3f} |")
    lines.append(f"| **median** | | | **{statistics.median(ratios):.3f}** ({min(ratios):.3f}-{max(ratios):.3f}) |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps-of", type=int, help=argparse.SUPPRESS)  # what a process measures
    arguments = parser.parse_args()
    if arguments.steps_of:
        print(json.dumps(steps(arguments.steps_of, arguments)))
        return
    medians: dict[int, list[float]] = {FP32: [], arguments.bits: []}
    count = 0
    for number in range(arguments.repeats):
        for bits in sorted(medians, reverse=number % 2 == 0):
            measured = in_process(bits, arguments)
            count = len(measured)
            medians[bits].append(statistics.median(measured))
            print(f"repeat {number + 1}: {bits} bits {1000 * medians[bits][-1]:.1f} ms", file=sys.stderr, flush=True)
    print(report(medians, count, arguments))


if __name__ == "__main__":
    main()
