"""Quantization-aware training for Ultralytics YOLOv5.

The public names are loaded on first use (PEP 562): importing the package loads neither torch nor ultralytics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.detect import QuantYOLO
    from qreg_yolo.quant import QuantSpec, calibrate, dequantize_model, quantize_model, quantizer_parameter_groups

__version__ = "0.1.0"

__all__ = [
    "QuantSpec",
    "QuantYOLO",
    "__version__",
    "calibrate",
    "dequantize_model",
    "quantize_model",
    "quantizer_parameter_groups",
]

_HOME = {
    "QuantSpec": "qreg_yolo.quant",
    "QuantYOLO": "qreg_yolo.detect",
    "calibrate": "qreg_yolo.quant",
    "dequantize_model": "qreg_yolo.quant",
    "quantize_model": "qreg_yolo.quant",
    "quantizer_parameter_groups": "qreg_yolo.quant",
}
"""Public name -> the package that defines it."""

__getattr__, __dir__ = lazy_names(__name__, _HOME)
