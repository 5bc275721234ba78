"""Criterion of a student with a teacher: the head's own loss, and those that compare its outputs with the teacher's.

The equations are in `qreg_yolo.training.distillation`; here they meet the outputs and the gains of the two heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, distributed, nn
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.tal import make_anchors

from qreg_yolo.config.distillation import KEY as DISTILL
from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.datasets.classes import class_names
from qreg_yolo.detect.anchor_head import BOX_ROWS, AnchorDetect
from qreg_yolo.detect.anchor_loss import BALANCE, AnchorLoss, boxes_in_cells
from qreg_yolo.detect.precision import in_bf16, trains_in_bf16
from qreg_yolo.detect.quantization_config import KEY
from qreg_yolo.detect.resume import preserved_random_state
from qreg_yolo.detect.teacher import HeadShape, Teacher, check_anchors, check_teacher, load_teacher
from qreg_yolo.training.distillation import bernoulli_divergence, feature_error, softmax_divergence, weighted_mean

Raw = Mapping[str, Any]
"""Raw outputs of a head, by name."""
LOSS = "distill_loss"
"""Name of the loss in ``results.csv``."""
GROUP = "projector"
"""Name of the projector's optimizer group."""
FEATURE_GAIN = 0.8
"""Gain of the loss of features, times the head's gain of boxes: 6.0 with Ultralytics' 7.5, its own ``dis``."""


def anchor_divergence(criterion: AnchorLoss, teacher_head: AnchorDetect, student: Raw, teacher: Raw) -> Tensor:
    """Returns the loss of the anchor head's logits, with the head's gains, per image.

    After the objectness-scaled distillation of Mehta & Ozturk, arXiv 1805.06361: the teacher's objectness o weights
    what is learned of boxes and classes, so that its background teaches no boxes. With KL the divergence of binary
    distributions and the weights ``w = o / sum o`` over a level:

        sum over the levels of  box sum w (1 - CIoU(student, teacher)) + obj b mean KL(o) + cls sum w mean_c KL(c)

    where ``b`` balances the levels as in the detection loss; a single class has no class loss, as there.

    Deviates: divergences and CIoU with the detection loss's gains (Mehta & Ozturk scale squared errors).

    Args:
        criterion: The student's.
        teacher_head: Has the teacher's anchors.
        student: Raw outputs in training.
        teacher: Raw outputs.
    """
    terms = []
    for index, maps in enumerate(zip(student["levels"], teacher["levels"], strict=True)):
        heads = (criterion.head, teacher_head)
        s, t = (head.by_anchor(one).movedim(2, -1) for head, one in zip(heads, maps, strict=True))
        boxes = [
            boxes_in_cells(one, (head.anchor_wh[index] / head.stride[index]).to(one)[:, None, None])
            for head, one in zip(heads, (s, t), strict=True)
        ]
        weights = t[..., 4].sigmoid()
        box = weighted_mean(1 - bbox_iou(*boxes, CIoU=True).squeeze(-1), weights)
        objectness = BALANCE[index] * bernoulli_divergence(s[..., 4], t[..., 4]).mean()
        classes = box.new_zeros(())
        if criterion.head.nc > 1:
            classes = weighted_mean(bernoulli_divergence(s[..., BOX_ROWS:], t[..., BOX_ROWS:]).mean(-1), weights)
        terms.append(torch.stack((box, objectness, classes)))
    gains = terms[0].new_tensor(criterion.gains)
    return (torch.stack(terms).sum(0) * gains).sum()


def anchor_free_divergence(criterion: Any, student: Raw, teacher: Raw) -> Tensor:
    """Returns the loss of the logits of a branch of Ultralytics' head, with its gains, per image.

    With KL the divergence of binary distributions (classes c) or of the distributions of the four box sides (Zheng et
    al., localization distillation, arXiv 2102.12252), and the teacher's highest class probability of a position as
    weight w:

        cls sum_c KL(c) / sum w + dfl sum w mean_sides KL(side) / sum w

    A head without distributions of the sides (``reg_max`` 1) has ``box sum w (1 - CIoU(student, teacher)) / sum w``
    instead, over the positions where the teacher's box has an area.

    Deviates: temperature 1 and weights by score (Zheng et al.: temperature 10 and regions by overlap).

    Args:
        criterion: Ultralytics' ``v8DetectionLoss`` of the branch.
        student: Raw outputs of the branch: ``boxes`` `(b, 4 reg_max, n)`, ``scores`` `(b, c, n)`, ``feats``.
        teacher: Likewise.
    """
    scores = [one["scores"].float() for one in (student, teacher)]
    sides = [one["boxes"].float() for one in (student, teacher)]
    weights = scores[1].sigmoid().amax(1)
    classes = bernoulli_divergence(*scores).sum() / weights.sum()
    if criterion.reg_max > 1:
        bins = [one.unflatten(1, (4, criterion.reg_max)) for one in sides]
        box = criterion.hyp.dfl * weighted_mean(softmax_divergence(*bins, dim=2).mean(1), weights)
    else:
        points, _ = make_anchors(student["feats"], criterion.stride, 0.5)
        boxes = [criterion.bbox_decode(points.float(), one.transpose(1, 2)) for one in sides]
        extended = (boxes[1][..., 2:] > boxes[1][..., :2]).all(-1)
        iou = bbox_iou(*boxes, xywh=False, CIoU=True).squeeze(-1)
        box = criterion.hyp.box * weighted_mean(1 - iou, weights * extended)
    total: Tensor = criterion.hyp.cls * classes + box
    return total


def class_scores(head: nn.Module, raw: Raw) -> list[Tensor]:
    """Returns the highest class probability of each position, by level `(b, h, w)`.

    For the anchor head, the highest of the anchors' objectness times class probability; of an end-to-end head, that of
    the mean of both branches' logits, as in Ultralytics' ``nn/distill_model.py``.
    """
    if isinstance(head, AnchorDetect):
        probabilities = [head.by_anchor(level).sigmoid() for level in raw["levels"]]
        return [(one[:, :, 4] * one[:, :, BOX_ROWS:].amax(2)).amax(1) for one in probabilities]
    branches = [raw[name] for name in ("one2many", "one2one")] if "one2many" in raw else [raw]
    logits = torch.stack([branch["scores"].float() for branch in branches]).mean(0)
    sizes = [one.shape[-2:] for one in branches[0]["feats"]]
    parts = torch.split(logits.sigmoid().amax(1), [height * width for height, width in sizes], 1)
    return [part.view(len(part), *size) for part, size in zip(parts, sizes, strict=True)]


def projectors(student: Sequence[int], teacher: Sequence[int]) -> nn.ModuleList:
    """Returns Ultralytics' projector of each level, from student's to teacher's channels: 1x1, ReLU, 1x1."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(own, other, 1), nn.ReLU(inplace=True), nn.Conv2d(other, other, 1))
        for own, other in zip(student, teacher, strict=True)
    )


class Distiller:
    """Criterion of the training model; the averaged model keeps the plain one, so that validation has no teacher.

    Neither the teacher nor the projector is a part of the model: no checkpoint, average or compiled graph has them.

    Args:
        teacher: On the CPU; it is moved to the student's device, in its memory format.
        student: The network that is trained.
        seed: Of the projector's initial weights; every process needs the same.
    """

    def __init__(self, teacher: Teacher, student: Any, seed: int) -> None:
        self.options, self._student = teacher.options, student
        device = next(student.parameters()).device
        self._teacher = teacher
        self._network: Any = teacher.model.to(device=device, memory_format=_memory_format(student))
        self._base: Any = None
        self.projector: nn.ModuleList | None = None
        if self.options.projector:
            shapes = [HeadShape.of(model).widths for model in (student, self._network)]
            with preserved_random_state():
                torch.manual_seed(seed)
                self.projector = projectors(*shapes).to(device)

    def optimizer_groups(self, **common: Any) -> list[dict[str, Any]]:
        """Returns the projector's optimizer group, without decay; none without a projector.

        Args:
            **common: Keys of the group, such as ``lr`` and ``momentum``.
        """
        if self.projector is None:
            return []
        return [{"params": list(self.projector.parameters()), **common, "weight_decay": 0.0, "param_group": GROUP}]

    def attach(self) -> None:
        """Makes this object the student's criterion, once the averaged model has been copied.

        Raises:
            WeightsError: The heads' anchors differ.
        """
        heads = [model.model[-1] for model in (self._student, self._network)]
        if self.options.has_logits:
            check_anchors(self._teacher, heads[0])
        for head in heads:
            if isinstance(head, AnchorDetect):
                head.keep_features = self.options.has_features
        self._base = getattr(self._student, "criterion", None) or self._student.init_criterion()
        self._student.criterion = self

    def update(self) -> None:
        """Moves the weights of an end-to-end head's branches on by an epoch, as Ultralytics' criterion does."""
        getattr(self._base, "update", lambda: None)()

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the head's own loss with the teacher's behind it, times the number of images, and all terms.

        Args:
            preds: Raw outputs of the student in training.
            batch: Ultralytics'.
        """
        loss, items = self._base(preds, batch)
        images = batch["img"]
        with torch.no_grad():
            in_bfloat16 = images.device.type == "cpu" and trains_in_bf16(self._student)
            teacher: Raw = in_bf16(self._network, images) if in_bfloat16 else self._network(images)
        with torch.autocast(images.device.type, enabled=False):
            distilled = self._divergence(preds, teacher)
        return torch.cat([loss.reshape(-1), distilled.reshape(1) * len(images)]), {**items, LOSS: distilled.detach()}

    def _divergence(self, student: Raw, teacher: Raw) -> Tensor:
        terms = []
        if self.options.has_logits:
            terms.append(self.options.logits * self._of_logits(student, teacher))
        if self.options.has_features:
            terms.append(self.options.features * self._of_features(student, teacher))
        return torch.stack(terms).sum()

    def _of_logits(self, student: Raw, teacher: Raw) -> Tensor:
        base = self._base
        if isinstance(base, AnchorLoss):
            return anchor_divergence(base, self._network.model[-1], student, teacher)
        if "one2many" not in student:
            return anchor_free_divergence(base, student, teacher)
        many = anchor_free_divergence(base.one2many, student["one2many"], teacher["one2many"])
        one = anchor_free_divergence(base.one2one, student["one2one"], teacher["one2one"])
        both: Tensor = base.o2m * many + base.o2o * one
        return both

    def _of_features(self, student: Raw, teacher: Raw) -> Tensor:
        own, other = (raw.get("one2many", raw)["feats"] for raw in (student, teacher))
        scores = class_scores(self._network.model[-1], teacher)
        base = self._base
        gain = base.gains[0] if isinstance(base, AnchorLoss) else getattr(base, "one2many", base).hyp.box
        errors = []
        for level, (s, t, weights) in enumerate(zip(own, other, scores, strict=True)):
            mapped = s.float() if self.projector is None else self.projector[level](s.float())
            errors.append(feature_error(mapped, t.float(), weights, relative=self.projector is None))
        scaled: Tensor = FEATURE_GAIN * gain * torch.stack(errors).sum()
        return scaled

    def average_gradients(self) -> None:
        """Averages the projector's gradients over the processes, as the model's own already are."""
        if self.projector is None or not distributed.is_initialized():
            return
        for parameter in self.projector.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()

    def state(self, *, waiting: bool) -> dict[str, Any]:
        """Returns what resuming needs: the projector, and its gradients where they wait for the optimizer's step."""
        if self.projector is None:
            return {}
        named = self.projector.named_parameters()
        gradients = {name: p.grad for name, p in named if waiting and p.grad is not None}
        return {"projector": self.projector.state_dict(), "gradients": gradients}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the projector of `state`."""
        if self.projector is not None:
            self.projector.load_state_dict(state["projector"])

    def restore_gradients(self, state: Mapping[str, Any]) -> None:
        """Restores the gradients of `state`."""
        for name, gradient in state.get("gradients", {}).items():
            assert self.projector is not None
            parameter = self.projector.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)


def make_distiller(trainer: Any, student: Any, teacher: Teacher | None) -> Distiller | None:
    """Returns the criterion of a run with a teacher, whose hash the run's arguments then have; None without one.

    Args:
        trainer: Has the options in its request.
        student: The network that is trained, with its classes, on its device.
        teacher: If it was read already.

    Raises:
        FileNotFoundError, WeightsError: As `load_teacher` and `check_teacher`.
    """
    request = getattr(trainer.args, KEY, None) or {}
    teacher = teacher or load_teacher(DistillOptions(**(request.get(DISTILL) or {})))
    if teacher is None:
        return None
    check_teacher(teacher, HeadShape.of(student), class_names(student.names), trainer.data["channels"])
    setattr(trainer.args, KEY, {**request, DISTILL: asdict(teacher.options)})
    return Distiller(teacher, student, trainer.args.seed)


def without_teacher(labels: Any) -> Any:
    """Returns Ultralytics' labels of losses (a list, or a dictionary) without the teacher's of the validation."""
    if isinstance(labels, dict):
        return {label: value for label, value in labels.items() if label != f"val/{LOSS}"}
    return [label for label in labels if label != f"val/{LOSS}"]


def _memory_format(model: nn.Module) -> torch.memory_format:
    """Returns the memory format of a model's convolutions."""
    last = any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
    return torch.channels_last if last else torch.contiguous_format
