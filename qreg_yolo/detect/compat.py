"""Assumptions about Ultralytics, each checked with a message, and remedies for its side effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ultralytics import __version__ as ultralytics_version
from ultralytics.data.dataset import YOLODataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ARGV, DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_version, check_yolov5u_filename

from qreg_yolo.errors import InvalidValueError, UnsupportedError
from qreg_yolo.io.process import requested_threads

_HOOKS: dict[type, tuple[str, ...]] = {
    DetectionModel: ("_apply", "_predict_once", "fuse", "info", "init_criterion", "is_fused", "load"),
    DetectionTrainer: (
        "build_optimizer", "get_model", "get_validator", "preprocess_batch", "set_class_weights",
        "set_model_attributes",
    ),
    DetectionValidator: (
        "_prepare_batch", "_prepare_pred", "_process_batch", "get_dataloader", "init_metrics", "postprocess",
        "preprocess", "scale_preds",
    ),
    YOLODataset: ("collate_fn", "get_img_files", "get_labels", "load_image", "result_to_label", "verify_labels"),
    DetectionPredictor: ("setup_model",),
    BaseTrainer: ("check_resume", "save_metrics", "setup_model"),
}  # fmt: skip
"""Class -> methods of Ultralytics that we override or call."""


def check_ultralytics() -> None:
    """Raises `UnsupportedError` unless the installed Ultralytics is of a tested version and has all methods."""
    if not check_version(ultralytics_version, ">=8.4.190,<8.5"):
        raise UnsupportedError(
            f"Ultralytics {ultralytics_version} is installed; qreg-yolo is tested with 8.4.190 up to 8.5. "
            "Run: pip install 'ultralytics>=8.4.190,<8.5'"
        )
    for cls, names in _HOOKS.items():
        for name in names:
            if not callable(getattr(cls, name, None)):
                raise UnsupportedError(
                    f"Ultralytics {ultralytics_version} has no {cls.__name__}.{name}, which qreg-yolo needs. "
                    "Run: pip install ultralytics==8.4.190"
                )


def restore_threads() -> None:
    """Restores torch's threads after Ultralytics' ``select_device('cpu')``, which leaves out one core."""
    torch.set_num_threads(requested_threads())


@contextmanager
def as_a_library() -> Iterator[None]:
    """Hides the program's arguments from Ultralytics inside the block.

    Ultralytics takes any program whose name ends in "yolo" and has the argument predict for its own command line, and
    then drops the predictions.
    """
    arguments = ARGV[:]
    ARGV[:] = [""]  # in place: its modules share this list, which is sys.argv
    try:
        yield
    finally:
        ARGV[:] = arguments


def as_loaded(model: DetectionModel, train_args: Mapping[str, Any], path: Path) -> DetectionModel:
    """Returns a detector in eval mode with the attributes that Ultralytics' ``load_checkpoint`` sets."""
    model.args = {**DEFAULT_CFG_DICT, **train_args}
    model.pt_path = str(path)
    model.task = "detect"
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
        elif isinstance(module, torch.nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # pickled by an older torch
    return model.eval()


@contextmanager
def as_taken(path: Path) -> Iterator[Path]:
    """Yields a path that Ultralytics' loader opens unchanged: if needed, a link in a temporary folder.

    The loader removes quotes from paths and replaces ``yolov5n.pt`` by ``yolov5nu.pt``.
    """
    if Path(check_yolov5u_filename(str(path).strip().replace("'", ""), verbose=False)) == path:
        yield path
        return
    with TemporaryDirectory(prefix="qreg-") as folder:
        link = Path(folder) / f"checkpoint{path.suffix}"
        link.symlink_to(path.absolute())
        yield link


def refuse_unsupported(arguments: Mapping[str, Any]) -> None:
    """Raises `InvalidValueError` for Ultralytics' own quantization, half precision, and distillation."""
    if (teacher := arguments.get("distill_model")) is not None:
        raise InvalidValueError(
            f"distill_model={teacher} is Ultralytics' own distillation, which does not know quantized detectors. Omit "
            "it, and give the teacher as qreg={'distill': {'teacher': PATH}} (on the command line: --teacher PATH)."
        )
    for key in ("quantize", "int8", "half"):
        value = arguments.get(key)
        if str(value).lower() in ("none", "false", "0", "32", "fp32", "w32a32"):
            continue
        if key == "half" or str(value).lower() in ("16", "fp16", "w16a16"):
            raise InvalidValueError(
                f"{key}={value}: a quantized detector keeps its tensors in float32, because rounding them changes "
                f"their codes. Omit {key}; for mixed precision in training use amp='bf16'."
            )
        raise InvalidValueError(
            f"{key}={value} is Ultralytics' own quantization, another method. Omit it, and give the bits as "
            "qreg={'bits': 8} (on the command line: --bits 8)."
        )
