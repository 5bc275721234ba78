"""The host's trainer with quantization: swap in the constructor, calibrate before EMA, own optimizer groups."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.cfg import DEFAULT_CFG, cfg2dict
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.patches import override_configs
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.detect.compat import check_host, restore_threads
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.policy import clipping_warning
from qreg_yolo.detect.section import KEY, Section
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.quant.calibration import calibrate, uninitialized_quantizers
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.spec import QuantSpec

CALIBRATION_IMAGES = 64
"""Training images (augmented as in training) that set the input ranges; at least one batch."""


class QuantDetectionTrainer(DetectionTrainer):
    """`DetectionTrainer` that takes one more argument, ``qreg``: `QuantSpec`'s options and ``activation``.

    >>> trainer = QuantDetectionTrainer(overrides=dict(model="yolov5n.yaml", qreg=dict(bits=4)))  # doctest: +SKIP
    """

    last: Path
    best: Path

    def __init__(
        self, cfg: Any = DEFAULT_CFG, overrides: dict[str, Any] | None = None, _callbacks: dict[str, Any] | None = None
    ) -> None:
        check_host()
        overrides = overrides or {}
        if overrides.get(KEY) is not None:
            Section.from_request(overrides[KEY], pretrained=False)  # a wrong option fails before a folder is made
        super().__init__({KEY: None, **cfg2dict(cfg)}, overrides, _callbacks)
        restore_threads()
        if overrides.get("workers") is not None:
            self.args.workers = overrides["workers"]  # the host sets 0 on the CPU, whatever was asked for

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Resumes as the host does, but refuses other quantization settings than the checkpoint's."""
        wanted = overrides.get(KEY)
        super().check_resume(overrides)
        trained = getattr(self.args, KEY, None)
        if self.resume and wanted is not None and not _same_request(wanted, trained):
            raise ValueError(
                f"The checkpoint was trained with qreg={trained}, this run asks for qreg={wanted}. Resume without "
                "quantization options, or start a new run with --weights."
            )

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> QuantDetectionModel:
        """Returns the quantized model that ``args.qreg`` asks for, or that ``cfg["qreg"]`` describes."""
        model_yaml = deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        request = None if self.resume else getattr(self.args, KEY, None)
        if request is not None:
            section = Section.from_request(request, pretrained=weights is not None)
            section.precision = _precision(self.args.amp, self.device)
            section.write(model_yaml)
        model = self.set_model_names_for_load(
            QuantDetectionModel(
                model_yaml, nc=self.data["nc"], ch=self.data["channels"], verbose=verbose and RANK == -1
            )
        )
        if weights is not None:
            model.load(weights)
        assert isinstance(model, QuantDetectionModel)
        if request is not None and (warning := clipping_warning(model, section.spec, section.activation)) is not None:
            LOGGER.warning(warning)
        return model

    def set_model_attributes(self) -> None:
        """Sets the host's attributes, then calibrates: the model is on its device, not compiled, wrapped or copied."""
        super().set_model_attributes()
        model = unwrap_model(self.model)
        if not isinstance(model, QuantDetectionModel) or not uninitialized_quantizers(model):
            return
        seen = 0

        def forward(net: nn.Module, batch: dict[str, Any]) -> None:
            nonlocal seen
            images = self.preprocess_batch(batch)["img"]
            seen += len(images)
            net(images)

        with preserved_random_state():  # the twin in full precision must see the same data in the same order
            count = calibrate(model, self._calibration_batches(), forward=forward)
        model.record_plan()
        LOGGER.info(f"Calibrated {count} quantizers on {seen} augmented training images")

    def _calibration_batches(self) -> Iterator[Any]:
        self.stride = max(int(unwrap_model(self.model).stride.max()), 32)  # preprocess_batch reads it for multi_scale
        batch = max(int(self.batch_size), 1) if self.batch_size >= 1 else 16
        with override_configs(self.args, {"cache": False, "workers": 0}):
            loader = self.get_dataloader(self.data["train"], batch_size=batch, rank=-1, mode="train")
        yield from islice(loader, max(CALIBRATION_IMAGES // batch, 1))

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Returns the host's optimizer with the quantizers' parameters moved to groups of their own."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **kwargs)
        plain = unwrap_model(model)
        decay = kwargs["decay"] if "decay" in kwargs else args[3] if len(args) > 3 else 1e-5
        norm_groups = [group for group in optimizer.param_groups if group.get("param_group") == "bn"]
        common = {
            key: norm_groups[-1][key] for key in ("lr", "momentum", "betas", "nesterov") if key in norm_groups[-1]
        }
        for group in optimizer.param_groups:
            group["params"] = split_quantizer_parameters(plain, group["params"])
        section = Section.read(plain.yaml)
        spec = section.spec if section else QuantSpec()
        for group in quantizer_parameter_groups(plain, weight_decay=decay, clip_decay=spec.clip_decay, **common):
            optimizer.add_param_group(group)
            count, decay_of = len(group["params"]), group["weight_decay"]
            LOGGER.info(f"Of these, {count} are in a group of their own: {group['param_group']}(decay={decay_of})")
        StepSizeRule(plain, relative=spec.relative_steps).attach(optimizer)
        return optimizer

    def save_model(self) -> bool:
        """Saves as the host does, but a checkpoint is replaced at once or not at all (the host writes into it)."""
        final: dict[str, Path] = {"last": self.last, "best": self.best}
        partial = {name: path.with_name(f".{path.name}.tmp") for name, path in final.items()}
        self.last, self.best = partial["last"], partial["best"]
        try:
            saved = bool(super().save_model())
            for name, path in partial.items():
                if path.exists():
                    os.replace(path, final[name])
        finally:
            self.last, self.best = final["last"], final["best"]
            for path in partial.values():
                path.unlink(missing_ok=True)
        return saved

    def get_validator(self) -> QuantDetectionValidator:
        args = copy(self.args)
        delattr(args, KEY)  # the validator checks its arguments against the host's own
        return QuantDetectionValidator(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)


def _same_request(wanted: dict[str, Any], trained: dict[str, Any] | None) -> bool:
    sections = [Section.from_request(request or {}, pretrained=False) for request in (wanted, trained)]
    return sections[0] == sections[1] and trained is not None


def _precision(amp: bool | str, device: torch.device) -> str:
    """Returns the arithmetic of a training run: the host switches AMP off on the CPU."""
    if device.type == "cpu" or amp in (False, "fp32"):
        return "fp32"
    return "bf16" if amp == "bf16" else "fp16"


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the random states of Python, NumPy and torch (CPU and current device) at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the host draws from it
    device_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if device_state is not None:
            torch.cuda.set_rng_state(device_state)
