"""The Ultralytics adapter: the only package that imports ultralytics. Names are loaded on first use (PEP 562)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.detect.demo_data import ensure_demo_data
    from qreg_yolo.detect.facade import QuantYOLO
    from qreg_yolo.detect.model import QuantDetectionModel
    from qreg_yolo.detect.trainer import QuantDetectionTrainer
    from qreg_yolo.detect.validator import QuantDetectionPredictor, QuantDetectionValidator

_HOME = {
    "QuantDetectionModel": "model",
    "QuantDetectionPredictor": "validator",
    "QuantDetectionTrainer": "trainer",
    "QuantDetectionValidator": "validator",
    "QuantYOLO": "facade",
    "ensure_demo_data": "demo_data",
}
__all__ = [
    "QuantDetectionModel",
    "QuantDetectionPredictor",
    "QuantDetectionTrainer",
    "QuantDetectionValidator",
    "QuantYOLO",
    "ensure_demo_data",
]


__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
