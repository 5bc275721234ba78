"""The detector with quantized layers: built from its YAML, safe to halve, fuse, copy and reload."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.detect.policy import edge_layers, float_layers
from qreg_yolo.detect.precision import in_bf16, trains_in_bf16
from qreg_yolo.detect.section import Section
from qreg_yolo.quant.base import Quantizer, keep_float32
from qreg_yolo.quant.convert import apply_plan, dequantize_model, plan_quantization, plans_agree, quantized_layers


class QuantDetectionModel(DetectionModel):
    """An Ultralytics `DetectionModel` whose ``yaml["qreg"]`` section says how it is quantized.

    Without the section it is a float model. The fp32 twin has a section that quantizes nothing, and takes the very
    same path. Tensors stay float32 whatever the host casts, because half-precision weights change their codes; and
    BatchNorm is never folded, because that would change the weights that are quantized.

    Args:
        cfg: Path or dictionary of a model YAML.
        ch: Image channels.
        nc: Number of classes; None: the YAML's.
        verbose: Print the model's summary.
    """

    def __init__(
        self, cfg: str | dict[str, Any] = "yolov5n.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True
    ) -> None:
        super().__init__(cfg, ch, nc, verbose)
        section = Section.read(self.yaml)
        if section is None:
            return
        if section.layers is None:
            report = plan_quantization(
                self,
                section.spec,
                edge_layers=edge_layers(self),
                keep_float=float_layers(self),
                pretrained=section.pretrained,
            )
            section.layers, section.skipped = report.swapped, report.skipped
            section.write(self.yaml)
        apply_plan(self, section.layers)

    def record_plan(self) -> None:
        """Writes what calibration decided (signedness per layer) into ``yaml["qreg"]``."""
        section = Section.read(self.yaml)
        if section is not None:
            section.layers = {name: layer.plan for name, layer in quantized_layers(self).items()}
            section.write(self.yaml)

    def load(self, weights: dict[str, Any] | nn.Module, verbose: bool = True) -> None:
        """Loads what fits by name and shape; the quantizers' state too where the source is quantized alike.

        A source that is quantized otherwise gives its float weights alone: its ranges belong to another grid.
        """
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        plans = {name: layer.plan for name, layer in quantized_layers(self).items()}
        present = {name: layer.plan for name, layer in quantized_layers(source).items()}
        alike = present.keys() == plans.keys() and all(plans_agree(present[name], plans[name]) for name in plans)
        state = quantizer_state(source) if alike else {}
        source = deepcopy(source)
        dequantize_model(source)
        dequantize_model(self)  # the host may rebuild the head for another number of classes: it does so in float
        super().load(source, verbose)
        apply_plan(self, plans)
        if state:
            missing = self.load_state_dict({**self.state_dict(), **state})
            assert not missing.missing_keys

    def fuse(self, verbose: bool = True, imgsz: int = 640) -> QuantDetectionModel:
        """Returns the model unchanged: folding BatchNorm would move the weights off the grid they were trained on."""
        del verbose, imgsz
        return self

    def _predict_once(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the model; half-precision images are cast up outside autocast, as the weights stay float32.

        On the CPU a section with the precision bf16 makes training, and nothing else, run in bfloat16.
        """
        if x.dtype in (torch.float16, torch.bfloat16) and not torch.is_autocast_enabled(x.device.type):
            x = x.float()
        if self.training and torch.is_grad_enabled() and x.device.type == "cpu" and trains_in_bf16(self):
            return in_bf16(super()._predict_once, x, *args, **kwargs)
        return super()._predict_once(x, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantDetectionModel:
        del recurse
        super()._apply(keep_float32(fn))
        return self


def quantizer_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the part of ``model.state_dict()`` that belongs to quantizers."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Quantizer))
    return {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)} if prefixes else {}
