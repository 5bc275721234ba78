"""The jobs of a study: commands with a folder of results; what is done, and what is left, is read from the disk."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from qreg_yolo.io import files, records
from qreg_yolo.io.results_csv import EPOCH, ResultsError, read_results
from qreg_yolo.io.results_csv import FILE as RESULTS
from qreg_yolo.metrics.conditions import CLEAN, Condition
from qreg_yolo.quant.spec import FLOAT_BITS


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One command of a study."""

    name: str
    """Unique in the study, such as ``train/yolov5n-fp32-s0``."""
    needs: tuple[Job, ...] = ()
    """Jobs that have to be done before."""
    after: tuple[Job, ...] = ()
    """Jobs that have to be over before, done or failed."""
    kind: ClassVar[str]
    unit: ClassVar[str] = "step"
    """Noun of what `total` counts."""
    wide: ClassVar[bool] = False
    """Whether it takes the threads of all jobs."""

    @property
    def group(self) -> str:
        """Jobs of one group take about the same time per unit."""
        return self.kind

    @property
    def total(self) -> int:
        """Units of work."""
        return 1

    def finished(self) -> int:
        """Returns the units of work that are on the disk."""
        return self.total if self.is_done() else 0

    @abstractmethod
    def is_done(self) -> bool:
        """Returns whether all of its results are on the disk."""

    def has_inputs(self) -> bool:
        """Returns whether there is anything to work on, once `after` is over."""
        return True

    @abstractmethod
    def command(self) -> list[str]:
        """Returns the arguments of ``qreg-yolo`` that do what is left; unusable remains are deleted."""


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """A training, detector or classifier."""

    folder: Path
    """The run's folder."""
    classify: bool
    model: str
    options: Mapping[str, Any]
    """Options of the command."""
    overrides: Mapping[str, Any]
    """Its ``key=value`` words."""
    config: Mapping[str, Any]
    """The whole configuration, as in the run's ``config.yaml``."""
    epochs: int
    label: str
    """Method or variant and widths, such as `lsq-w4a4`."""
    seed: int
    variant: str | None = None
    """Name of its variant; None: a baseline, or of a method."""
    kind = "train"
    unit = "epoch"

    @property
    def group(self) -> str:
        taught = " with a teacher" if self.config.get("distill", {}).get("teacher") is not None else ""
        return f"{self.kind} {self.model} {'fp32' if self.is_float else 'quantized'}{taught}"

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return all(self.config["quant"][name] == FLOAT_BITS for name in ("weight_bits", "act_bits"))

    @property
    def total(self) -> int:
        return self.epochs

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "weights" / ("last.safetensors" if self.classify else "last.pt")

    def finished(self) -> int:
        if self.is_done():
            return self.epochs
        try:
            rows = read_results(self.folder / RESULTS).column(EPOCH)
        except (ResultsError, OSError):
            return 0
        return min(len(rows), self.epochs)

    def is_done(self) -> bool:
        # A classifier's records are written before the checkpoint is replaced.
        pending = self.checkpoint.with_name(f".{self.checkpoint.name}.tmp")
        return (self.folder / records.FILE).is_file() and not (self.classify and pending.exists())

    def command(self) -> list[str]:
        start = ["classify", "train"] if self.classify else ["train"]
        if self._can_resume():
            own = {name: self.options[name] for name in ("data_dir", "model") if self.classify and name in self.options}
            return [*start, "--resume", str(self.checkpoint), *_options(own)]
        shutil.rmtree(self.folder, ignore_errors=True)  # nothing of it can be used
        places = {"project": str(self.folder.parent), "name": self.folder.name}
        return [*start, *_options(self.options), *(f"{k}={_word(v)}" for k, v in {**self.overrides, **places}.items())]

    def _can_resume(self) -> bool:
        """Returns whether there is a checkpoint; a detector's, until its run is finished, with a sidecar."""
        return self.checkpoint.is_file() and (self.classify or any(self.checkpoint.parent.glob("last.resume*.pt")))


@dataclass(frozen=True, kw_only=True)
class Robustness(Job):
    """The measurement of all trained networks under the protocol's conditions."""

    folder: Path
    trainings: Sequence[Training]
    conditions: Sequence[Condition]
    options: Mapping[str, Any]
    classify: bool
    kind = "robustness"
    unit = "condition"
    wide = True

    @property
    def total(self) -> int:
        return len(self.conditions) * len(self.trainings)

    @property
    def records(self) -> Path:
        """The table of its measurements."""
        return self.folder / records.FILE

    def finished(self) -> int:
        return len(self._wanted() & self._measured())

    def has_inputs(self) -> bool:
        return bool(self._trained())

    def is_done(self) -> bool:
        return self.has_inputs() and self._wanted() <= self._measured()

    def command(self) -> list[str]:
        start = ["classify", "robustness"] if self.classify else ["robustness"]
        weights = [f"{'' if one.variant is None else f'{one.variant}='}{one.checkpoint}" for one in self._trained()]
        return [*start, *weights, *_options({**self.options, "out": str(self.folder)})]

    def _trained(self) -> list[Training]:
        return [one for one in self.trainings if one.is_done()]

    def _wanted(self) -> set[tuple[str, Condition]]:
        """Returns the conditions of each trained network, with the SHA-256 of its checkpoint."""
        return {(_sha256(one.checkpoint), condition) for one in self._trained() for condition in self.conditions}

    def _measured(self) -> set[tuple[str, Condition]]:
        """Returns the conditions in the records, likewise."""
        if not self.records.is_file():
            return set()
        columns = ("weights_sha256", "corruption", "severity")
        rows = records.read(self.records).select(columns).unique().rows()
        return {(sha256, (name or CLEAN, severity or 0)) for sha256, name, severity in rows}


@dataclass(frozen=True, kw_only=True)
class Noise(Job):
    """The noise study of one network, or its gradients against its baseline's."""

    folder: Path
    training: Training
    against: Noise | None = None
    """The baseline's."""
    bits: Sequence[int] = ()
    methods: Sequence[str] = ()
    kind = "noise"

    @property
    def group(self) -> str:
        return f"{self.kind} {self.training.model} {'' if self.against is None else 'against'}"

    @property
    def report(self) -> Path:
        """Its JSON file."""
        return self.folder / "noise.json"

    def is_done(self) -> bool:
        return _newer(self.report, [self.training.checkpoint])

    def command(self) -> list[str]:
        options = {
            "bits": ",".join(map(str, self.bits)), "methods": ",".join(self.methods) or None,
            "against": None if self.against is None else self.against.folder,
            "data_dir": self.training.options.get("data_dir"), "out": self.folder,
        }  # fmt: skip
        return ["noise", str(self.training.checkpoint), *_options(options)]


@dataclass(frozen=True, kw_only=True)
class Analysis(Job):
    """A table or a figure, made anew when its measurements are newer."""

    inputs: Sequence[Path]
    output: Path
    arguments: Sequence[str]
    """All but ``--out``."""
    kind = "analysis"

    def is_done(self) -> bool:
        return _newer(self.output, [path for path in self.inputs if path.exists()])

    def command(self) -> list[str]:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return [*self.arguments, *self.runs(), "--out", str(self.output)]

    def runs(self) -> list[str]:
        """Returns the runs that the command names."""
        return []


@dataclass(frozen=True, kw_only=True)
class Curves(Analysis):
    """Curves of one column of trainings; seeds of a variant share a label."""

    trainings: Sequence[Training] = ()

    def has_inputs(self) -> bool:
        return any(one.is_done() for one in self.trainings)

    def runs(self) -> list[str]:
        return [f"{one.label}={one.folder}" for one in self.trainings if one.is_done()]


def _sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, read again only when its time or size has changed."""
    state = path.stat()
    return _sha256_of(path, state.st_mtime_ns, state.st_size)


@cache
def _sha256_of(path: Path, mtime_ns: int, size: int) -> str:
    return files.sha256(path)


def _newer(output: Path, inputs: Sequence[Path]) -> bool:
    """Returns whether a file exists and none of its inputs is newer."""
    return output.is_file() and all(path.stat().st_mtime_ns <= output.stat().st_mtime_ns for path in inputs)


def is_said(name: str, value: object) -> bool:
    """Returns whether a word of a command can say the value of an option; otherwise it is left out."""
    return value is not None and (value is not False or name == "epoch0")


def _options(options: Mapping[str, Any]) -> list[str]:
    """Returns options as words: ``{"weight_only": True, "bits": 4}`` as ``--weight-only --bits 4``."""
    words = []
    for name, value in options.items():
        if not is_said(name, value) or (name == "epoch0" and value):
            continue
        words.append("--no-epoch0" if name == "epoch0" else f"--{name.replace('_', '-')}")
        if not isinstance(value, bool):
            words.append(str(value))
    return words


def _word(value: object) -> str:
    """Returns the text of a value in a ``key=value`` word."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_word, value))}]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
