"""Teacher of a detector: its file, read and compared with the student before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.datasets.classes import class_names
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.errors import ModelError, WeightsError
from qreg_yolo.training.distillation import identified


@dataclass(frozen=True)
class HeadShape:
    """Everything about a head that decides whether two of them can be compared."""

    kind: str
    """`anchor_free` | `anchor`."""
    end_to_end: bool
    """Whether it has a one-to-one branch."""
    reg_max: int
    """Bins of a box side's distribution; 1: the sides themselves."""
    strides: tuple[int, ...]
    """Of each level, px."""
    widths: tuple[int, ...]
    """Channels of each level's feature map."""

    @classmethod
    def of(cls, model: Any, *, kind: str | None = None) -> HeadShape:
        """Returns the shape of a detector's head, or of the head of another kind in its place."""
        head = model.model[-1]
        strides = tuple(int(stride) for stride in model.stride.tolist())
        if not isinstance(head, Detect):
            raise ModelError(f"A {type(head).__name__} head cannot be distilled. Give a detector with a Detect head.")
        anchors = isinstance(head, AnchorDetect)
        first: list[Any] = list(head.m) if anchors else [branch[0].conv for branch in head.cv2]
        widths = tuple(conv.in_channels for conv in first)
        if anchors or kind == "anchor":
            return cls("anchor", False, 1, strides, widths)
        return cls("anchor_free", getattr(head, "one2one_cv2", None) is not None, head.reg_max, strides, widths)

    @property
    def text(self) -> str:
        """The shape in words, but for the widths."""
        branches = " with a one-to-one branch" if self.end_to_end else ""
        bins = f", reg_max {self.reg_max}" if self.kind == "anchor_free" else ""
        return f"the {self.kind} head{branches} (strides {', '.join(map(str, self.strides))}{bins})"


@dataclass(frozen=True)
class Teacher:
    """A trained detector and the losses that compare the student with it."""

    model: DetectionModel
    """In eval mode, without gradients; its head returns raw outputs."""
    options: DistillOptions
    """With the hash of the file."""


def load_teacher(options: DistillOptions) -> Teacher | None:
    """Returns the teacher on the CPU; None without one.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: No checkpoint of a detector, or another file than the options' hash is of.
    """
    found = identified(options)
    if found.path is None:
        return None
    model, _ = load_weights(found.path)
    model.eval().requires_grad_(False)
    model.model[-1].training = True  # so that the head does not decode; its layers stay in eval mode
    return Teacher(model, found)


def check_teacher(teacher: Teacher, student: HeadShape, names: Sequence[str], channels: int) -> None:
    """Raises unless a student can be compared with its teacher.

    Args:
        teacher: From `load_teacher`.
        student: The student's head.
        names: The student's classes.
        channels: Image channels.

    Raises:
        WeightsError: Other classes or another order, other image channels, another head (losses of logits), other
            levels, or other widths of the features (without a projector).
    """
    path, options = teacher.options.path, teacher.options
    _check_classes(path, class_names(teacher.model.names), list(names))
    own_channels = teacher.model.yaml.get("channels", 3)
    if own_channels != channels:
        raise WeightsError(f"The teacher '{path}' sees {own_channels} image channels, the data have {channels}.")
    try:
        shape = HeadShape.of(teacher.model)
    except ModelError as error:
        raise WeightsError(f"The teacher '{path}': {error}") from error
    if options.has_logits and (shape.text != student.text):
        raise WeightsError(
            f"The teacher '{path}' has {shape.text}, the student {student.text}: their logits cannot be compared. Give "
            "a teacher with the student's head, or --distill features."
        )
    if shape.strides != student.strides:
        raise WeightsError(
            f"The teacher '{path}' has levels of strides {list(shape.strides)}, the student of "
            f"{list(student.strides)}. Give a teacher with the same levels."
        )
    if options.has_features and not options.projector and shape.widths != student.widths:
        raise WeightsError(
            f"The feature maps of the teacher '{path}' have {list(shape.widths)} channels, those of the student "
            f"{list(student.widths)}. Set projector: true in a recipe's section 'distill', or use --distill logits."
        )


def _check_classes(path: Path | None, teacher: Sequence[str], student: Sequence[str]) -> None:
    if list(teacher) == list(student):
        return
    if sorted(teacher) == sorted(student):
        raise WeightsError(
            f"The teacher '{path}' has the student's classes in another order ({', '.join(teacher):.200}). Give the "
            "names in the data YAML that order, or another teacher."
        )
    raise WeightsError(
        f"The teacher '{path}' has {len(teacher)} classes ({', '.join(teacher):.200}), the student {len(student)} "
        f"({', '.join(student):.200}). Give a teacher trained on the same classes."
    )


def check_anchors(teacher: Teacher, student: nn.Module) -> None:
    """Raises `WeightsError` if the anchors of the two heads differ (where both have them)."""
    heads: list[Any] = [teacher.model.model[-1], student]
    if not all(isinstance(head, AnchorDetect) for head in heads):
        return
    own, other = (head.anchor_wh.float().cpu() for head in heads)
    if not own.allclose(other, rtol=1e-3):
        raise WeightsError(
            f"The teacher '{teacher.options.path}' has the anchors {own.flatten(0, 1).tolist()}, the student "
            f"{other.flatten(0, 1).tolist()} (px): their logits cannot be compared. Start from the teacher with "
            "--weights and without --autoanchor, or use --distill features."
        )
