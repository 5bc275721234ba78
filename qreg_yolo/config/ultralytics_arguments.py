"""Every argument of Ultralytics and its effect in ``train``, ``val`` and ``predict``.

Ultralytics is not imported. The tests compare the table with Ultralytics' own list, run what works, and write
``docs/ultralytics_arguments.md`` from it: ``python -m tools.ultralytics_arguments``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from qreg_yolo.config.key_values import Kind

Command = Literal["train", "val", "predict"]
COMMANDS: tuple[Command, ...] = ("train", "val", "predict")


@dataclass(frozen=True)
class Use:
    """The effect of an argument in one command."""

    status: Literal["works", "no effect", "refused"]
    note: str = ""
    """The reason, or a remark."""
    default_is_taken: bool = False
    """Whether Ultralytics' own default is accepted although other values are refused."""

    def __str__(self) -> str:
        return f"{self.status}: {self.note}" if self.note else self.status


@dataclass(frozen=True)
class Argument:
    """An argument of Ultralytics."""

    kind: Kind
    """Types that it takes."""
    train: Use
    val: Use
    predict: Use
    choices: tuple[str, ...] = ()
    """Texts that it takes; none: any."""
    entries: Kind = Kind.WHOLE
    """Types of the entries, where it takes a list."""

    def use(self, command: Command) -> Use:
        """Returns its effect in a command."""
        found: Use = getattr(self, command)
        return found


TEXT, WHOLE, NUMBER, BOOL, LIST, NONE = Kind.TEXT, Kind.WHOLE, Kind.NUMBER, Kind.BOOL, Kind.LIST, Kind.NONE
WORKS = Use("works")
_OF_TRAINING, _OF_PREDICTION = Use("no effect", "for training"), Use("no effect", "for prediction")
_OF_MEASURING = Use("no effect", "for training and measuring")


def _works(note: str) -> Use:
    return Use("works", note)


def _refused(note: str, *, default_is_taken: bool = False) -> Use:
    return Use("refused", note, default_is_taken)


def _training(kind: Kind, note: str = "", **more: Any) -> Argument:
    return Argument(kind, Use("works", note), _OF_TRAINING, _OF_TRAINING, **more)


def _measuring(kind: Kind, train: str = "", val: str = "", **more: Any) -> Argument:
    return Argument(kind, Use("works", train), Use("works", val), _OF_MEASURING, **more)


def _prediction(kind: Kind, note: str = "") -> Argument:
    return Argument(kind, _OF_PREDICTION, _OF_PREDICTION, Use("works", note))


def _same(kind: Kind, use: Use, **more: Any) -> Argument:
    return Argument(kind, use, use, use, **more)


def _everywhere(kind: Kind, note: str = "", **more: Any) -> Argument:
    return _same(kind, Use("works", note), **more)


def _nowhere(kind: Kind, why: str) -> Argument:
    return _same(kind, Use("no effect", why))


def _never(kind: Kind, why: str) -> Argument:
    return _same(kind, Use("refused", why))


_GAIN = "not with --head anchor, whose gains are in a recipe's section 'head'"
_IN_VALIDATION = "in the validations of training"
_LAST = "in the final measurement of best.pt"
_EXPORT, _SEGMENT, _CLASSIFY, _POSE = "for export", "for segmentation", "for classification", "for pose estimation"
_DEPTH = "for depth estimation"

ARGUMENTS: Mapping[str, Argument] = MappingProxyType(
    {
        "task": _never(TEXT, "the task is always detection; leave it out"),
        "mode": _never(TEXT, "the subcommand sets it; leave it out"),
        "model": replace(
            _training(TEXT, "as --model"),
            val=_refused("the checkpoint is the first argument"),
            predict=_refused("the checkpoint is the first argument"),
        ),
        "data": replace(
            _measuring(TEXT, "as --data", "as --data"),
            predict=Use("no effect", "the checkpoint has the names of the classes"),
        ),
        "epochs": _training(WHOLE),
        "time": _training(NUMBER | NONE, "hours; it decides the number of epochs"),
        "patience": _training(WHOLE),
        "batch": replace(
            _everywhere(WHOLE | NUMBER),
            train=_works("-1 and fractions of the memory choose it on a GPU; on the CPU they mean 16"),
        ),
        "imgsz": Argument(
            WHOLE | LIST,
            _works("of a list the largest counts"),
            _works("of a list the largest counts"),
            _works("a number or [height,width]"),
        ),
        "save": Argument(
            BOOL,
            _refused("the final measurement, the records and --resume read the checkpoints", default_is_taken=True),
            _OF_PREDICTION,
            _works("false: no pictures"),
        ),
        "save_period": _training(WHOLE),
        "cache": _measuring(BOOL | TEXT, choices=("ram", "disk")),
        "device": _everywhere(TEXT, "cpu, or the numbers of GPUs such as 0 or 0,1"),
        "workers": _measuring(WHOLE),
        "project": _everywhere(TEXT),
        "name": _everywhere(TEXT),
        "exist_ok": _everywhere(BOOL),
        "pretrained": _never(BOOL | TEXT, "use train --weights PATH"),
        "cls_remap": _training(BOOL, "with --weights"),
        "optimizer": _training(
            TEXT, choices=("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "auto")
        ),
        "verbose": Argument(BOOL, _works(_LAST), WORKS, WORKS),
        "seed": _training(WHOLE, "as --seed"),
        "deterministic": _training(BOOL),
        "single_cls": _measuring(BOOL),
        "rect": _everywhere(BOOL),
        "cos_lr": _training(BOOL),
        "close_mosaic": _training(WHOLE),
        "resume": _never(BOOL | TEXT, "use train --resume PATH/last.pt"),
        "amp": _training(
            BOOL | TEXT, "true and fp16 on a GPU alone; as --amp", choices=("fp16", "bf16", "fp32", "auto")
        ),
        "fraction": _measuring(NUMBER | LIST, entries=NUMBER),
        "profile": _nowhere(BOOL, _EXPORT),
        "freeze": _training(WHOLE | LIST | NONE, entries=WHOLE | TEXT),
        "multi_scale": _training(NUMBER),
        "compile": _everywhere(
            BOOL | TEXT,
            "it needs a C++ compiler",
            choices=("default", "reduce-overhead", "max-autotune-no-cudagraphs"),
        ),
        "channels_last": _everywhere(BOOL | NONE),
        "overlap_mask": _nowhere(BOOL, _SEGMENT),
        "mask_ratio": _nowhere(WHOLE, _SEGMENT),
        "dropout": _nowhere(NUMBER, _CLASSIFY),
        "val": Argument(BOOL, _works("the last epoch is always validated"), _OF_TRAINING, _OF_TRAINING),
        "split": Argument(
            TEXT,
            _refused("best.pt is chosen on val; measure another split with val split=", default_is_taken=True),
            WORKS,
            _OF_MEASURING,
            choices=("train", "val", "test"),
        ),
        "save_json": _measuring(BOOL, _IN_VALIDATION, "COCO numbers need faster-coco-eval"),
        "conf": replace(_everywhere(NUMBER | NONE), train=_works(_IN_VALIDATION)),
        "iou": replace(_everywhere(NUMBER), train=_works(_IN_VALIDATION)),
        "max_det": replace(_everywhere(WHOLE), train=_works(_IN_VALIDATION)),
        "quantize": _never(TEXT | NONE, "use --bits (Ultralytics' own quantization is another method)"),
        "dnn": _nowhere(BOOL, "for ONNX files"),
        "plots": _measuring(BOOL),
        "nms": _everywhere(BOOL | NONE, "false: the branch without NMS, where a model has one"),
        "source": Argument(TEXT, _OF_PREDICTION, _OF_PREDICTION, _refused("the source is the second argument")),
        "vid_stride": _prediction(WHOLE, "on videos"),
        "stream_buffer": _prediction(BOOL, "on streams"),
        "visualize": Argument(BOOL, _works("with plots=true, of validation"), _works("with plots=true"), WORKS),
        "augment": replace(_everywhere(BOOL), train=_works(_LAST)),
        "agnostic_nms": replace(_everywhere(BOOL), train=_works(_IN_VALIDATION)),
        "classes": _everywhere(WHOLE | LIST | NONE),
        "retina_masks": _nowhere(BOOL, _SEGMENT),
        "embed": replace(
            _prediction(LIST | NONE), predict=_refused("features have no boxes to draw; use QuantYOLO(...).embed()")
        ),
        "show": _prediction(BOOL, "where there is a display"),
        "save_frames": _prediction(BOOL, "on videos"),
        "save_txt": replace(_everywhere(BOOL), train=_works(_IN_VALIDATION)),
        "save_conf": replace(_everywhere(BOOL, "with save_txt=true"), train=_works(_IN_VALIDATION)),
        "save_crop": _prediction(BOOL),
        "show_labels": replace(_prediction(BOOL), val=_works("with visualize=true")),
        "show_conf": replace(_prediction(BOOL), val=_works("with visualize=true")),
        "show_boxes": _prediction(BOOL),
        "line_width": _prediction(WHOLE | NONE),
        "format": _nowhere(TEXT, _EXPORT),
        "optimize": _nowhere(BOOL, _EXPORT),
        "dynamic": _nowhere(BOOL, _EXPORT),
        "simplify": _nowhere(BOOL, _EXPORT),
        "opset": _nowhere(WHOLE | NONE, _EXPORT),
        "workspace": _nowhere(NUMBER | NONE, _EXPORT),
        "lr0": _training(NUMBER, "not with optimizer=auto, which chooses it"),
        "lrf": _training(NUMBER),
        "momentum": _training(NUMBER, "not with optimizer=auto, which chooses it"),
        "weight_decay": _training(NUMBER),
        "warmup_epochs": _training(NUMBER),
        "warmup_momentum": _training(NUMBER),
        "warmup_bias_lr": _training(NUMBER),
        "distill_model": replace(_training(TEXT), train=_refused("use train --teacher PATH")),
        "dis": _nowhere(NUMBER, "for distill_model; weights of --teacher are in a recipe's section 'distill'"),
        "box": _training(NUMBER, _GAIN),
        "cls": _training(NUMBER, _GAIN),
        "cls_pw": _training(NUMBER, _GAIN),
        "dfl": _training(NUMBER, _GAIN),
        "pose": _nowhere(NUMBER, _POSE),
        "kobj": _nowhere(NUMBER, _POSE),
        "rle": _nowhere(NUMBER, _POSE),
        "angle": _nowhere(NUMBER, "for oriented boxes"),
        "dlog": _nowhere(NUMBER, _DEPTH),
        "dgrad": _nowhere(NUMBER, _DEPTH),
        "dlam": _nowhere(NUMBER, _DEPTH),
        "nbs": _training(WHOLE),
        "hsv_h": _training(NUMBER),
        "hsv_s": _training(NUMBER),
        "hsv_v": _training(NUMBER),
        "degrees": _training(NUMBER),
        "translate": _training(NUMBER),
        "scale": _training(NUMBER | LIST, entries=NUMBER),
        "shear": _training(NUMBER),
        "perspective": _training(NUMBER),
        "flipud": _training(NUMBER),
        "fliplr": _training(NUMBER),
        "bgr": _training(NUMBER),
        "mosaic": _training(NUMBER, "not with rect=true"),
        "mixup": _training(NUMBER, "not with rect=true"),
        "cutmix": _training(NUMBER, "not with rect=true"),
        "copy_paste": _training(NUMBER, "on labels that are polygons"),
        "copy_paste_mode": _training(TEXT, "with copy_paste", choices=("flip", "mixup")),
        "auto_augment": _nowhere(TEXT | NONE, _CLASSIFY),
        "erasing": _nowhere(NUMBER, _CLASSIFY),
        "cfg": _never(TEXT, "use train --hyp PATH"),
        "tracker": _nowhere(TEXT, "for tracking"),
    }
)
"""Name -> argument, in the order of Ultralytics' own list."""

KINDS: Mapping[str, Kind] = MappingProxyType({name: argument.kind for name, argument in ARGUMENTS.items()})
"""Name -> the types that it takes."""


def without_effect(names: Iterable[str], command: Command) -> str | None:
    """Returns the line that names the arguments without effect in a command, with the reasons; None: all have one."""
    notes = {name: ARGUMENTS[name].use(command) for name in names if name in ARGUMENTS}
    idle = [f"{name} ({use.note})" for name, use in notes.items() if use.status == "no effect"]
    return f"Without effect in {command}: {', '.join(idle)}." if idle else None


def table() -> str:
    """Returns the table as Markdown, one row per argument."""
    rows = ["| argument | takes | train | val | predict |", "|---|---|---|---|---|"]
    for name, argument in ARGUMENTS.items():
        cells = [str(argument.use(command)) for command in COMMANDS]
        rows.append(f"| `{name}` | {_takes(argument)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _takes(argument: Argument) -> str:
    names = {
        BOOL: "true or false",
        WHOLE: "whole number",
        NUMBER: "number",
        TEXT: ", ".join(argument.choices) or "text",
        LIST: "list",
        NONE: "none",
    }
    wanted = argument.kind & ~WHOLE if NUMBER in argument.kind else argument.kind
    return "; ".join(word for one, word in names.items() if one in wanted)
