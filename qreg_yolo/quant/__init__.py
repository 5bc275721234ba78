"""The quantizer core: torch and the standard library only. Names are loaded on first use (PEP 562)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qreg_yolo.lazy import lazy_names

if TYPE_CHECKING:
    from qreg_yolo.quant.base import Quantizer
    from qreg_yolo.quant.calibration import CalibrationReport, calibrate, quantizers_off, uninitialized_quantizers
    from qreg_yolo.quant.convert import (
        ConversionReport,
        apply_plan,
        dequantize_model,
        plan_quantization,
        quantize_model,
        quantized_layers,
    )
    from qreg_yolo.quant.layers import QuantConv2d, QuantLinear
    from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups
    from qreg_yolo.quant.report import LayerReport, layer_reports
    from qreg_yolo.quant.spec import LayerPlan, QuantizerSpec, QuantSpec

_HOME = {
    "Quantizer": "base",
    "CalibrationReport": "calibration",
    "calibrate": "calibration",
    "quantizers_off": "calibration",
    "uninitialized_quantizers": "calibration",
    "ConversionReport": "convert",
    "apply_plan": "convert",
    "dequantize_model": "convert",
    "plan_quantization": "convert",
    "quantize_model": "convert",
    "quantized_layers": "convert",
    "QuantConv2d": "layers",
    "QuantLinear": "layers",
    "StepSizeRule": "optim",
    "quantizer_parameter_groups": "optim",
    "LayerReport": "report",
    "layer_reports": "report",
    "LayerPlan": "spec",
    "QuantizerSpec": "spec",
    "QuantSpec": "spec",
}
__all__ = [
    "CalibrationReport",
    "ConversionReport",
    "LayerPlan",
    "LayerReport",
    "QuantConv2d",
    "QuantLinear",
    "QuantSpec",
    "Quantizer",
    "QuantizerSpec",
    "StepSizeRule",
    "apply_plan",
    "calibrate",
    "dequantize_model",
    "layer_reports",
    "plan_quantization",
    "quantize_model",
    "quantized_layers",
    "quantizer_parameter_groups",
    "quantizers_off",
    "uninitialized_quantizers",
]


__getattr__, __dir__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _HOME.items()})
