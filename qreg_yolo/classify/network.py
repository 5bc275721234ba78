"""Quantization of a classifier: its first and last layers, and calibration on the first training images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor, nn

from qreg_yolo.classify.data import ImageSet, training_batches
from qreg_yolo.config.classification import ClassifyConfig
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.calibration import CalibrationReport, batch_statistics, calibrate, quantizers_off
from qreg_yolo.quant.convert import ConversionReport, candidate_layers, quantize_model, quantized_layers
from qreg_yolo.quant.spec import QuantSpec

CALIBRATION_IMAGES = 64
"""Training images (augmented as in training) that set the input ranges; at least one batch."""
PROBE_SIDE = 32
"""Side of the black images that `probe` runs, pixels."""


def quantize_network(model: nn.Module, spec: QuantSpec, *, pretrained: bool) -> ConversionReport:
    """Quantizes a network in place by ``spec``, its first and last layer at ``first_last_bits``.

    Raises:
        ConfigError: A pattern of the spec that matches no layer (the nearest is named).
    """
    if spec.is_float:
        return ConversionReport(skipped={name: "32 bits" for name, _, _, _ in candidate_layers(model)})
    try:
        return quantize_model(model, spec, first_last_layers=first_last_layers(model), pretrained=pretrained)
    except ValueError as error:
        raise ConfigError(f"section 'quant': {error}") from error


def first_last_layers(model: nn.Module) -> list[str]:
    """Returns the full names of the first and the last convolution or linear layer to run, on a black image."""
    ran: list[str] = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: ran.append(name)

    handles = [layer.register_forward_pre_hook(noting(name)) for name, _, _, layer in candidate_layers(model)]
    try:
        probe(model)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys([ran[0], ran[-1]])) if ran else []


def probe(model: nn.Module) -> Tensor:
    """Returns the logits of two black images of 32 pixels; the model is as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    place = next(model.parameters()).device
    try:
        with torch.no_grad():
            logits: Tensor = model.eval()(torch.zeros(2, 3, PROBE_SIDE, PROBE_SIDE, device=place))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return logits


def check_output(model: nn.Module, name: str, num_classes: int) -> None:
    """Raises unless a network gives one logit per class for images of 32 pixels.

    Raises:
        ConfigError: It gives something else.
    """
    try:
        logits = probe(model)
    except Exception as error:  # whatever the user's own network raises
        raise ConfigError(
            f"model={name!r} cannot take two images of 32 pixels ({type(error).__name__}: {error}). A factory "
            "takes the number of classes and returns a module from (n, 3, 32, 32) to logits (n, classes)."
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model={name!r} gives {found} for two images, not {[2, num_classes]}. A factory takes the number of "
            "classes and returns a module from (n, 3, 32, 32) to logits (n, classes)."
        )


def clipping_warning(model: nn.Module, images: Tensor) -> str | None:
    """Returns a warning if one-sided input quantizers meet negative inputs, else None.

    Args:
        model: Quantized; it is run once in full precision and is as it was afterwards.
        images: Normalised, as in training.
    """
    one_sided = {
        name: layer
        for name, layer in quantized_layers(model).items()
        if layer.input_fake_quant is not None and layer.input_fake_quant.spec.method in ("pact", "dorefa")
    }
    negative: set[str] = set()

    def watching(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: negative.add(name) if bool((inputs[0] < 0).any()) else None

    if not one_sided:
        return None
    handles = [layer.register_forward_pre_hook(watching(name)) for name, layer in one_sided.items()]
    try:
        with torch.no_grad(), batch_statistics(model), quantizers_off(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not negative:
        return None
    names = ", ".join(name for name in one_sided if name in negative)
    return (
        f"WARNING: the activations of these layers are clipped at 0, but their inputs are negative too: {names}. Use "
        "--method lsq, --weight-only, or leave the first layer in full precision (the default)."
    )


def calibrate_network(model: nn.Module, data: ImageSet, config: ClassifyConfig, batch: int) -> CalibrationReport:
    """Initialises the quantizers on the first batches of the first epoch, in float32; returns a report.

    The images are those that training begins with. Nothing is drawn: random states stay as they are.
    """
    batches = training_batches(data, batch=batch, seed=config.run.seed, epoch=0, augment=config.train.aug != "none")
    count = max(CALIBRATION_IMAGES // batch, 1)
    return calibrate(model, (images for images, _ in islice(batches, count)))
