"""The weight noise of one network under many quantizations, and its effect on the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.errors import InvalidValueError
from qreg_yolo.io import records
from qreg_yolo.io.files import writable_project
from qreg_yolo.noise.intervals import Interval, finite, mean_interval
from qreg_yolo.noise.jacobian import Weights, squared_norms, weights_exposed
from qreg_yolo.noise.perturbation import Advance, LossIncrease, Task, loss_increases, passes
from qreg_yolo.noise.sweep import Sweep, Variant
from qreg_yolo.quant.convert import distinct_layers
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan, QuantSpec
from qreg_yolo.quant.weight_noise import (
    QuantizedWeight,
    WeightNoise,
    float_weight,
    no_noise,
    noise_of,
    pooled,
    ptq_weights,
    quantized_weights,
)
from qreg_yolo.terminal import Progress, no_progress

Plan = Callable[[QuantSpec], Mapping[str, LayerPlan]]
"""Plans the layers of a network for a spec."""


@dataclass(frozen=True, kw_only=True)
class NoiseRequest:
    """The request of a track's ``measure``; None: as the checkpoint was trained, or the default."""

    weights: Path
    sweep: Sweep = field(default_factory=Sweep)
    losses: bool = True
    """Whether gradients and losses are measured, which needs data."""
    data: str | None = None
    split: str | None = None
    """None: ``train``, because the theorem is about the training loss."""
    limit: int | None = None
    """Size of a fixed random subset; None: the track's ``LIMIT``."""
    device: str | None = None
    threads: int | None = None
    folder: Path | None = None
    """Folder of the report, checked before the work."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One quantization of the weights and its measurements."""

    variant: Variant
    trained: bool
    """Whether the network was trained with these quantizers."""
    layers: Mapping[str, WeightNoise]
    """The layers whose weights are quantized, by full name."""
    total: WeightNoise
    """All of them; all layers without noise if the list is empty."""
    gradients: Mapping[str, float] = field(default_factory=dict)
    """Mean over the sample of ``||dy/dw||_F^2`` of every layer at w_q; empty: not measured."""
    gradient_norm: Interval | None = None
    """The same of all layers together; interval over the sample."""
    penalty: Interval | None = None
    """``sum_l sigma_l^2 ||dy/dw_l||_F^2`` at w_q, mean over the sample: the theorem's, for the squared error."""
    relative_norm: Interval | None = None
    """``sum_l Var(w_l) ||dy/dw_l||_F^2`` at w_q, mean over the sample: unlike the norm itself, it does not change if
    BatchNorm follows a layer and the layer's weights are rescaled."""
    of_images: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``gradient_norm`` and ``relative_norm`` of each sample, to compare networks image by image."""
    losses: Mapping[str, LossIncrease] = field(default_factory=dict)
    """Name -> rise; empty without noise."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        total = self.total.to_dict()
        gradients = {name: finite(norm) for name, norm in self.gradients.items()}
        layers = [
            {"name": name, **noise.to_dict(), "gradient_norm": gradients.get(name)}
            for name, noise in self.layers.items()
        ]
        return {
            "method": self.variant.method,
            "shared_with": list(self.variant.shared_with),
            "trained": self.trained,
            **total,
            "bits": self.variant.bits,
            "gradient_norm": self.gradient_norm and self.gradient_norm.to_dict(),
            "penalty": self.penalty and self.penalty.to_dict(),
            "relative_norm": self.relative_norm and self.relative_norm.to_dict(),
            "of_images": {name: list(map(finite, values)) for name, values in self.of_images.items()},
            "losses": {name: increase.to_dict() for name, increase in self.losses.items()},
            "layers": layers,
        }


def study(
    model: nn.Module,
    layers: Sequence[str],
    plan: Plan,
    sweep: Sweep,
    *,
    own: QuantSpec | None = None,
    task: Task | None = None,
    progress: Progress = no_progress,
) -> list[Row]:
    """Returns a row per quantization: the network's own first where it has one, then the sweep's.

    Args:
        model: Float, or quantized: the sweep then quantizes its latent float weights, and its input quantizers stay.
        layers: Full names of the layers whose gradients count; each once.
        plan: How a spec quantizes the model.
        sweep: What is asked for.
        own: What the model was trained with, where its weights are quantized.
        task: What gradients and losses are measured on; None: neither.
        progress: Shows how far it is.

    Raises:
        ValueError: No layer, or one whose weight has no elements.
    """
    if not layers:
        raise InvalidValueError("The network has no convolution or linear layer whose weights could be quantized.")
    cases = list(_cases(model, layers, plan, sweep, own))
    noises = [noise_of(rounding) for _, rounding in cases]
    plain = {name: float_weight(model, name) for name in layers}
    steps = 0 if task is None else sum(len(task.batches) + bool(r) * passes(task, sweep.draws) for _, r in cases)
    show = no_progress if task is None else progress
    rows = []
    with weights_exposed(model), show("gradients and losses", steps) as advance:
        for number, ((variant, rounding), noise) in enumerate(zip(cases, noises, strict=True)):
            total = pooled(list(noise.values()) or [no_noise(weight) for weight in plain.values()])
            measured = {} if task is None else _measured(plain, rounding, sweep, task, advance)
            trained = own is not None and number == 0
            rows.append(Row(variant=variant, trained=trained, layers=noise, total=total, **measured))
    return rows


def _cases(
    model: nn.Module, layers: Sequence[str], plan: Plan, sweep: Sweep, own: QuantSpec | None
) -> Iterator[tuple[Variant, dict[str, QuantizedWeight]]]:
    if own is not None:
        yield Variant(own.method, (), own.weight_bits, own), quantized_weights(model)
    for variant in sweep.variants():
        plans = {name: layer for name, layer in plan(variant.spec).items() if name in layers}
        yield variant, ptq_weights(model, plans)


def _measured(
    plain: Weights, rounding: Mapping[str, QuantizedWeight], sweep: Sweep, task: Task, advance: Advance
) -> dict[str, Any]:
    """Returns a row's gradients, penalty and losses; the draws are the same for every row."""
    ideal, quantized = _both(plain, rounding)
    generator = torch.Generator().manual_seed(sweep.seed)
    norms = []
    for x, _ in task.batches:
        norms.append(squared_norms(task.outputs, quantized, x, generator).double().cpu())
        advance(1)
    of_sample = torch.cat(norms)
    of_noise = _variances({name: quantized[name] - weight for name, weight in ideal.items()})
    relative = (of_sample @ _variances(quantized)).tolist()
    absolute = of_sample.sum(1).tolist()
    losses = (
        loss_increases(
            task, ideal, quantized, draws=sweep.draws, generator=generator.manual_seed(sweep.seed), advance=advance
        )
        if rounding
        else {}
    )
    return {
        "gradients": dict(zip(ideal, of_sample.mean(0).tolist(), strict=True)),
        "gradient_norm": mean_interval(absolute),
        "penalty": mean_interval((of_sample @ of_noise).tolist()),
        "relative_norm": mean_interval(relative),
        "of_images": {"gradient_norm": absolute, "relative_norm": relative},
        "losses": losses,
    }


def _variances(tensors: Weights) -> Tensor:
    """Returns the variance of each layer's numbers, `(layers,)`."""
    return torch.stack([tensor.var(correction=0).double().cpu() for tensor in tensors.values()])


@torch.no_grad()
def _both(plain: Weights, rounding: Mapping[str, QuantizedWeight]) -> tuple[Weights, Weights]:
    """Returns the weights before and after rounding, as the network uses them; the others as they are in both."""
    ideal = {name: quantizer.ideal(weight).to(weight.dtype) for name, (quantizer, weight) in rounding.items()}
    quantized = {name: quantizer(weight) for name, (quantizer, weight) in rounding.items()}
    return {**plain, **ideal}, {**plain, **quantized}


def gradient_layers(model: nn.Module, plan: Plan) -> list[str]:
    """Returns the layers whose weights could be quantized, each under the first of its names."""
    possible = plan(QuantSpec(weight_bits=8, act_bits=FLOAT_BITS, first_last_bits="same"))
    return [name for name in distinct_layers(model) if name in possible]


def study_report(
    model: nn.Module,
    plan: Plan,
    request: NoiseRequest,
    *,
    spec: QuantSpec,
    about: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    task: Callable[[], Task] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Returns the `report` of a checkpoint's `study`.

    Args:
        model: The network.
        plan: How a spec quantizes it.
        request: The request of a track's ``measure``.
        spec: The quantization of its training.
        about: The track and the name of the model.
        data: Dataset, split and number of images of ``task``.
        task: Makes the task of `study`, once the folder of the report is known to be writable.
        progress: As in `study`.
    """
    if request.folder is not None:
        writable_project(request.folder, "--out")
    own = spec if quantized_weights(model) else None
    made = None if task is None else task()
    rows = study(model, gradient_layers(model, plan), plan, request.sweep, own=own, task=made, progress=progress)
    described = {"weights": str(request.weights), **about, "label": spec.label, **records.provenance(), **(data or {})}
    return report(described, request.sweep, rows)


def report(about: Mapping[str, Any], sweep: Sweep, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns a study as plain values for JSON: data, settings, and a row per quantization.

    Args:
        about: The checkpoint and the data.
        sweep: What was asked for.
        rows: From `study`.
    """
    return {**about, "draws": sweep.draws, "seed": sweep.seed, "rows": [row.to_dict() for row in rows]}
