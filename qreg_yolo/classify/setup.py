"""Start of a run: threads, device, precision, the network with its initial weights, and its teacher."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from qreg_yolo.classify.checkpoint import Description, load_classifier, stored_model
from qreg_yolo.classify.models import build_model, is_import_path
from qreg_yolo.classify.network import check_output, quantize_network
from qreg_yolo.classify.processes import device_of
from qreg_yolo.classify.train import Run
from qreg_yolo.config.classification import ClassifyConfig
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.process import THREADS_VARIABLE, requested_threads, use_threads
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.training.environment import BF16, FP32, cpu_has_bf16, keep_freed_memory
from qreg_yolo.training.tensor_file import fill


def prepare(threads: int | None, device: str | None) -> torch.device:
    """Sets CPU threads (all cores, shared among the processes here) and allocator; returns the device to compute on.

    Raises:
        ConfigError: No such device.
    """
    use_threads(threads)
    own = threads is not None or bool(os.environ.get(THREADS_VARIABLE))
    sharers = 1 if own else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, for processes on one machine
    torch.set_num_threads(max(requested_threads() // sharers, 1))
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    found = device_of(device)
    if found.type == "cpu":
        keep_freed_memory()
    return found


def precision_on(amp: str, device: torch.device) -> str:
    """Returns `fp32` or `bf16`; ``auto`` is bf16 if the hardware supports it."""
    if amp == "auto":
        return BF16 if (cpu_has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()) else FP32
    return BF16 if amp == "bf16" else FP32


def built(config: ClassifyConfig, classes: tuple[str, ...], device: torch.device) -> tuple[nn.Module, Description]:
    """Returns the quantized network with its initial weights on its device, not calibrated, and its description.

    Raises:
        ConfigError, FileNotFoundError, WeightsError: A model, a layer pattern or weights that cannot be used.
    """
    model = build_model(config.run.model, len(classes), config.run.seed)
    check_output(model, config.run.model, len(classes))
    if config.run.weights is not None:
        start, _, _ = load_classifier(Path(config.run.weights), config.run.model)
        names = model.state_dict().keys()
        fill(model, {n: t for n, t in start.state_dict().items() if n in names}, Path(config.run.weights))
    report = quantize_network(model, config.quant, pretrained=config.run.weights is not None)
    description = Description(
        model=config.run.model, classes=classes, config=config.to_dict(),
        precision=precision_on(config.train.amp, device), skipped=dict(report.skipped),
    )  # fmt: skip
    return placed(model, config, device), description


def load_teacher(config: ClassifyConfig, classes: tuple[str, ...], device: torch.device) -> nn.Module | None:
    """Returns the teacher on its device, in eval mode and without gradients; None without one.

    A teacher of the user's own is built only if its factory is the student's, which ``--model`` allows.

    Args:
        config: With the hash of the teacher's file, from `identified`.
        classes: The student's.
        device: The device of the training.

    Raises:
        ConfigError, WeightsError: A teacher that cannot be read, or of other classes.
    """
    path, own = config.distill.path, config.run.model
    if path is None:
        return None
    model = stored_model(path)
    if is_import_path(model) and model != own:
        raise ConfigError(
            f"The teacher '{path}' is a model of your own, '{model}', whose code runs only where it is the student's, "
            f"and this is '{own}'. Give a teacher of the student's factory or of a built-in network."
        )
    network, description, _ = load_classifier(path, own if model == own else None)
    if description.classes != classes:
        raise WeightsError(
            f"The teacher '{path}' has {len(description.classes)} classes ({', '.join(description.classes):.200}), the "
            f"student {len(classes)} ({', '.join(classes):.200}). Give a teacher trained on the same data."
        )
    return placed(network.requires_grad_(False), config, device)


def placed(model: nn.Module, config: ClassifyConfig, device: torch.device) -> nn.Module:
    """Returns the network on its device, in the run's memory format."""
    memory = torch.channels_last if config.train.channels_last else torch.contiguous_format
    return model.to(device=device, memory_format=memory)  # type: ignore[call-overload, no-any-return]


def check_batch(run: Run) -> None:
    """Raises unless every process gets the same part of a batch.

    Raises:
        ConfigError: It does not.
    """
    if run.batch % run.processes.size:
        raise ConfigError(
            f"batch={run.batch} cannot be split among {run.processes.size} processes. Give a multiple of "
            f"{run.processes.size}."
        )
