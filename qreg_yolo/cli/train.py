"""``qreg-yolo train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.config.checks import AMP_CHOICES
from qreg_yolo.config.detection import DISTILL_OPTIONS, LAYOUT, RunConfig, default_recipe, resolve
from qreg_yolo.config.fine_tuning import RECIPES, inherits
from qreg_yolo.config.key_values import parse_overrides
from qreg_yolo.config.ultralytics_arguments import KINDS
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import FLOAT_BITS

EXAMPLES = """\b
Examples:
  qreg-yolo train --bits 4 --method lsq
  qreg-yolo train --bits 32
  qreg-yolo train --weight-bits 2 --act-bits 8 --per-channel epochs=50 imgsz=320 batch=16
  qreg-yolo train --method dorefa --bits 4 --weight-only --data voc --weights yolov5nu.pt
  qreg-yolo train --bits 4 --weights runs/yolov5n-fp32-s0/weights/last.pt
  qreg-yolo train --bits 4 --from-baseline --head anchor --weights yolov5n.pt
  qreg-yolo train --bits 4 --data voc --weights fp32.pt --teacher fp32.pt
  qreg-yolo train --resume runs/yolov5n-lsq-w4a4-s0/weights/last.pt"""

_NEW_RUN = (
    "model", "data", "weights", "teacher", "distill", "hyp", "seed", "head", "autoanchor", "average", "log_noise",
    "val_every", "no_epoch0", "freeze_codes", "dampen", "transition_rate", "transition_eta", "from_baseline",
)  # fmt: skip
"""Options of a new run; a resumed one keeps its own."""


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics training argument.")
    ] = None,
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
    activation: Annotated[str | None, typer.Option(help="silu | relu. [default: silu]")] = None,
    head: Annotated[
        str | None, typer.Option(help="anchor_free | anchor (YOLOv5's own). [default: anchor_free]")
    ] = None,
    autoanchor: Annotated[bool | None, typer.Option("--autoanchor", help="Fit the anchors to the data.")] = None,
    model: Annotated[str | None, typer.Option(help="Ultralytics detection YAML. [default: yolov5n.yaml]")] = None,
    data: Annotated[str | None, typer.Option(help="Data YAML, demo or voc. [default: demo]")] = None,
    weights: Annotated[str | None, typer.Option(help="Checkpoint to start from; also YOLOv5 weights.")] = None,
    from_baseline: Annotated[
        bool | None,
        typer.Option(
            "--from-baseline", help="Train the fp32 baseline first (or take the finished one), and start there."
        ),
    ] = None,
    teacher: shared.Teacher = None,
    distill: Annotated[
        str | None, typer.Option(help="Learned from the teacher: logits | features | both. [default: logits]")
    ] = None,
    hyp: shared.Recipe = None,
    seed: shared.Seed = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    amp: shared.Amp = None,
    average: Annotated[
        str | None,
        typer.Option(help="Span of the averaged weights, as a share of the steps | none. [default: by recipe]"),
    ] = None,
    freeze_codes: shared.FreezeCodes = None,
    dampen: shared.Dampen = None,
    transition_rate: shared.TransitionRate = None,
    transition_eta: shared.TransitionEta = None,
    log_noise: shared.LogNoise = None,
    val_every: shared.ValEvery = None,
    no_epoch0: shared.NoEpoch0 = None,
    resume: Annotated[Path | None, typer.Option(help="Continue an interrupted run from its last.pt.")] = None,
    online: Annotated[bool | None, typer.Option("--online", help="Let Ultralytics use the network.")] = None,
) -> None:
    """Train a quantized detector (by default YOLOv5n at 4 bits with LSQ, on the built-in demo set)."""
    options = shared.given(locals())
    amp, arguments = options.pop("amp", None), parse_overrides(options.pop("overrides", []), KINDS)
    arguments = _with_amp(amp, arguments)
    if resume is not None:
        print(_resume(options.pop("resume"), options, arguments))
        return
    if options.pop("no_epoch0", None):
        options["epoch0"] = False
    hyp = options.pop("hyp", None)
    first = options.pop("from_baseline", False)
    asked = resolve(None, options, arguments)
    prepare_ultralytics(online=asked.run.online)
    if first:
        options["weights"], hyp = _baseline(hyp, options, arguments), None
        asked = resolve(None, options, arguments)
    start, inherited = None, None
    default = default_recipe(asked.run.data, fine_tuned=asked.run.weights is not None)
    if asked.run.weights is not None and inherits("detect", hyp, is_float=asked.quant.is_float):
        from qreg_yolo.detect.fine_tuning import fine_tuning

        found = fine_tuning(Path(asked.run.weights), options, arguments)
        start, inherited = found.start, found.sections
        if inherited is not None:
            default = RECIPES["detect"]
            print(f"From '{asked.run.weights}': {found}")
    recipe = shared.recipe(hyp, default)
    if recipe is not None:
        options["recipe"] = recipe.stem
    print(_launch(resolve(recipe, options, arguments, inherited), start))


def _baseline(hyp: str | None, options: dict[str, Any], arguments: dict[str, Any]) -> str:
    """Trains the fp32 baseline of a command, or takes the finished one; returns its checkpoint."""
    if resolve(None, options, arguments).quant.is_float:
        raise ConfigError("--from-baseline needs something to quantize. Remove --bits 32, or --from-baseline.")
    quantizing = (*LAYOUT["quant"].keys, *LAYOUT["oscillation"].keys, *DISTILL_OPTIONS, "average", "epoch0")
    own = {name: value for name, value in options.items() if name not in quantizing} | {"bits": FLOAT_BITS}
    data = str(options.get("data") or arguments.get("data", "demo"))
    recipe = shared.recipe(hyp, default_recipe(data, fine_tuned="weights" in options))
    if recipe is not None:
        own["recipe"] = recipe.stem
    words = dict(arguments)
    if "name" in words:
        words["name"] = f"{words['name']}-fp32"
    from qreg_yolo.detect import runs

    return str(runs.baseline(resolve(recipe, own, words)))


def _launch(config: RunConfig, start: Any) -> str:
    from qreg_yolo.detect import runs

    if config.run.data == "demo":
        print("Training on the built-in demo set. For PASCAL VOC: --data voc (see data/voc.yaml).")
    return runs.train(config, start).table


def _resume(checkpoint: Path, options: dict[str, Any], arguments: dict[str, Any]) -> str:
    shared.refuse_with_resume(options, _NEW_RUN)
    config = resolve(None, options, arguments)  # for the checks
    prepare_ultralytics(online=config.run.online)
    from qreg_yolo.detect import runs

    request = {name: value for name, value in options.items() if name not in ("threads", "online")}
    return runs.resume(checkpoint, arguments, request, config.run.threads).table


def _with_amp(amp: str | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments with ``--amp`` as Ultralytics' ``amp``."""
    if amp is None:
        return arguments
    if amp not in AMP_CHOICES:
        raise ConfigError(f"--amp {amp} is not one of: {', '.join(AMP_CHOICES)}.{did_you_mean(amp, AMP_CHOICES)}")
    value = False if amp == "off" else amp
    if arguments.get("amp", value) != value:
        raise ConfigError(f"--amp {amp} and amp={arguments['amp']} disagree. Give one of them.")
    return {**arguments, "amp": value}
