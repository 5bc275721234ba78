"""The overfitting gap: how far a validation loss has risen from its best epoch, and how far it is above training's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from qreg_yolo.analysis.comparison import Estimate
from qreg_yolo.analysis.results_csv import Curve
from qreg_yolo.analysis.tables import Entry, Table
from qreg_yolo.metrics.average_precision import Array

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
    """Returns the values; inf, so that it is never the best, where one is not finite."""
    return np.where(np.isfinite(curve.values), curve.values, np.inf)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Returns the mean and, of two values and more, their standard deviation."""
    return Estimate(
        float(np.mean(values)), sd=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, n=len(values)
    )
