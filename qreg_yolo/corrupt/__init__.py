"""The 19 common corruptions with NumPy, OpenCV and Pillow alone. Names are loaded on first use (PEP 562)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.corrupt.albumentations import CommonCorruption
    from qreg_yolo.corrupt.apply import CORRUPTIONS, MIN_SIDE, corrupt, image_key
    from qreg_yolo.corrupt.draws import Draws, draws_for
    from qreg_yolo.corrupt.frost import FrostOverlays, load_overlays
    from qreg_yolo.corrupt.presets import PRESETS, constants
    from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, DETERMINISTIC_NAMES, NAMES, SEVERITIES

_HOME = {
    "BENCHMARK_NAMES": "spec",
    "CORRUPTIONS": "apply",
    "CommonCorruption": "albumentations",
    "DETERMINISTIC_NAMES": "spec",
    "Draws": "draws",
    "FrostOverlays": "frost",
    "MIN_SIDE": "apply",
    "NAMES": "spec",
    "PRESETS": "presets",
    "SEVERITIES": "spec",
    "constants": "presets",
    "corrupt": "apply",
    "draws_for": "draws",
    "image_key": "apply",
    "load_overlays": "frost",
}
__all__ = [
    "BENCHMARK_NAMES",
    "CORRUPTIONS",
    "DETERMINISTIC_NAMES",
    "MIN_SIDE",
    "NAMES",
    "PRESETS",
    "SEVERITIES",
    "CommonCorruption",
    "Draws",
    "FrostOverlays",
    "constants",
    "corrupt",
    "draws_for",
    "image_key",
    "load_overlays",
]


__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
