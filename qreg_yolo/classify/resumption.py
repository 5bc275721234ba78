"""Configuration of a resumed run: options that may change, and those that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qreg_yolo.classify.checkpoint import Description, Progress
from qreg_yolo.config.classification import ClassifyConfig, as_milestones, from_mapping
from qreg_yolo.config.sections import QUANT
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec, spelled_out

RESUMABLE: tuple[str, ...] = ("compile", "data_dir", "device", "threads", "verify")
"""Options that may differ when a run is resumed."""


def resumed_config(
    checkpoint: Path, description: Description, progress: Progress, given: Mapping[str, Any]
) -> ClassifyConfig:
    """Returns the configuration of a resumed run: its own, updated by those ``given`` values that may change.

    Args:
        checkpoint: Its path, for the error text.
        description: Of the checkpoint.
        progress: Likewise.
        given: Options of the command line, flat.

    Raises:
        ConfigError: A finished run, a checkpoint that was moved, or an option that cannot change.
    """
    if progress.optimizer is None:
        raise ConfigError(
            f"'{checkpoint}' is of a finished run: nothing is left to resume. Use --weights to go on from it."
        )
    if checkpoint.absolute().parent.name != "weights":
        raise ConfigError(
            f"'{checkpoint}' does not lie in its run's folder (RUN/weights/{checkpoint.name}), where the run would go "
            "on. Put it back there, or use --weights to start from it."
        )
    source = f"the configuration in '{checkpoint}'"
    config = from_mapping(description.config, source)
    # With defaults where an older version wrote it, or a section is left out.
    sections = {"oscillation": asdict(config.oscillation), **config.to_dict()}
    for name, value in _spelled_out(given).items():
        section = next(s for s, keys in sections.items() if name in keys)
        if name in RESUMABLE:
            sections[section][name] = value
        elif sections[section][name] != value:
            raise ConfigError(
                f"'{checkpoint}' was trained with {name}={sections[section][name]}, this command asks for {value}. "
                f"What can change when a run is resumed: {', '.join(RESUMABLE)}. Drop the option, or start a new run."
            )
    return from_mapping(sections, source)


def _spelled_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options as a configuration holds them: both widths for ``bits``, lists for milestones."""
    quant = {name: value for name, value in given.items() if name in QUANT.keys}
    QuantSpec.from_options(quant)  # a wrong value has its own error
    options = {name: value for name, value in given.items() if name not in quant} | spelled_out(quant)
    if "milestones" in options:
        options["milestones"] = list(as_milestones(options["milestones"]))
    return options
