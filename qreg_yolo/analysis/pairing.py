"""Which full-precision run each quantized run is compared with: its twin, trained and measured alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qreg_yolo.analysis.measurements import Measurement
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io.records import settings_differences
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.errors import AnalysisError

ALIKE = ("track", "model", "data", "split", "seed", "metric", "preset", "n_images")
"""Columns in which a run and its baseline agree, apart from their evaluation."""


@dataclass(frozen=True)
class Pair:
    """A quantized run and its full-precision twin."""

    quantized: Measurement
    fp32: Measurement


def pair_twins(measured: Iterable[Measurement], baselines: Sequence[str] = ()) -> list[Pair]:
    """Returns each quantized run with its fp32 twin, in the order given.

    Args:
        measured: Quantized and fp32 runs.
        baselines: Run ids; where given, only these count as twins.

    Raises:
        ConfigError: A baseline that is no fp32 run here.
        AnalysisError: A run without a twin, with several, or with one that was evaluated otherwise (unless that one is
            among ``baselines``); or nothing to compare.
    """
    measured = list(measured)
    floats = [one for one in measured if one.method == "fp32"]
    quantized = [one for one in measured if one.method != "fp32"]
    ids = list(dict.fromkeys(one.run_id for one in floats))
    for baseline in baselines:
        if baseline not in ids:
            raise ConfigError(
                f"baseline={baseline!r} is no fp32 run in these records.{did_you_mean(baseline, ids)} "
                f"There are: {', '.join(ids) or 'none'}."
            )
    if not quantized:
        raise AnalysisError("The records hold no quantized run. Give records with one and its fp32 twin.")
    return [Pair(one, _twin(one, floats, baselines)) for one in quantized]


def _twin(one: Measurement, floats: Iterable[Measurement], baselines: Sequence[str]) -> Measurement:
    def traits(run: Measurement) -> tuple[object, ...]:
        return tuple(getattr(run, name) for name in ALIKE)

    alike = [other for other in floats if traits(other) == traits(one)]
    twins = alike if baselines else [other for other in alike if not evaluated_otherwise(one, other)]
    if alike and not twins:
        other = alike[0]
        raise AnalysisError(
            f"{one.run_id} and its fp32 baseline {other.run_id} were evaluated differently: "
            f"{'; '.join(evaluated_otherwise(one, other))}. Measure both alike, or compare them all the same with "
            f"--baseline {other.run_id}."
        )
    chosen = [twin for twin in twins if not baselines or twin.run_id in baselines]
    if len(chosen) == 1:
        return chosen[0]
    if not twins:
        wanted = ", ".join(f"{name}={value}" for name, value in zip(ALIKE, traits(one), strict=True))
        raise AnalysisError(
            f"Run {one.run_id} has no fp32 twin. Looked for: method=fp32, {wanted}. Measure that one into the same "
            "records, or leave the run out with --runs."
        )
    names = " and ".join(twin.run_id for twin in (chosen or twins))
    if not chosen:
        raise AnalysisError(f"None of the baselines is a twin of run {one.run_id}. Its twins: {names}.")
    raise AnalysisError(
        f"Run {one.run_id} has {len(chosen)} fp32 twins: {names}. Choose one with --baseline RUN_ID, or narrow the "
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
    """Returns one sentence per pair that was measured in different arithmetic, in which case numbers differ anyway.

    For anybody who compares records: a difference of a model in bf16 from its twin in fp32 is not quantization's alone.
    """
    return [
        f"Different arithmetic: {pair.quantized.run_id} was measured in {pair.quantized.precision}, its twin "
        f"{pair.fp32.run_id} in {pair.fp32.precision}. The difference is not quantization's alone."
        for pair in pairs
        if pair.quantized.precision != pair.fp32.precision
    ]
