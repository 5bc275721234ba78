"""Time of an epoch by part: decoding, augmentation, forward, backward, optimizer, validation, NMS.

    python benchmarks/epoch_time.py                              # the demo set, W4A4 and fp32
    python benchmarks/epoch_time.py --data voc.yaml --imgsz 160 --bits 32 --mosaic 1
    python benchmarks/epoch_time.py --cache ram --threads 1 --workers 1
    python benchmarks/epoch_time.py --bits 4 --compile           # and with --bits 32, for the ratio of the two
    python benchmarks/epoch_time.py --stock                      # Ultralytics' own trainer, as it comes

Trains two epochs in this process and reports the second: the time spent in each part itself, without the parts that it
calls. Compiled, the model's forward and loss count as "the rest of the loop". With worker processes the loading happens
there: the row "waiting for data" is what is left of it here.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.data import augment, base, dataset
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.models.yolo.detect import val as detect_val
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from qreg_yolo.datasets.demo.write import ensure_demo_data
from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.io.process import THREADS_VARIABLE
from qreg_yolo.io.records import provenance
from qreg_yolo.quant import Quantizer

REST = "the rest of the loop"


class Stopwatch:
    """Exclusive time per part: entering a part stops the clock of the one around it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.stack = [REST]
        self.since = time.perf_counter()

    def switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Counts the calls of ``owner.name`` as ``part``; within validation as part of validation."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            validating = any(entry.startswith("validation") for entry in self.stack)
            self.switch()
            self.stack.append(f"validation: {part}" if validating and not part.startswith("validation") else part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.stack.pop()

        static = isinstance(inspect.getattr_static(owner, name), staticmethod)
        setattr(owner, name, staticmethod(timed) if static else timed)


STOCK = DetectionModel, DetectionTrainer, DetectionValidator
OURS = QuantDetectionModel, QuantDetectionTrainer, QuantDetectionValidator


def instrument(watch: Stopwatch, compiled: bool, classes: tuple[type, type, type]) -> None:
    """Wraps the parts. Only this process is changed; a clock inside a compiled model would break its graph."""
    watch.wrap(base.BaseDataset, "load_image", "decode and resize")
    watch.wrap(base.BaseDataset, "get_image_and_label", "labels")
    for name in ("Mosaic", "RandomPerspective", "Albumentations", "RandomHSV", "Format", "LetterBox"):
        watch.wrap(getattr(augment, name), "__call__", f"augmentation: {name}")
    watch.wrap(dataset.YOLODataset, "collate_fn", "collate")
    watch.wrap(torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", "waiting for data")
    model, trainer, validator = classes
    if not compiled:
        watch.wrap(model, "loss", "loss")
        watch.wrap(model, "_predict_once", "forward")
        for quantizer in Quantizer.__subclasses__():
            watch.wrap(quantizer, "forward", "forward: quantizers")
    watch.wrap(torch.Tensor, "backward", "backward")
    watch.wrap(trainer, "optimizer_step", "optimizer, clipping, EMA")
    watch.wrap(trainer, "save_model", "checkpoint")
    watch.wrap(validator, "__call__", "validation: the rest")
    watch.wrap(detect_val.nms, "non_max_suppression", "NMS")


def measure(arguments: argparse.Namespace) -> tuple[dict[str, float], int, int]:
    """Returns the seconds per part of the second epoch, and how many images it trained on and validated."""
    watch = Stopwatch()
    taken: dict[str, float] = {}
    sizes: list[int] = []

    def start(trainer: DetectionTrainer) -> None:
        if trainer.epoch == 1:
            watch.switch()
            watch.seconds.clear()

    def end(trainer: DetectionTrainer) -> None:
        if trainer.epoch == 1 and not taken:
            watch.switch()
            taken.update(watch.seconds)
            sizes[:] = [len(trainer.train_loader.dataset), len(trainer.test_loader.dataset)]

    instrument(watch, arguments.compile, STOCK if arguments.stock else OURS)
    model = YOLO(arguments.model) if arguments.stock else QuantYOLO(arguments.model)
    quantization = {} if arguments.stock else {"qreg": {"bits": arguments.bits}}
    model.add_callback("on_train_epoch_start", start)
    model.add_callback("on_fit_epoch_end", end)
    with tempfile.TemporaryDirectory() as folder:
        model.train(
            data=str(arguments.data or ensure_demo_data()), **quantization, epochs=2, project=folder, name="run",
            imgsz=arguments.imgsz, batch=arguments.batch, nbs=arguments.batch, workers=arguments.workers,
            cache=arguments.cache, mosaic=arguments.mosaic, close_mosaic=0, amp=arguments.amp, plots=False,
            optimizer="SGD", pretrained=False, verbose=False, compile=arguments.compile,
        )  # fmt: skip
    return taken, sizes[0], sizes[1]


def table(seconds: dict[str, float], images: int, validated: int) -> str:
    """Returns the parts by time, in Markdown; milliseconds per training image, or per validated one."""
    total = sum(seconds.values())
    lines = ["| part | s | share | ms/image |", "|---|--:|--:|--:|"]
    for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        of = validated if part.startswith("validation") else images
        lines.append(f"| {part} | {spent:.2f} | {spent / total:.1%} | {1000 * spent / of:.2f} |")
    lines.append(f"| **epoch** | {total:.2f} | 100% | {images / total:.1f} training images/s |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data YAML (default: the demo set)")
    parser.add_argument("--model", default="yolov5n.yaml")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--stock", action="store_true", help="time Ultralytics' own trainer (fp32)")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cache", default=False, choices=["ram", "disk"])
    parser.add_argument("--mosaic", type=float, default=1.0)
    parser.add_argument("--amp", default=False, choices=["bf16"], help="default: off")
    parser.add_argument("--compile", action="store_true", help="compiled training, the first epoch (not timed) with it")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ[THREADS_VARIABLE] = str(arguments.threads)
    LOGGER.setLevel("ERROR")
    seconds, images, validated = measure(arguments)
    where = provenance()
    who = "stock Ultralytics" if arguments.stock else f"{arguments.bits} bits"
    sizes = f"{images} + {validated} images, {arguments.imgsz} px"
    print(f"{arguments.model}, {who}, {torch.get_num_threads()} threads, {sizes}")
    print(f"commit {where['commit']}; {where['command']}\n")
    print(table(seconds, images, validated))


if __name__ == "__main__":
    main()
