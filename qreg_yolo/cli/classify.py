"""``qreg-yolo classify``: the classification track (CIFAR-10, CIFAR-100)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.process import find_own_code, prepare_ultralytics
from qreg_yolo.io.strict_yaml import ConfigError

TRAIN_EXAMPLES = """\b
Examples:
  qreg-yolo classify train --bits 4 --method lsq
  qreg-yolo classify train --model resnet20 --data cifar10 --data-dir DIR --bits 32
  qreg-yolo classify train --data cifar10 --data-dir DIR --bits 2 --epochs 8 --amp bf16 --seeds 0,1,2
  qreg-yolo classify train --data cifar10 --data-dir DIR --bits 2 --weights fp32.safetensors --teacher fp32.safetensors
  qreg-yolo classify train --resume runs/resnet20-cifar10-lsq-w4a4-s0/weights/last.safetensors"""
VAL_EXAMPLES = """\b
Examples:
  qreg-yolo classify val runs/resnet20-demo-lsq-w4a4-s0/weights/last.safetensors
  qreg-yolo classify val last.safetensors --data cifar10 --data-dir DIR"""
_NEW_RUN = ("weights", "teacher", "hyp", "seeds")
"""Options of a new run; a resumed one keeps its own."""

Data = Annotated[str | None, typer.Option(help="demo | cifar10 | cifar100. [default: demo, or the checkpoint's]")]
DataDir = Annotated[str | None, typer.Option(help="Folder with cifar-10-batches-py or cifar-100-python.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Accept data files that are not the official ones.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch the official archive (over the network).")]
Device = Annotated[str | None, typer.Option(help="cpu | cuda | cuda:1. [default: a GPU where there is one]")]
Model = Annotated[
    str | None,
    typer.Option(help="resnet20 | resnet18 | resnet50 | mobilenetv1 | package.module:factory. [default: resnet20]"),
]

app = typer.Typer(
    help="Train and measure quantized classifiers.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.callback()
def _classify() -> None:
    """Train and measure quantized classifiers."""


@app.command("train", epilog=TRAIN_EXAMPLES, short_help="Train a quantized classifier.")
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any option of the recipe, such as lr0=0.05.")
    ] = None,
    model: Model = None,
    data: Data = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    download: Download = False,
    bits: shared.Bits = None,
    weight_bits: shared.WeightBits = None,
    act_bits: shared.ActBits = None,
    method: shared.Method = None,
    weight_only: shared.WeightOnly = None,
    per_channel: shared.PerChannel = None,
    first_last_bits: shared.FirstLastBits = None,
    signed: shared.Signed = None,
    init: shared.Init = None,
    offset: shared.Offset = None,
    stages: shared.Stages = None,
    weights: Annotated[str | None, typer.Option(help="Checkpoint to start from. [default: from scratch]")] = None,
    teacher: shared.Teacher = None,
    hyp: shared.Recipe = None,
    train_images: Annotated[
        int | None, typer.Option(help="Size of a class-balanced subset to train on. [default: all]")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training set; the milestones scale with it.")
    ] = None,
    val_every: shared.ValEvery = None,
    no_epoch0: shared.NoEpoch0 = None,
    milestones: Annotated[
        str | None, typer.Option(help="Epochs at which the learning rate drops, such as 50,90,130,180.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Factor of the learning rate at a milestone.")] = None,
    lr0: Annotated[float | None, typer.Option(help="Learning rate at the start.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov", help="Nesterov's momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 coefficient of the network's parameters.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step, all processes together.")] = None,
    aug: Annotated[str | None, typer.Option(help="crop-flip | none.")] = None,
    amp: shared.Amp = None,
    compile_: Annotated[bool | None, typer.Option("--compile", help="Compile the network (minutes).")] = None,
    freeze_codes: shared.FreezeCodes = None,
    dampen: shared.Dampen = None,
    transition_rate: shared.TransitionRate = None,
    transition_eta: shared.TransitionEta = None,
    log_noise: shared.LogNoise = None,
    seed: shared.Seed = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of several runs, such as 0,1,2; prints mean and standard deviation.")
    ] = None,
    threads: shared.Threads = None,
    device: Device = None,
    project: Annotated[str | None, typer.Option(help="Folder of the run's folder. [default: runs]")] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder. [default: model, data, widths, seed]")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue an interrupted run from its last.safetensors.")] = None,
) -> None:
    """Train a quantized classifier (by default ResNet20 at 4 bits with LSQ, on the built-in demo set)."""
    options = shared.given(locals())
    from qreg_yolo.config.classification import KINDS
    from qreg_yolo.config.key_values import parse_overrides

    arguments = parse_overrides(options.pop("overrides", []), KINDS)
    if options.pop("no_verify"):
        options["verify"] = False
    if options.pop("no_epoch0", None):
        options["epoch0"] = False
    prepare_ultralytics(online=options.pop("download"), checkpoints=False)
    if resume is not None:
        _resume(options.pop("resume"), options, arguments)
    else:
        _train(options, arguments, download)


def _train(options: dict[str, Any], arguments: dict[str, Any], download: bool) -> None:
    from qreg_yolo.config.classification import default_recipe, resolve
    from qreg_yolo.config.fine_tuning import RECIPES, inherits

    hyp, seeds = options.pop("hyp", None), options.pop("seeds", None)
    default = default_recipe(str(options.get("data") or arguments.get("data", "demo")))
    inherited, weights = None, options.get("weights") or arguments.get("weights")
    is_float = resolve(None, options, arguments)[0].quant.is_float
    if weights is not None and inherits("classify", hyp, is_float=is_float):
        from qreg_yolo.classify.checkpoint import inherited_settings

        inherited = inherited_settings(Path(str(weights)), options, arguments)
        default = default if inherited is None else RECIPES["classify"]
    recipe = shared.recipe(hyp, default)
    if recipe is not None:
        options["recipe"] = recipe.stem
    config, notices = resolve(recipe, options, arguments, inherited)
    several = parse_seeds(seeds)
    if several and "seed" in {*options, *arguments}:
        raise ConfigError(f"--seeds {seeds} and a seed exclude each other. Give one of them.")
    fetch(config.run.data, config.run.data_dir, download)
    find_own_code(config.run.model)
    from qreg_yolo.classify import runs
    from qreg_yolo.classify.processes import say

    for notice in notices:
        say(notice)
    if config.run.data == "demo":
        say("Training on the built-in demo set. For CIFAR: --data cifar10 --data-dir DIR.")
    say(runs.train(config, several))


def _resume(checkpoint: Path, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    from qreg_yolo.config.classification import together

    shared.refuse_with_resume(options, _NEW_RUN)
    request = together(options, arguments)
    find_own_code(request.get("model", ""))
    from qreg_yolo.classify import runs
    from qreg_yolo.classify.processes import say

    say(runs.resume(checkpoint, request))


@app.command("val", epilog=VAL_EXAMPLES, short_help="Measure a classifier.")
def val(
    weights: Annotated[Path, typer.Argument(help="Checkpoint, such as weights/last.safetensors.")],
    data: Data = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    download: Download = False,
    split: Annotated[str | None, typer.Option(help="train, or val (demo) or test (CIFAR).")] = None,
    model: Annotated[str | None, typer.Option(help="The checkpoint's own package.module:factory.")] = None,
    threads: shared.Threads = None,
    device: Device = None,
    project: Annotated[str | None, typer.Option(help="Folder of the results. [default: runs]")] = None,
) -> None:
    """Measure a checkpoint: accuracy and loss on the test images."""
    prepare_ultralytics(online=download, checkpoints=False)
    fetch(data or "demo", data_dir, download)
    find_own_code(model or "")
    from qreg_yolo.classify import runs

    asked = runs.Measuring(
        data=data, data_dir=data_dir, verify=not no_verify, split=split, model=model, threads=threads, device=device,
        project=project,
    )  # fmt: skip
    print(runs.validate(weights, asked))


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Returns the seeds in ``0,1,2``; none for None.

    Raises:
        ConfigError: Something else, or a seed twice.

    >>> parse_seeds("0,3")
    (0, 3)
    """
    if text is None:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise ConfigError(f"seeds={text!r} is not a list of different whole numbers. Write 0,1,2.")
    return tuple(int(part) for part in parts)


def fetch(data: str, data_dir: str | None, download: bool) -> None:
    """Downloads the official archive if ``download`` is set.

    Raises:
        ConfigError: No dataset, or no folder for it.
    """
    if not download:
        return
    if data == "demo" or data_dir is None:
        raise ConfigError("--download fetches CIFAR: give --data cifar10 or cifar100, and --data-dir, where to put it.")
    from qreg_yolo.classify.datasets import download_cifar

    download_cifar(data, Path(data_dir))
