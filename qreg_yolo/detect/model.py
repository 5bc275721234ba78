"""Detector with quantized layers, built from its YAML; safe to halve, fuse, copy and reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import LOGGER

from qreg_yolo.detect.anchor_head import AnchorDetect, put_anchor_head
from qreg_yolo.detect.anchor_loss import AnchorLoss
from qreg_yolo.detect.head_transfer import HeadRows
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.policy import first_last_layers, float_layers
from qreg_yolo.detect.precision import in_bf16, trains_in_bf16
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import UnsupportedError
from qreg_yolo.quant.base import Quantizer, keep_float32
from qreg_yolo.quant.convert import apply_plan, dequantize_model, plan_quantization, plans_agree, quantized_layers

_WARNED: WeakSet[nn.Module] = WeakSet()
"""Models that have warned of a lost quantization, or must not warn now (`is_fused`)."""


class QuantDetectionModel(DetectionModel):
    """An Ultralytics `DetectionModel` with the quantization and head of its ``yaml["qreg"]``.

    Without ``qreg`` it is a float model. The fp32 baseline has a ``qreg`` that quantizes nothing, and runs the same
    code. Tensors always stay float32, because half-precision weights change their codes. BatchNorm is never folded,
    because that would change the quantized weights.

    Args:
        cfg: Path or dictionary of a model YAML.
        ch: Image channels.
        nc: Number of classes; None: the YAML's.
        verbose: Whether to print the model's summary.
    """

    def __init__(
        self, cfg: str | dict[str, Any] = "yolov5n.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True
    ) -> None:
        cfg = cfg if isinstance(cfg, dict) else yaml_model_load(cfg)
        check_model_yaml(cfg, f"The model YAML '{cfg.get('yaml_file', 'without a name')}'")
        config = QuantizationConfig.read(cfg)
        has_anchors = config.head.has_anchors
        super().__init__(cfg, ch, nc, verbose and not has_anchors)
        if has_anchors:
            put_anchor_head(self)
            if verbose:
                self.info()
        if config.layers is None:
            report = plan_quantization(
                self,
                config.spec,
                first_last_layers=first_last_layers(self),
                keep_float=float_layers(self),
                pretrained=config.pretrained,
            )
            config = replace(config, layers=report.swapped, skipped=report.skipped)
            config.write(self.yaml)
        assert config.layers is not None
        apply_plan(self, config.layers)

    @property
    def quantization(self) -> QuantizationConfig:
        """The request and the plan of every layer."""
        return QuantizationConfig.of(self)

    def record_plan(self, unreached: Mapping[str, str] | None = None) -> None:
        """Writes the results of calibration to ``yaml["qreg"]``.

        Args:
            unreached: Full name -> reason, for layers that calibration converted back to full precision.
        """
        if KEY in self.yaml:
            layers = {name: layer.plan for name, layer in quantized_layers(self).items()}
            config = self.quantization
            replace(config, layers=layers, skipped={**config.skipped, **(unreached or {})}).write(self.yaml)

    def load(self, weights: dict[str, Any] | nn.Module | YOLOv5Weights, verbose: bool = True) -> None:
        """Loads all tensors that match by name and shape, and the quantizers' state if the plans agree.

        A source with other plans gives its float weights only: its ranges belong to another grid.

        Raises:
            WeightsError: Nothing of YOLOv5 weights fits.
        """
        if isinstance(weights, YOLOv5Weights):
            self._load_yolov5(weights, verbose)
            return
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        plans = {name: layer.plan for name, layer in quantized_layers(self).items()}
        present = {name: layer.plan for name, layer in quantized_layers(source).items()}
        alike = present.keys() == plans.keys() and all(plans_agree(present[name], plans[name]) for name in plans)
        state = quantizer_state(source) if alike else {}
        plain: Any = deepcopy(source)
        dequantize_model(plain)
        dequantize_model(self)  # Ultralytics may rebuild the head for another number of classes, as a float head
        fresh = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        super().load(plain, verbose)
        if isinstance(plain.model[-1], AnchorDetect):
            self._load_head_rows(plain.state_dict(), list(plain.names.values()), fresh, verbose)
        apply_plan(self, plans)
        if state:
            missing = self.load_state_dict({**self.state_dict(), **state})
            assert not missing.missing_keys

    def _load_yolov5(self, weights: YOLOv5Weights, verbose: bool) -> None:
        plans = {name: layer.plan for name, layer in quantized_layers(self).items()}
        dequantize_model(self)  # quantizers are created anew: ranges of other weights do not fit
        state = self.state_dict()
        fresh = {name: tensor.clone() for name, tensor in state.items()}
        found = weights.fitting(state)
        self.load_state_dict({**state, **found})
        if verbose:
            LOGGER.info(weights.summary(found, state))
        if weights.head == self._head_name():
            self._load_head_rows(weights.tensors, weights.class_names(), fresh, verbose)
        self.pt_path = str(weights.path)
        apply_plan(self, plans)

    def _head_name(self) -> str | None:
        """Returns the full name of the anchor head; None for another head."""
        return f"model.{len(self.model) - 1}" if isinstance(self.model[-1], AnchorDetect) else None

    def _load_head_rows(
        self, source: dict[str, Tensor], source_names: Sequence[str], fresh: dict[str, Tensor], verbose: bool
    ) -> None:
        """Loads the anchor head from one with other classes, or another order of classes."""
        rows = HeadRows.by_name(list(self.names.values()), source_names)
        name = self._head_name()
        if name is None or rows.is_identity:
            return
        found = rows.transfer_all(source, fresh, name)
        self.load_state_dict({**self.state_dict(), **found})
        if verbose and found:
            LOGGER.info(rows.summary())

    def init_criterion(self) -> Any:
        """Returns the loss of the head."""
        head = self.quantization.head
        return AnchorLoss(self, head) if head.has_anchors else super().init_criterion()

    def is_fused(self) -> bool:
        """Returns False: BatchNorm is never folded. Warns that another model loads the quantized weights.

        A model of Ultralytics asks this of the model that it loads weights from, and only then can the loss of the
        quantization be noticed.
        """
        if quantized_layers(self) and self not in _WARNED:
            _WARNED.add(self)
            LOGGER.warning(
                "A model of Ultralytics takes the weights of a quantized one: it continues in full precision, without "
                "the step sizes. To keep the quantization, use qreg-yolo train --weights, or QuantYOLO(...).train()."
            )
        return bool(super().is_fused())

    def info(self, *args: Any, **kwargs: Any) -> Any:
        warned = self in _WARNED
        _WARNED.add(self)  # the summary calls `is_fused` too
        try:
            return super().info(*args, **kwargs)
        finally:
            if not warned:
                _WARNED.discard(self)

    def fuse(self, verbose: bool | None = None, imgsz: int | list[int] | None = None) -> QuantDetectionModel:
        """Returns the model unchanged: folding BatchNorm would move the weights off their grid.

        Raises:
            NotImplementedError: The model is quantized and Ultralytics' exporter calls this.
        """
        if verbose is None and imgsz is not None:  # only the exporter, before it writes anything
            refuse_export(self)
        return self

    def _predict_once(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the model in float32 outside autocast; on the CPU, with precision bf16, training runs in bfloat16."""
        if x.dtype in (torch.float16, torch.bfloat16) and not torch.is_autocast_enabled(x.device.type):
            x = x.float()
        if self.training and torch.is_grad_enabled() and x.device.type == "cpu" and trains_in_bf16(self):
            return in_bf16(super()._predict_once, x, *args, **kwargs)
        return super()._predict_once(x, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantDetectionModel:
        del recurse
        super()._apply(keep_float32(fn))
        return self


def refuse_export(model: nn.Module) -> None:
    """Raises `UnsupportedError` for a quantized model."""
    if quantized_layers(model):
        raise UnsupportedError(
            "A quantized model cannot be exported yet: Ultralytics' exporters do not know its quantizers. Use the "
            "checkpoint, or best.safetensors in its folder. Nothing was written."
        )


def quantizer_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the quantizers' part of ``model.state_dict()``."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Quantizer))
    return {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)} if prefixes else {}
