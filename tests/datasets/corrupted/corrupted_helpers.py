"""A tiny dataset, and what lies in a folder of sets."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from qreg_yolo.datasets.corrupted.request import Request
from tests.corrupt.synthetic_images import blocks, gradient, texture


def write_set(root: Path, count: int = 3, height: int = 36, width: int = 44) -> Path:
    """Writes images of several kinds with labels for all but the last, and returns the data YAML."""
    for number in range(count):
        pixels = (gradient, blocks, texture)[number % 3](height, width + number)
        name = f"sub/{number:03}" if number % 3 == 1 else f"{number:03}"
        for kind in ("images", "labels"):
            (root / kind / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        suffix = ".png" if number % 2 else ".jpg"
        data = cv2.imencode(suffix, pixels[..., ::-1] if number != 2 else np.ascontiguousarray(pixels[..., 0]))[1]
        (root / "images" / "test" / f"{name}{suffix}").write_bytes(data.tobytes())
        if number < count - 1 or count == 1:
            (root / "labels" / "test" / f"{name}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    (root / "set.yaml").write_text(f"path: {root}\ntrain: images/test\nval: images/test\nnames: [cat, dog]\n")
    return root / "set.yaml"


def request(out: Path, **more: object) -> Request:
    asked = {"corruptions": ("gaussian_noise", "snow", "frost"), "severities": (1, 4), "seed": 3, **more}
    return Request(out=out, **asked)  # type: ignore[arg-type]


def contents(out: Path) -> dict[str, bytes]:
    """Returns file -> bytes of all but what a run says about itself."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    settings = json.loads(found.pop("manifest.json"))["settings"]
    return {**found, "settings": json.dumps(settings).encode()}
