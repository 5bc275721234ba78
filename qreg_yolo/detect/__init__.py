"""The Ultralytics adapter: the only package that imports ultralytics. Names are loaded on first use (PEP 562).

Where ``ULTRALYTICS_SAFE_LOAD=1`` is set, importing the package allows torch's restricted unpickler the classes of our
checkpoints, so that they load in Ultralytics too.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.detect.facade import QuantYOLO
    from qreg_yolo.detect.model import QuantDetectionModel
    from qreg_yolo.detect.safetensors_checkpoint import load_safetensors, save_safetensors
    from qreg_yolo.detect.trainer import QuantDetectionTrainer
    from qreg_yolo.detect.validator import QuantDetectionPredictor, QuantDetectionValidator

_HOME = {
    "QuantDetectionModel": "model",
    "QuantDetectionPredictor": "validator",
    "QuantDetectionTrainer": "trainer",
    "QuantDetectionValidator": "validator",
    "QuantYOLO": "facade",
    "load_safetensors": "safetensors_checkpoint",
    "save_safetensors": "safetensors_checkpoint",
}
__all__ = [
    "QuantDetectionModel",
    "QuantDetectionPredictor",
    "QuantDetectionTrainer",
    "QuantDetectionValidator",
    "QuantYOLO",
    "load_safetensors",
    "save_safetensors",
]

if "ultralytics" in sys.modules or os.environ.get("ULTRALYTICS_SAFE_LOAD", "").lower() in ("1", "true", "yes", "on"):
    import_module(f"{__name__}.safe_load")  # not otherwise: it loads torch and Ultralytics

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
