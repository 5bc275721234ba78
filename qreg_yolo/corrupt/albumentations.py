"""One of the 19 as an albumentations transform: for `A.Compose` and for Ultralytics' ``augmentations=``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np

from qreg_yolo.corrupt.apply import corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.corrupt.presets import constants


class CommonCorruption(A.ImageOnlyTransform):
    """Corrupts an image by one of the 19, with draws that follow from the pipeline's own seed.

    Args:
        corruption: One of `NAMES`.
        severity: 1 to 5.
        preset: Whose constants.
        frost_folder: Overlays of `frost`; None: `load_overlays`.
        bgr: The images are BGR, as those that Ultralytics hands to ``augmentations=``; otherwise RGB.
        p: Probability that an image is corrupted.

    Raises:
        ValueError: Unknown corruption, severity or preset.
    """

    def __init__(
        self,
        corruption: str,
        severity: int,
        preset: str = "imagenet224",
        frost_folder: str | None = None,
        bgr: bool = False,
        p: float = 1.0,
    ) -> None:
        constants(corruption, severity, preset)  # a wrong one is an error now, not in a data worker
        super().__init__(p=p)
        self.corruption = corruption
        self.severity = severity
        self.preset = preset
        self.frost_folder = frost_folder
        self.bgr = bgr

    def get_params(self) -> dict[str, Any]:
        return {"entropy": self.py_random.getrandbits(63)}

    def apply(self, img: Image, entropy: int = 0, **params: Any) -> Image:
        """Returns the corrupted image, the shape and channel order of ``img``; ``entropy`` seeds the draws."""
        channels = img.shape[2] if img.ndim == 3 else 0
        plain = img[..., 0] if channels == 1 else img[..., ::-1] if self.bgr and channels == 3 else img
        frost = None if self.frost_folder is None else Path(self.frost_folder)
        result = corrupt(plain, self.corruption, self.severity, seed=entropy, preset=self.preset, frost=frost)
        if channels == 1:
            return result[..., None]
        return np.ascontiguousarray(result[..., ::-1]) if self.bgr and channels == 3 else result

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        return ("corruption", "severity", "preset", "frost_folder", "bgr")
