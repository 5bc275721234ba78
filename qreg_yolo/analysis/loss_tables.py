"""Overfitting, and the loss-matched comparison: does a network generalize better, or fit its training set less?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qreg_yolo.analysis.curves import Curve
from qreg_yolo.analysis.table import Entry, Estimate, Table
from qreg_yolo.metrics.average_precision import Array

EPOCHS = 5
"""Epochs over which a loss is averaged."""
TOLERANCE = 0.05
"""Largest relative difference of mean training losses that count as equal."""


@dataclass(frozen=True)
class LossMatched:
    """The losses of one run at its end, and another run's where its training loss was the same."""

    training: float
    """The run's training loss, mean over its last `EPOCHS` epochs."""
    validation: float
    """Its validation loss over the same epochs."""
    other: float
    """The other run's validation loss, mean over its `EPOCHS` epochs of nearest training loss; nan: none is near."""


def loss_matched(training: Curve, validation: Curve, other_training: Curve, other_validation: Curve) -> LossMatched:
    """Compares a run's last epochs with the epochs of another run that have the same training loss.

    Args:
        training: The run's training loss, `(epochs,)`.
        validation: Its validation loss of the same epochs.
        other_training: The other run's training loss, `(epochs of that run,)`.
        other_validation: Its validation loss of the same epochs.
    """
    validated = ~np.isnan(validation.values)
    target = float(np.mean(training.values[np.isin(training.epochs, validation.epochs[validated])][-EPOCHS:]))
    at = float(np.mean(validation.values[validated][-EPOCHS:]))
    usable = np.isfinite(other_training.values) & np.isfinite(other_validation.values)
    losses, values = other_training.values[usable], other_validation.values[usable]
    nearest = np.argsort(abs(losses - target), kind="stable")[:EPOCHS]
    equal = len(nearest) > 0 and abs(float(np.mean(losses[nearest])) - target) <= TOLERANCE * abs(target)
    return LossMatched(target, at, float(np.mean(values[nearest])) if equal else math.nan)


def loss_matched_table(
    training: Mapping[str, Sequence[Curve]], validation: Mapping[str, Sequence[Curve]], x: str, column: str
) -> Table:
    """Returns a row per label but the first: each of its runs compared with the first label's run of the same place.

    Args:
        training: Label -> the training loss of each run: the loss that is matched. The nth runs of two labels are
            compared; runs without a partner are left out, and a note counts them.
        validation: The validation loss of the same labels and runs.
        x: What ``training`` is, for the header.
        column: What ``validation`` is.
    """
    first, *others = training
    header = ("run", "seeds", f"{x}, last", f"{column}, last", f"{first} at the same {x}", "difference")
    rows: list[tuple[Entry, ...]] = []
    alone: list[str] = []
    for label in others:
        pairs = min(len(training[label]), len(training[first]))
        runs = (training[label], validation[label], training[first], validation[first])
        found = [loss_matched(*curves) for curves in zip(*(side[:pairs] for side in runs), strict=True)]
        if left := len(training[label]) - pairs:
            alone.append(f"Left out, because {first} has {pairs} runs: the last {left} of {label}.")
        columns = [[one.training for one in found], [one.validation for one in found], [one.other for one in found]]
        columns.append([one.validation - one.other for one in found])
        rows.append((label, str(len(found)), *map(over_seeds, columns)))
    notes = (
        f"Last: mean of the last {EPOCHS} epochs. At the same: of {first}'s {EPOCHS} epochs nearest to it.",
        f"-: their mean is not within {TOLERANCE:.0%} of it.",
        f"A run is compared with {first}'s in the same place of the list. Over them: mean ± standard deviation.",
        *alone,
    )
    return Table(f"{column} at equal {x}", header, tuple(rows), notes, digits=5)


RELATIVE = "gap, % of best"
NOTES = (
    "Gap: last minus best validation loss. Over seeds: mean ± standard deviation of each run's value.",
    "The training loss is a mean over the epoch, on augmented images and while the weights change.",
)


def overfitting_table(
    validation: Mapping[str, Sequence[Curve]], training: Mapping[str, Sequence[Curve]], column: str
) -> Table:
    """Returns one row per label: best epoch, best and last validation loss, their gap, and both against training.

    Args:
        validation: Label -> one curve per seed. Epochs whose loss is not finite are left out. Of a best loss of 0,
            which a detector has whose anchors match no object, the gap has no percentage: nan.
        training: The same of the training loss; empty where the runs did not record it.
        column: What the losses are, for the title.
    """
    header = ["run", "seeds", "best epoch", "best", "last", "gap", RELATIVE]
    header += ["training, last", "validation - training, last"] if training else []
    rows: list[tuple[Entry, ...]] = []
    for label, seeds in validation.items():
        best = [float(np.min(_finite(one))) for one in seeds]
        epochs = [one.epochs[np.argmin(_finite(one))] for one in seeds]
        last = [float(one.values[-1]) for one in seeds]
        gap = [end - low for end, low in zip(last, best, strict=True)]
        relative = [100 * rise / low if low else math.nan for rise, low in zip(gap, best, strict=True)]
        columns = [best, last, gap, relative]
        if training:
            trained = [float(one.values[-1]) for one in training[label]]
            columns += [trained, [end - low for end, low in zip(last, trained, strict=True)]]
        at = ", ".join(f"{epoch:g}" for epoch in epochs)
        rows.append((label, str(len(seeds)), at, *map(over_seeds, columns)))
    notes = NOTES[: 1 + bool(training)]
    return Table(f"Overfitting: {column}", tuple(header), tuple(rows), notes, digits=5, digits_of={RELATIVE: 1})


def _finite(curve: Curve) -> Array:
    """Returns the values; inf for one that is not finite, so that it is never the best."""
    return np.where(np.isfinite(curve.values), curve.values, np.inf)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean and, of two values and more, their standard deviation."""
    return Estimate(
        float(np.mean(values)), sd=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, n=len(values)
    )
