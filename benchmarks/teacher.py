"""Cost of a teacher in time and memory, times a training step without one: YOLOv5n at 4 bits, an fp32 teacher.

    python benchmarks/teacher.py                                # both heads, 320 px, batch 16
    python benchmarks/teacher.py --head anchor --imgsz 160 --rounds 41

A step is forward, losses, backward and optimizer; each kind of step has a process of its own, and each round runs all
of them, in an order that moves on by one. Memory is the peak of the whole process after a few steps, less that of the
step without a teacher.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from models import BITS
from report import cpu_model, load_average
from rounds import alternate, serve
from torch import Tensor
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import DEFAULT_CFG

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.distillation import Distiller
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.teacher import Teacher
from qreg_yolo.io.records import provenance
from qreg_yolo.quant import calibrate

KINDS: dict[str, dict[str, Any] | None] = {
    "no teacher": None,
    "logits": {"losses": "logits"},
    "features": {"losses": "features"},
    "both": {"losses": "both"},
    "both, projector": {"losses": "both", "projector": True},
}
STEPS = 5
"""Steps before the peak of memory is read."""


def network(bits: int, head: str) -> Any:
    """Returns YOLOv5n, always with the same weights."""
    torch.manual_seed(0)
    description = yaml_model_load("yolov5n.yaml")
    QuantizationConfig.from_request({"bits": bits, "head": head}).write(description)
    return QuantDetectionModel(description, nc=20, verbose=False)


def batch_of(size: int, imgsz: int) -> dict[str, Tensor]:
    """Returns images with four objects each, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, imgsz, imgsz, generator=generator)
    return {
        "img": images.contiguous(memory_format=torch.channels_last),
        "batch_idx": torch.arange(float(size)).repeat_interleave(4),
        "cls": torch.randint(20, (4 * size, 1), generator=generator).float(),
        "bboxes": 0.2 + 0.4 * torch.rand(4 * size, 4, generator=generator),
    }


def build(kind: str, head: str, arguments: argparse.Namespace) -> Callable[[int], None]:
    """Returns a function that runs one training step."""
    torch.set_num_threads(arguments.threads)
    batch, student = batch_of(arguments.batch, arguments.imgsz), network(BITS, head)
    student.to(memory_format=torch.channels_last)
    student.args = deepcopy(DEFAULT_CFG)
    student.args.imgsz = arguments.imgsz
    calibrate(student, [batch["img"]])
    parameters = list(student.train().parameters())
    options = KINDS[kind]
    if options is not None:
        model = network(32, head).eval().requires_grad_(False)
        model.model[-1].training = True
        distiller = Distiller(Teacher(model, DistillOptions(teacher="fp32", **options)), student, seed=0)
        distiller.attach()
        parameters += [p for group in distiller.optimizer_groups() for p in group["params"]]
    optimizer = torch.optim.SGD(parameters, lr=1e-5, momentum=0.9)

    def step(_: int) -> None:
        loss, _items = student.loss(batch)
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def command(kind: str, head: str, arguments: argparse.Namespace, what: str) -> list[str]:
    """Returns the command line of a process of a kind."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "imgsz", "threads")]
    return [sys.executable, __file__, f"--{what}={kind}", f"--head={head}", *sizes]


def peak(kind: str, head: str, arguments: argparse.Namespace) -> float:
    """Returns the peak of a process of its own, MiB."""
    line = command(kind, head, arguments, "memory-of")
    return float(subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def table(seconds: dict[str, list[float]], peaks: dict[str, float]) -> str:
    """Returns the kinds of steps, with the median of the ratios within the rounds, in Markdown."""
    lines = ["| step | ms | times no teacher (quartiles) | more memory, MiB |", "|---|--:|--:|--:|"]
    base = seconds["no teacher"]
    for kind, own in seconds.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(own, base, strict=True)], n=4)
        more = peaks[kind] - peaks["no teacher"]
        lines.append(
            f"| {kind} | {1e3 * statistics.median(own):.0f} | **{middle:.2f}** ({low:.2f}-{high:.2f}) | {more:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints a table for each head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", nargs="+", choices=("anchor_free", "anchor"), default=["anchor_free", "anchor"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=320, help="pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # the kind of step that a process runs
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(lambda: build(arguments.serve, arguments.head[0], arguments))
        return
    if arguments.memory_of:
        step = build(arguments.memory_of, arguments.head[0], arguments)
        for number in range(STEPS):
            step(number)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    origin = provenance()
    print(f"# YOLOv5n, W{BITS}A{BITS} LSQ, batch {arguments.batch} at {arguments.imgsz} px, an fp32 teacher\n")
    print(f"- machine: {cpu_model()}, {arguments.threads} threads; torch {torch.__version__}; load {load_average()}")
    print(f"- commit {origin['commit']}; {origin['command']}; {origin['time']}")
    for head in arguments.head:
        commands = {kind: command(kind, head, arguments, "serve") for kind in KINDS}
        seconds = alternate(commands, arguments.rounds, arguments.warmup)
        print(f"\n## {head}\n\n{table(seconds, {kind: peak(kind, head, arguments) for kind in KINDS})}")


if __name__ == "__main__":
    main()
