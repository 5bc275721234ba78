"""Working folder in which the documented command lines run, with what they name."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests import ROOT
from tests.documented import synthetic_inputs as inputs
from tests.documented.substitutions import substituted

SCRIPT = Path(sys.executable).with_name("qreg-yolo")
TIMEOUT = 300

DETECTOR, CLASSIFIER = "runs/yolov5n-lsq-w4a4-s0", "runs/resnet20-cifar10-lsq-w4a4-s0"
CLASSIFIER_TRAINING = (
    "qreg-yolo classify train --model resnet20 --data cifar10 --data-dir DIR --bits 4 --method lsq --seeds 0,1,2"
)
SOURCES: dict[str, str | Callable[[Path], object]] = {
    "VOCdevkit": inputs.write_devkit,
    "VOC": "qreg-yolo data voc --devkit VOCdevkit --out VOC",
    "voc.yaml": "cp VOC/voc.yaml voc.yaml",
    "photos": "cp -r VOCdevkit/VOC2007/JPEGImages photos",
    "photo.jpg": "cp VOCdevkit/VOC2007/JPEGImages/000001.jpg photo.jpg",
    "yolov5n.pt": inputs.write_yolov5,
    "yolov5nu.pt": inputs.write_yolov5u,
    DETECTOR: "qreg-yolo train --data voc",
    "runs/yolov5n-fp32-s0": "qreg-yolo train --bits 32",
    "runs/yolov5n-anchor-lsq-w4a4-s0": "qreg-yolo train --bits 4 --head anchor --weights yolov5n.pt",
    "best.pt": f"cp {DETECTOR}/weights/best.pt best.pt",
    "w4a4.pt": f"cp {DETECTOR}/weights/best.pt w4a4.pt",
    "w4a4": f"mkdir w4a4 && cp {DETECTOR}/weights/last.pt w4a4/last.pt",
    "fp32.pt": "cp runs/yolov5n-fp32-s0/weights/best.pt fp32.pt",
    "detectors": "mkdir detectors && cp fp32.pt w4a4.pt detectors",
    "stopped/yolov5n": inputs.stop_detector,
    "runs/robustness/voc": "qreg-yolo robustness fp32.pt w4a4.pt --data voc --severities 1-5",
    "runs/noise-fp32": "qreg-yolo noise runs/yolov5n-fp32-s0/weights/best.pt --bits 32 --out runs/noise-fp32",
    "DIR": inputs.write_cifar_sets,
    "cifar-10-batches-py": "cp -r DIR/cifar-10-batches-py cifar-10-batches-py",
    "CIFAR-10-C": "qreg-yolo corrupt cifar-10-batches-py CIFAR-10-C",
    CLASSIFIER: CLASSIFIER_TRAINING,
    "runs/resnet20-cifar10-fp32-s0": (
        "qreg-yolo classify train --model resnet20 --data cifar10 --data-dir DIR --bits 32"
    ),
    "runs/resnet20-demo-lsq-w4a4-s0": "qreg-yolo classify train --bits 4 --method lsq",
    "RUN": f"cp -r {CLASSIFIER} RUN",
    "last.safetensors": "cp runs/resnet20-cifar10-lsq-w4a4-s1/weights/last.safetensors last.safetensors",
    "runs/resnet20-cifar10-lsq-w4a4-s1": CLASSIFIER_TRAINING,
    "w4a4.safetensors": f"cp {CLASSIFIER}/weights/last.safetensors w4a4.safetensors",
    "fp32.safetensors": "cp runs/resnet20-cifar10-fp32-s0/weights/last.safetensors fp32.safetensors",
    "stopped/resnet20": inputs.stop_classifier,
    "runs/robustness/cifar10": (
        "qreg-yolo classify robustness fp32.safetensors w4a4.safetensors --data cifar10 --data-dir DIR"
    ),
    "records.csv": inputs.write_records,
    "layout.yaml": inputs.write_layout,
    "my_study.yaml": inputs.write_grid,
    "a": inputs.write_curves,
    "b": inputs.write_curves,
    "c": inputs.write_curves,
    "tools": lambda path: path.symlink_to(ROOT / "tools"),
}
"""What a command line may name, and what makes it: a command line, documented or not, or a function."""

ALSO_NEEDED = {
    r"--data voc\b": "VOC",
    r"stopped/yolov5n/": "VOC",
    r"stopped/resnet20/": "DIR",
    r" \*\.safetensors": "w4a4.safetensors",
}
"""What a command line needs without naming it."""


@dataclass
class Workspace:
    """A folder, and what ran in it."""

    folder: Path
    ran: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Runs a command line of a page once, after what makes the files that it names."""
        if line not in self.ran:
            written = substituted(line)
            for path in needed(written):
                if SOURCES[path] != line:  # which makes it
                    self.provide(path)
            self.ran[line] = self.execute(written)
        return self.ran[line]

    def provide(self, path: str) -> None:
        """Makes one of ``SOURCES`` unless it exists."""
        if (self.folder / path).exists():
            return
        source = SOURCES[path]
        if not isinstance(source, str):
            (self.folder / path).parent.mkdir(exist_ok=True)
            source(self.folder / path)
            return
        outcome = self.run(source)
        assert outcome.returncode == 0, f"{source}\n{outcome.stdout}"
        assert (self.folder / path).exists(), f"{source} has not made {path}:\n{outcome.stdout}"

    def execute(self, line: str) -> subprocess.CompletedProcess[str]:
        """Runs a line in a shell that finds the installed console script first; stdout has stderr too."""
        environment = {
            **os.environ,
            "PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}",
            "QREG_YOLO_THREADS": "1",
        }
        with subprocess.Popen(
            line, shell=True, cwd=self.folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=TIMEOUT)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # the shell's children too
                raise
        return subprocess.CompletedProcess(line, process.returncode, output)


def needed(line: str) -> list[str]:
    """Returns the paths of ``SOURCES`` that a command line names."""
    words = re.split(r"[\s=]+", line)
    named = [path for path in SOURCES if any(word == path or word.startswith(f"{path}/") for word in words)]
    return [path for pattern, path in ALSO_NEEDED.items() if re.search(pattern, line)] + named


def assert_as_documented(line: str, outcome: subprocess.CompletedProcess[str]) -> None:
    """Asserts that a command line did its work."""
    said = f"{line}\nrun as: {outcome.args}\n{outcome.stdout}"
    assert outcome.returncode == 0, said
    assert "Traceback" not in outcome.stdout, said
    assert "QREG_YOLO_DEBUG" not in outcome.stdout, said
