"""Times `qreg-yolo robustness` against forward and NMS alone, and against writing the sets and running stock val.

    python benchmarks/robustness.py W1.pt W2.pt --data voc.yaml --limit 100 --severities 1-5
    python benchmarks/robustness.py W.pt --data voc.yaml --limit 20 --severities 3 --corruptions fog,snow --skip-disk

(a) The same models on as many clean images that are decoded already. (b) Each set written as PNG, then Ultralytics' own
``yolo val`` per model and set, each a process, as a user's script would start them; its caches of labels are written
too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from report import cpu_model, load_average

from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.io.records import provenance
from qreg_yolo.metrics.conditions import parse_corruptions, parse_severities

prepare_ultralytics(online=False)

from ultralytics.utils import LOGGER  # noqa: E402

from qreg_yolo.corrupt import MIN_SIDE  # noqa: E402
from qreg_yolo.datasets.sources import find_data  # noqa: E402
from qreg_yolo.detect.batch_validator import BatchValidator  # noqa: E402
from qreg_yolo.detect.data_check import ImageSet, check_data  # noqa: E402
from qreg_yolo.detect.detectors import load_detectors  # noqa: E402
from qreg_yolo.detect.robustness import DetectorRobustnessRequest, measure  # noqa: E402
from qreg_yolo.detect.views import CorruptedBatches, View  # noqa: E402
from qreg_yolo.io.process import use_threads  # noqa: E402
from qreg_yolo.metrics.conditions import CLEAN, Condition  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--severities", default="1-5")
    parser.add_argument("--corruptions", default="19")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None, help="default: all cores")
    parser.add_argument("--skip-disk", action="store_true", help="leave out (b)")
    args = parser.parse_args()
    use_threads(args.threads)
    LOGGER.setLevel("ERROR")
    before = load_average()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = DetectorRobustnessRequest(
            weights=args.weights, data=args.data, out=folder / "out", corruptions=parse_corruptions(args.corruptions),
            severities=parse_severities(args.severities), limit=args.limit, batch=args.batch, workers=args.workers,
            threads=args.threads,
        )  # fmt: skip
        images = check_data(find_data(args.data), None, limit=args.limit, min_side=MIN_SIDE)
        ours = timed(lambda: measure(request))
        bare = forward_only(request, images, folder) * len(request.conditions)
        rows = [("qreg-yolo robustness", ours), ("(a) forward and NMS alone, decoded clean images", bare)]
        if not args.skip_disk:
            disk = timed(lambda: on_disk(request, images, folder))
            rows.append(("(b) sets as PNG, then `yolo val` per model and set", disk))
    origin = provenance()
    print(f"# {len(args.weights)} models, {len(images.images)} images, {len(request.conditions)} conditions\n")
    print(f"- machine: {cpu_model()}; load average {before} at the start, {load_average()} at the end")
    print(f"- commit {origin['commit']}; {origin['command']}; {origin['time']}; {origin['versions']}\n")
    print("| way | s | robustness / way |\n|---|--:|--:|")
    for label, seconds in rows:
        print(f"| {label} | {seconds:.1f} | {ours / seconds:.2f} |")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forward_only(request: DetectorRobustnessRequest, images: ImageSet, folder: Path) -> float:
    """Returns the seconds of forward and NMS of all models on all clean images once, after one batch to warm up."""
    size, seconds = int(request.batch or 32), 0.0
    parts = [slice(start, start + size) for start in range(0, len(images.images), size)]
    with torch.inference_mode():
        for one in load_detectors(request.weights, request.imgsz):
            view = View(images, size, one.view, False)
            batches = CorruptedBatches(images, [view], parts, {})
            validator = BatchValidator(one, view, images, folder, torch.device("cpu"), False)
            ready = [validator.preprocess(batches[(CLEAN, 0), n][1][0])["img"] for n in range(len(parts))]
            validator.postprocess(validator.backend(ready[0]))
            for image in ready:
                start = time.perf_counter()
                validator.postprocess(validator.backend(image))
                seconds += time.perf_counter() - start
    return seconds


def on_disk(request: DetectorRobustnessRequest, images: ImageSet, folder: Path) -> None:
    yolo = Path(sys.executable).with_name("yolo")
    # A user's own shell: what this process has set for itself (safe loading, threads) is not there.
    shell = {k: v for k, v in os.environ.items() if k not in ("ULTRALYTICS_SAFE_LOAD", "OMP_NUM_THREADS")}
    for condition in request.conditions:
        path = write_set(images, condition, request, folder / f"{condition[0]}-{condition[1]}")
        for weights in request.weights:
            options = f"model={weights} data={path} batch={request.batch} plots=False project={folder / 'val'}"
            subprocess.run([yolo, "detect", "val", *options.split()], check=True, stdout=subprocess.DEVNULL, env=shell)


def write_set(images: ImageSet, condition: Condition, request: DetectorRobustnessRequest, folder: Path) -> Path:
    from qreg_yolo.corrupt import corrupt

    for image in images.images:
        target = (folder / "images" / image.place).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        picture: Any = cv2.imread(str(image.path))
        if condition[0] != CLEAN:
            picture = corrupt(picture[..., ::-1], *condition, seed=request.seed or 0, key=image.key)[..., ::-1]
        cv2.imwrite(str(target), picture)
        label = (folder / "labels" / image.place).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        if image.label.is_file():
            label.symlink_to(image.label)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": images.names}))
    return path


if __name__ == "__main__":
    main()
