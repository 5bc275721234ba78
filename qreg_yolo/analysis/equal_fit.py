"""Validation at equal training loss: whether a network generalizes better, or has only fitted its training set less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qreg_yolo.analysis.overfitting import over_seeds
from qreg_yolo.analysis.results_csv import Curve
from qreg_yolo.analysis.tables import Entry, Table

EPOCHS = 5
"""Over so many epochs a loss is averaged."""
TOLERANCE = 0.05
"""Mean training losses that differ by more of themselves are not equal: the other run was never there, or ran past."""


@dataclass(frozen=True)
class EqualFit:
    """The end of one run, and another run where it had the same training loss."""

    training: float
    """Mean over the run's last epochs."""
    validation: float
    """The same."""
    other: float
    """Mean over the other run's epochs of the nearest training loss; nan: theirs is another."""


def equal_fit(training: Curve, validation: Curve, other_training: Curve, other_validation: Curve) -> EqualFit:
    """Returns a run's last epochs beside those epochs of another run that fitted the training set equally well.

    Args:
        training: Of the run, a loss per epoch.
        validation: The same epochs.
        other_training: Of the other run.
        other_validation: The same epochs as that.
    """
    target = float(np.mean(training.values[-EPOCHS:]))
    at = float(np.mean(validation.values[-EPOCHS:]))
    usable = np.isfinite(other_training.values) & np.isfinite(other_validation.values)
    losses, values = other_training.values[usable], other_validation.values[usable]
    nearest = np.argsort(abs(losses - target), kind="stable")[:EPOCHS]
    equal = len(nearest) > 0 and abs(float(np.mean(losses[nearest])) - target) <= TOLERANCE * abs(target)
    return EqualFit(target, at, float(np.mean(values[nearest])) if equal else math.nan)


def equal_fit_table(
    training: Mapping[str, Sequence[Curve]], validation: Mapping[str, Sequence[Curve]], x: str, column: str
) -> Table:
    """Returns a row per label but the first, each of its runs beside the first label's run in the same place.

    Args:
        training: Label -> one curve per run: what is held equal.
        validation: The same labels and runs.
        x: What ``training`` is, for the header.
        column: What ``validation`` is.
    """
    first, *others = training
    header = ("run", "seeds", f"{x}, last", f"{column}, last", f"{first} at the same {x}", "difference")
    rows: list[tuple[Entry, ...]] = []
    for label in others:
        runs = (training[label], validation[label], training[first], validation[first])
        found = [equal_fit(*curves) for curves in zip(*runs, strict=False)]  # runs without a partner are left out
        columns = [[one.training for one in found], [one.validation for one in found], [one.other for one in found]]
        columns.append([one.validation - one.other for one in found])
        rows.append((label, str(len(found)), *map(over_seeds, columns)))
    notes = (
        f"Last: mean of the last {EPOCHS} epochs. At the same: of {first}'s {EPOCHS} epochs nearest to it.",
        f"-: their mean is not within {TOLERANCE:.0%} of it.",
        f"A run is compared with {first}'s in the same place of the list. Over them: mean ± standard deviation.",
    )
    return Table(f"{column} at equal {x}", header, tuple(rows), notes, digits=5)
