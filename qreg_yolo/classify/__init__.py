"""The classification track: CIFAR networks on the same quantizers. Names are loaded on first use (PEP 562)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.classify.checkpoint import load_classifier
    from qreg_yolo.classify.evaluate import evaluate
    from qreg_yolo.classify.models import build_model

_HOME = {"build_model": "models", "evaluate": "evaluate", "load_classifier": "checkpoint"}
__all__ = ["build_model", "evaluate", "load_classifier"]

__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
