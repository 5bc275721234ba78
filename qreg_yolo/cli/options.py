"""Options that several commands have, and the reading of a training command's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli.process import find_own_code
from qreg_yolo.config.key_values import Kind, parse_overrides, read_value
from qreg_yolo.config.sections import COMMAND_LINE
from qreg_yolo.config.ultralytics_arguments import KINDS, Command
from qreg_yolo.config.ultralytics_keys import check_values
from qreg_yolo.io.resources import recipe_path
from qreg_yolo.io.strict_yaml import ConfigError

Bits = Annotated[int | None, typer.Option(help="Width of weights and activations: 1..8, 32 = off. [default: 4]")]
WeightBits = Annotated[int | None, typer.Option(help="Width of the weights alone.")]
ActBits = Annotated[int | None, typer.Option(help="Width of the activations alone.")]
Method = Annotated[str | None, typer.Option(help="lsq | lsq+ | pact | dorefa. [default: lsq]")]
WeightOnly = Annotated[bool | None, typer.Option("--weight-only", help="Quantize weights only.")]
PerChannel = Annotated[bool | None, typer.Option("--per-channel", help="One weight step per output channel.")]
FirstLastBits = Annotated[
    str | None,
    typer.Option(
        "--first-last-bits", "--edge-bits", help="First and last layers: 8 | 32 | same. [default: lsq, lsq+ 8; else 32]"
    ),
]
Signed = Annotated[str | None, typer.Option(help="LSQ inputs: auto | signed | unsigned. [default: auto]")]
Stages = Annotated[
    str | None, typer.Option(help="First shares of the epochs at other widths, such as 0.2:fp32,0.3:w4a8.")
]
Init = Annotated[
    str | None,
    typer.Option(help="Start of the ranges: mse | paper | minmax | percentile. [default: mse with trained weights]"),
]
Offset = Annotated[str | None, typer.Option(help="LSQ+ zero points: integer | float. [default: integer]")]
LogNoise = Annotated[
    bool | None,
    typer.Option("--log-noise", help="Log each layer's weight noise and oscillations per epoch in results.csv."),
]
FreezeCodes = Annotated[
    float | None, typer.Option(help="Freeze codes that oscillate more often than this, 0 to 0.1. [default: 0, off]")
]
Dampen = Annotated[float | None, typer.Option(help="Factor of the dampening loss. [default: 0, off]")]
TransitionRate = Annotated[
    float | None, typer.Option(help="Share of codes to change per step, by sqrt(bits). [default: 0, off]")
]
TransitionEta = Annotated[float | None, typer.Option(help="Gain of the learning rate to that end. [default: 1]")]
NoEpoch0 = Annotated[bool | None, typer.Option("--no-epoch0", help="Do not measure the accuracy before training.")]
ValEvery = Annotated[int | None, typer.Option(help="Epochs from one validation to the next. [default: 1]")]
Teacher = Annotated[
    str | None, typer.Option(help="Checkpoint to learn from too, usually the fp32 baseline. [default: none]")
]
Amp = Annotated[str | None, typer.Option(help="Mixed precision: off | bf16 | auto. [default: off]")]
Recipe = Annotated[str | None, typer.Option(help="Recipe: a name or a YAML file. [default: by data]")]
Seed = Annotated[int | None, typer.Option(help="0 or more. [default: 0]")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: all cores]")]
Corruptions = Annotated[str, typer.Option(help="19 (all) | 15 (the benchmark's) | names such as fog,snow.")]
MeasuredCorruptions = Annotated[
    str, typer.Option(help="19 (all) | 15 (the benchmark's) | names such as fog,snow | none (clean images alone).")
]
Severities = Annotated[str, typer.Option(help="Such as 3, 1-5 or 1,3.")]
CorruptionSeed = Annotated[int, typer.Option(help="Seed of the corruptions.")]
FrostDir = Annotated[
    Path | None, typer.Option(help="Folder of frost overlays. [default: the installed ones, or drawn]")
]
Limit = Annotated[int | None, typer.Option(help="Size of a fixed random subset.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per batch. [default: as val]")]
ClassMap = Annotated[str | None, typer.Option(help="coco2voc, or a YAML file: data class to model class.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be used.")]
Online = Annotated[bool, typer.Option("--online", help="Let Ultralytics use the network.")]


def first_last(text: str | None) -> int | str | None:
    """Returns ``--first-last-bits`` as `QuantSpec` takes it: a width, or the word."""
    return int(text) if text in ("8", "32") else text


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, by their names in the configuration.

    Args:
        arguments: `locals()` at the start of a command: each parameter, None where it was not given.
    """
    found = {name.rstrip("_"): value for name, value in arguments.items() if value is not None}
    if "first_last_bits" in found:
        found["first_last_bits"] = first_last(found["first_last_bits"])
    if "average" in found:
        found["average"] = read_value("average", found["average"], Kind.NUMBER | Kind.TEXT)
    return found


def refuse_with_resume(options: Collection[str], new_run: Collection[str]) -> None:
    """Raises a `ConfigError` if one of the options is for new runs alone: a resumed run keeps its own."""
    for name in new_run:
        if name in options:
            raise ConfigError(
                f"--{name.replace('_', '-')} cannot be combined with --resume: a resumed run keeps its own. Remove one "
                "of them."
            )


def arguments_of(words: Sequence[str] | None, command: Command, **options: str | None) -> dict[str, Any]:
    """Returns ``key=value`` words, and the options that are Ultralytics' arguments too, by name.

    Raises:
        ConfigError: An unknown key, a wrong value, or an option and a word that disagree.
    """
    arguments = parse_overrides(words or [], KINDS)
    for name, value in options.items():
        if value is not None and arguments.setdefault(name, value) != value:
            raise ConfigError(f"--{name} {value} and {name}={arguments[name]} disagree. Give one of them.")
    check_values({name: value for name, value in arguments.items() if name != "data"}, COMMAND_LINE, command)
    return arguments


def of_a_classifier(
    weights: Path, own: Mapping[str, Any], of_detectors: Mapping[str, Any], arguments: Mapping[str, Any]
) -> bool:
    """Returns whether a checkpoint is a classifier's, once its own code can be found.

    Args:
        weights: The checkpoint.
        own: Options for classifiers.
        of_detectors: Options for detectors.
        arguments: The ``key=value`` words.

    Raises:
        ConfigError: An option for the other track.
    """
    from qreg_yolo.classify.checkpoint import is_classifier

    if not is_classifier(weights):
        refuse_classifier_options(own, weights)
        return False
    refuse_detector_options(of_detectors, weights)
    refuse_detector_arguments(arguments, weights)
    find_own_code(own["model"] or "")
    return True


def refuse_detector_options(options: Mapping[str, Any], weights: Path) -> None:
    """Raises a `ConfigError` if an option for detectors was given with a classifier's checkpoint."""
    for name, value in options.items():
        if value not in (None, {}):
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} applies to detectors; '{weights}' is a classifier. Remove it.")


def refuse_detector_arguments(arguments: Mapping[str, Any], weights: Path) -> None:
    """Raises a `ConfigError` if a ``key=value`` for detectors was given with a classifier's checkpoint."""
    for name in arguments:
        if name not in ("data", "split", "device", "project"):
            raise ConfigError(f"{name}= applies to detectors; '{weights}' is a classifier. Remove it.")


def refuse_classifier_options(options: Mapping[str, Any], weights: Path) -> None:
    """Raises a `ConfigError` if an option for classifiers was given with a detector's checkpoint."""
    for name, value in options.items():
        if value not in (None, True):
            option = {"verify": "no-verify", "data_dir": "data-dir"}.get(name, name)
            raise ConfigError(f"--{option} applies to classifiers; '{weights}' is a detector. Remove it.")


def recipe(hyp: str | None, default: str | None) -> Path | None:
    """Returns the file of the recipe that ``--hyp`` names, or of the default one; None without either.

    Raises:
        ConfigError: There is no such recipe (the nearest is named) or file.
    """
    name = default if hyp is None else hyp
    try:
        return None if name is None else recipe_path(name)
    except FileNotFoundError as error:
        raise ConfigError(f"--hyp: {error}") from None
