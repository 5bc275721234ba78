"""The robustness square of one run, read from records: one value per condition, in points (0..100)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qreg_yolo.corrupt.spec import NAMES
from qreg_yolo.errors import AnalysisError, MissingFileError, did_you_mean
from qreg_yolo.io import records
from qreg_yolo.io.records import settings_differences
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import (
    CLEAN,
    DEFAULT_METRICS,
    Condition,
    check_condition,
    check_severities,
    conditions_of,
)

if TYPE_CHECKING:
    import polars

_POINTS = {"fraction": 100.0, "points": 1.0, "percent": 1.0}
"""Unit of the records -> factor to points."""
_RUN = (
    "run_id", "track", "model", "variant", "method", "weight_bits", "act_bits", "precision", "seed", "data", "split",
    "n_images", "evaluation", "metric",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run measured on one set of images: its provenance as in the records, and its values.

    A run that was measured on several sets, or with several presets of the corruptions, is several measurements.
    """

    run_id: str
    track: str
    model: str
    variant: str | None = None
    """Name of the study's variant; None: a baseline or a method."""
    method: str
    weight_bits: int
    act_bits: int
    precision: str
    seed: int
    data: str
    split: str
    n_images: int
    evaluation: str | None = None
    """Settings of the evaluation (`records.settings_text`); None: an older table."""
    metric: str
    preset: str | None
    """None: only clean images were measured."""
    values: Mapping[Condition, float] = field(repr=False)
    """Condition -> points."""

    @property
    def bits(self) -> str:
        """Widths in words: ``fp32``, ``8``, ``w4a8``."""
        if self.method == "fp32":
            return "fp32"
        return str(self.weight_bits) if self.weight_bits == self.act_bits else f"w{self.weight_bits}a{self.act_bits}"

    @property
    def model_name(self) -> str:
        """Name of the model without the ending of its YAML."""
        return self.model.removesuffix(".yaml")

    @property
    def label(self) -> str:
        """Variant or method, and widths, without the seed: ``lsq 8``; ``fp32``."""
        return self.title if self.method == "fp32" else f"{self.title} {self.bits}"

    @property
    def title(self) -> str:
        """The variant, or the method without one."""
        return self.variant or self.method

    @property
    def is_baseline(self) -> bool:
        """Whether it is an fp32 baseline; a variant in full precision, trained on from one, does not count."""
        return self.method == "fp32" and self.variant is None

    @property
    def severities(self) -> tuple[int, ...]:
        """The severities at which a corruption was measured, ascending."""
        return tuple(sorted({severity for name, severity in self.values if name != CLEAN}))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A selection of records; None: all of them."""

    metric: str | None = None
    """None: the default of each record's track (`DEFAULT_METRICS`)."""
    runs: Sequence[str] = ()
    """Patterns of run ids, such as ``*-best-*``; none: all."""
    data: str | None = None
    split: str | None = None
    preset: str | None = None


def read_measurements(path: Path, selection: Selection = Selection()) -> list[Measurement]:
    """Returns the measurements in a table of records, in the order of their first rows.

    Where a condition was measured twice the last row counts, since the table only grows.

    Raises:
        FileNotFoundError: No such file.
        RecordsError: It is not a table of records.
        ConfigError: The selection names something that the table does not hold.
        AnalysisError: A corruption, severity or unit that does not exist.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist. Give the records.csv that a run or 'robustness' wrote.")
    return measurements(records.read(path), selection, str(path))


def measurements(
    table: polars.DataFrame,
    selection: Selection = Selection(),
    source: str = "The records",
) -> list[Measurement]:
    """Returns the measurements in records that were read already; see `read_measurements`."""
    rows = _selected(table.to_dicts(), selection, source)
    groups: dict[tuple[Any, ...], dict[str | None, dict[Condition, float]]] = {}
    for row in rows:
        name = row["corruption"] or CLEAN
        severity = row["severity"] or 0
        check_condition(name, source)
        if name != CLEAN:
            check_severities([severity], f"{source}, '{name}' of run {row['run_id']}")
        if row["unit"] not in _POINTS:
            raise AnalysisError(
                f"{source}: metric={row['metric']!r} is in {row['unit']!r}, and only {', '.join(_POINTS)} can be "
                "compared in points. Choose another metric."
            )
        preset = None if name == CLEAN else row["preset"] or "unknown"
        presets = groups.setdefault(tuple(row[column] for column in _RUN), {})
        presets.setdefault(preset, {})[name, severity] = row["value"] * _POINTS[row["unit"]]
    found = []
    for key, presets in groups.items():
        clean = presets.pop(None, {})
        for preset, values in presets.items() or [(None, {})]:
            found.append(Measurement(**dict(zip(_RUN, key, strict=True)), preset=preset, values={**clean, **values}))
    return found


def _selected(rows: list[dict[str, Any]], selection: Selection, source: str) -> list[dict[str, Any]]:
    if not rows:
        raise AnalysisError(f"{source} holds no rows. Give a table with measurements.")
    if selection.metric is None:
        rows = _of_default_metric(rows, source)
    for name in ("metric", "data", "split", "preset"):
        wanted = getattr(selection, name)
        if wanted is None:
            continue
        values = sorted({str(row[name]) for row in rows if row[name] is not None})
        # A clean image has no preset: it goes with each of them.
        rows = [row for row in rows if row[name] == wanted or (name == "preset" and row["corruption"] is None)]
        if wanted not in values:
            raise ConfigError(
                f"{source}: {name}={wanted!r} is in no row.{did_you_mean(wanted, values)} "
                f"There are: {', '.join(values) or 'none'}."
            )
    if selection.runs:
        ids = list(dict.fromkeys(row["run_id"] for row in rows))
        for pattern in selection.runs:
            if not any(fnmatchcase(run_id, pattern) for run_id in ids):
                raise ConfigError(f"{source}: no run matches '{pattern}'. There are: {', '.join(ids)}.")
        rows = [row for row in rows if any(fnmatchcase(row["run_id"], pattern) for pattern in selection.runs)]
    return rows


def _of_default_metric(rows: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Returns the rows whose metric is the one that their track is compared in."""
    found = [row for row in rows if row["metric"] == DEFAULT_METRICS.get(row["track"], "map50_95")]
    if not found:
        wanted = dict.fromkeys(DEFAULT_METRICS.get(row["track"], "map50_95") for row in rows)
        values = sorted({row["metric"] for row in rows})
        raise ConfigError(
            f"{source}: {' or '.join(wanted)} is in no row. Choose another metric with --metric: {', '.join(values)}."
        )
    return found


def missing_conditions(run: Measurement, severities: Sequence[int]) -> list[Condition]:
    """Returns the conditions at these severities that were not measured, or are nan."""
    return [one for one in conditions_of(NAMES, severities) if math.isnan(run.values.get(one, math.nan))]


ALIKE = ("track", "model", "data", "split", "seed", "metric", "preset", "n_images")
"""Columns in which a run and its baseline agree, apart from their evaluation."""


@dataclass(frozen=True)
class Pair:
    """A quantized run and its full-precision baseline."""

    quantized: Measurement
    fp32: Measurement


def pair_with_baselines(measured: Iterable[Measurement], baselines: Sequence[str] = ()) -> list[Pair]:
    """Returns each quantized run with its fp32 baseline, in the order given.

    Args:
        measured: Quantized and fp32 runs.
        baselines: Run ids; where given, only these count as baselines.

    Raises:
        ConfigError: A baseline that is not an fp32 run here.
        AnalysisError: Nothing to compare, or a run that has no baseline, several, or one that was evaluated otherwise
            and is not named in ``baselines``.
    """
    measured = list(measured)
    floats = [one for one in measured if one.is_baseline]
    quantized = [one for one in measured if one.method != "fp32"]
    ids = list(dict.fromkeys(one.run_id for one in floats))
    for baseline in baselines:
        if baseline not in ids:
            raise ConfigError(
                f"baseline={baseline!r} is not an fp32 run in these records.{did_you_mean(baseline, ids)} "
                f"There are: {', '.join(ids) or 'none'}."
            )
    if not quantized:
        raise AnalysisError("The records hold no quantized run. Give records with one and its fp32 baseline.")
    return [Pair(one, _baseline(one, floats, baselines)) for one in quantized]


def _baseline(one: Measurement, floats: Iterable[Measurement], baselines: Sequence[str]) -> Measurement:
    def traits(run: Measurement) -> tuple[object, ...]:
        return tuple(getattr(run, name) for name in ALIKE)

    alike = [other for other in floats if traits(other) == traits(one)]
    candidates = alike if baselines else [other for other in alike if not evaluated_otherwise(one, other)]
    if alike and not candidates:
        other = alike[0]
        raise AnalysisError(
            f"{one.run_id} and its fp32 baseline {other.run_id} were evaluated differently: "
            f"{'; '.join(evaluated_otherwise(one, other))}. Measure both alike, or compare them all the same with "
            f"--baseline {other.run_id}."
        )
    chosen = [other for other in candidates if not baselines or other.run_id in baselines]
    if len(chosen) == 1:
        return chosen[0]
    if not candidates:
        wanted = ", ".join(f"{name}={value}" for name, value in zip(ALIKE, traits(one), strict=True))
        raise AnalysisError(
            f"Run {one.run_id} has no fp32 baseline. Looked for: method=fp32, {wanted}. Measure that one into the same "
            "records, or leave the run out with --runs."
        )
    names = " and ".join(other.run_id for other in (chosen or candidates))
    if not chosen:
        raise AnalysisError(f"Run {one.run_id} has none of these baselines; it has {names}.")
    raise AnalysisError(
        f"Run {one.run_id} has {len(chosen)} fp32 baselines: {names}. Choose one with --baseline RUN_ID, or narrow the "
        "records with --runs."
    )


def evaluated_otherwise(one: Measurement, other: Measurement) -> list[str]:
    """Returns the settings of the evaluation in which two runs differ."""
    return settings_differences(one.evaluation, other.evaluation)


def warnings_of(pairs: Iterable[Pair]) -> list[str]:
    """Returns one sentence per pair that was measured in different arithmetic, or with different settings."""
    pairs = list(pairs)
    return [*precision_warnings(pairs), *_evaluation_warnings(pairs)]


def _evaluation_warnings(pairs: Iterable[Pair]) -> list[str]:
    return [
        f"Different evaluation: {pair.quantized.run_id} and its baseline {pair.fp32.run_id} have {'; '.join(differ)}. "
        "The difference is not quantization's alone."
        for pair in pairs
        if (differ := evaluated_otherwise(pair.quantized, pair.fp32))
    ]


def precision_warnings(pairs: Iterable[Pair]) -> list[str]:
    """Returns one sentence per pair that was measured in different arithmetic, which alone changes numbers.

    A difference of a model in bf16 from its baseline in fp32 is not quantization's alone.
    """
    return [
        f"Different arithmetic: {pair.quantized.run_id} was measured in {pair.quantized.precision}, its baseline "
        f"{pair.fp32.run_id} in {pair.fp32.precision}. The difference is not quantization's alone."
        for pair in pairs
        if pair.quantized.precision != pair.fp32.precision
    ]
