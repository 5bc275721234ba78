"""Images per second of ResNet20 training: this project's loop against a plain torchvision DataLoader loop.

    python benchmarks/classifier.py --check              # the built-in set, 5 rounds
    python benchmarks/classifier.py --compile --check    # the compiled peers too (minutes before the first round)
    python benchmarks/classifier.py --data-dir DIR       # CIFAR-10's images instead

Each peer is a process of its own; in every round each trains one epoch of the same images, in an order that
moves on by one: loading, crops and flips, forward, backward and the optimizer's step. The plain loop is the one of
PyTorch's own tutorials: PIL images, `RandomCrop(32, 4)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize`, and SGD,
without and with two worker processes. bfloat16 is left out on a CPU that would emulate it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from report import cpu_model, load_average
from rounds import alternate, serve
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from qreg_yolo.classify.checkpoint import Progress
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.datasets import load_split
from qreg_yolo.classify.models import build_model
from qreg_yolo.classify.network import calibrate_network, quantize_network
from qreg_yolo.classify.processes import Processes
from qreg_yolo.classify.train import Run, build_optimizer, train_epoch
from qreg_yolo.config.classification import resolve
from qreg_yolo.io.records import provenance
from qreg_yolo.training.environment import cpu_has_bf16, keep_freed_memory

BATCH = 128
PLAIN = "plain, {} workers"
WIDTHS = {"fp32": 32, "W4A4": 4}
Epoch = Callable[[int], None]
"""Trains one epoch, the number of which is given."""
LIMITS = (
    ("ours fp32", "fastest plain", 1 / 1.5),
    ("ours W4A4", "ours fp32", 1.35),
    ("ours W4A4 compiled", "ours fp32 compiled", 1.10),
)
"""(peer, compared with, largest ratio of their times)"""


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Single images with torchvision's transforms, as the tutorials have them."""

    def __init__(self, data: ImageSet) -> None:
        from torchvision import transforms

        self.images = data.images.numpy()
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]  # as torchvision's CIFAR10 does


def plain(data: ImageSet, workers: int, device: torch.device) -> Epoch:
    """Returns the epoch of a plain loop."""
    model = build_model("resnet20", len(data.classes), 0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        Pictures(data), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )  # fmt: skip

    def epoch(number: int) -> None:
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


def ours(data: ImageSet, bits: int, amp: str, compiled: bool, device: torch.device) -> Epoch:
    """Returns the epoch of this project's loop."""
    config, _ = resolve(None, {"bits": bits, "amp": amp, "batch": BATCH, "lr0": 0.01}, {})
    model = build_model("resnet20", len(data.classes), 0)
    quantize_network(model, config.quant, pretrained=False)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = data.to(device)
    calibrate_network(model, train, config, BATCH)
    precision = "bf16" if amp == "bf16" else "fp32"
    run = Run(
        config=config, model=model, train=train, val=train, precision=precision, processes=Processes(),
        progress=Progress(),
    )  # fmt: skip
    optimizer = build_optimizer(config, model)
    if compiled:
        model.compile(dynamic=False)
    return lambda number: (train_epoch(run, optimizer, number, lambda *_: None), None)[1]


def peer_names(compiled: bool, bf16: bool) -> list[str]:
    """Returns who takes part."""
    precisions = ["", " bf16"] if bf16 else [""]
    modes = ["", " compiled"] if compiled else [""]
    kinds = [precision + mode for mode in modes for precision in precisions]
    return [PLAIN.format(workers) for workers in (0, 2)] + [f"ours {bits}{k}" for k in kinds for bits in WIDTHS]


def build(name: str, arguments: argparse.Namespace) -> Epoch:
    """Returns a peer's epoch, set up as its process's only one."""
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(arguments.device)
    data = images(arguments)
    if not name.startswith("ours"):
        return finished(plain(data, next(w for w in (0, 2) if name == PLAIN.format(w)), device), device)
    compiled = name.endswith("compiled")
    if device.type == "cpu":
        keep_freed_memory()
    bits = next(bits for label, bits in WIDTHS.items() if label in name)
    return finished(ours(data, bits, "bf16" if "bf16" in name else "off", compiled, device), device)


def finished(epoch: Epoch, device: torch.device) -> Epoch:
    """Returns the epoch, which then ends when the device has done its work."""

    def run(number: int) -> None:
        epoch(number)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def images(arguments: argparse.Namespace) -> ImageSet:
    """Returns the images of a round."""
    data = load_split("cifar10" if arguments.data_dir else "demo", "train", arguments.data_dir, verify=True)
    count = min(arguments.steps, len(data) // BATCH) * BATCH
    return replace(data, images=data.images[:count], labels=data.labels[:count])


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float | None:
    """Returns the median of the per-round ratios of two peers' times."""
    if name not in seconds or base not in seconds:
        return None
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def report(seconds: dict[str, list[float]], steps: int, settings: dict[str, str]) -> tuple[str, list[str]]:
    """Returns the table, and one line per limit that is passed."""
    lines = ["# ResNet20 training, images per second", "", *(f"- {key}: {value}" for key, value in settings.items())]
    lines += ["", "| peer | ms per step | img/s | speed, x the faster plain loop |", "|---|--:|--:|--:|"]
    for name, values in seconds.items():
        step = statistics.median(values) / steps
        speed = 1 / (ratio(seconds, name, "fastest plain") or 1.0)
        if name != "fastest plain":
            lines.append(f"| {name} | {1000 * step:.1f} | {BATCH / step:,.0f} | {speed:.2f} |")
    exceeded = []
    lines.append("")
    for name, base, limit in LIMITS:
        found = ratio(seconds, name, base)
        if found is not None:
            lines.append(f"{name}: {found:.3f}x the time of {base}, limit {limit:.2f}x")
            exceeded += [f"limit exceeded: {lines[-1]}"] if found > limit else []
    return "\n".join([*lines, *(exceeded or ["Within the limits."])]), exceeded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="folder with cifar-10-batches-py; default: the built-in set")
    parser.add_argument("--steps", type=int, default=20, help="steps per round, at most the set's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="also the compiled peers")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every round's times")
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is passed")
    parser.add_argument("--peer", help=argparse.SUPPRESS)  # what a process is
    arguments = parser.parse_args()
    if arguments.peer:
        serve(lambda: build(arguments.peer, arguments))
        return 0
    before = load_average()
    own = [sys.executable, *sys.argv, "--peer"]
    names = peer_names(arguments.compile, bf16=arguments.device != "cpu" or cpu_has_bf16())
    seconds = alternate({name: [*own, name] for name in names}, arguments.rounds)
    data = images(arguments)
    loops = [values for name, values in seconds.items() if name.startswith("plain")]
    seconds["fastest plain"] = min(loops, key=statistics.median)
    table, exceeded = report(seconds, len(data) // BATCH, settings_of(arguments, data, before))
    print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": seconds, "table": table}, indent=1) + "\n")
    return 1 if arguments.check and exceeded else 0


def settings_of(arguments: argparse.Namespace, data: ImageSet, before: str) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    origin = provenance()
    on_gpu = torch.device(arguments.device).type == "cuda"
    name = torch.cuda.get_device_name(arguments.device) if on_gpu else cpu_model()
    return {
        "machine": f"{name}, {os.cpu_count()} logical cores, {arguments.threads} threads",
        "load average": f"{before} at the start, {load_average()} at the end",
        "images": f"{data.name}, {len(data) // BATCH} steps of {BATCH} per round, median of {arguments.rounds} rounds",
        **{key: origin[key] for key in ("commit", "versions", "time", "command")},
    }


if __name__ == "__main__":
    sys.exit(main())
