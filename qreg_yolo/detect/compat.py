"""Every assumption about the host (Ultralytics), each with a message; and what the host changes behind our back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ultralytics import __version__ as host_version
from ultralytics.data.dataset import YOLODataset
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ARGV, DEFAULT_CFG_DICT
from ultralytics.utils.checks import check_yolov5u_filename

from qreg_yolo.errors import InvalidValueError, UnsupportedError
from qreg_yolo.training.environment import requested_threads

_HOOKS: dict[type, tuple[str, ...]] = {
    DetectionModel: ("_apply", "_predict_once", "fuse", "info", "init_criterion", "is_fused", "load"),
    DetectionTrainer: (
        "build_optimizer",
        "get_model",
        "get_validator",
        "preprocess_batch",
        "set_class_weights",
        "set_model_attributes",
    ),
    DetectionValidator: (
        "_prepare_batch",
        "_prepare_pred",
        "_process_batch",
        "get_dataloader",
        "init_metrics",
        "postprocess",
        "preprocess",
        "scale_preds",
    ),
    YOLODataset: ("collate_fn", "get_img_files", "get_labels", "load_image", "result_to_label", "verify_labels"),
    DetectionPredictor: ("setup_model",),
    BaseTrainer: ("check_resume", "save_metrics", "setup_model"),
}
"""Methods of the host that we override or call, by class."""


def check_host() -> None:
    """Raises unless the installed Ultralytics has what the adapter builds on.

    Raises:
        RuntimeError: A version outside the tested range, or a method that is gone.
    """
    numbers = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in host_version.split(".")[:3])
    if not (8, 4, 190) <= numbers < (8, 5):
        raise UnsupportedError(
            f"Ultralytics {host_version} is installed; qreg-yolo is tested with 8.4.190 up to 8.5. "
            "Run: pip install 'ultralytics>=8.4.190,<8.5'"
        )
    for cls, names in _HOOKS.items():
        for name in names:
            if not callable(getattr(cls, name, None)):
                raise UnsupportedError(
                    f"Ultralytics {host_version} has no {cls.__name__}.{name}, which qreg-yolo builds on. "
                    "Run: pip install ultralytics==8.4.190"
                )


def restore_threads() -> None:
    """Undoes what the host's ``select_device('cpu')`` does: it leaves torch one core short (1 thread of 2 cores)."""
    torch.set_num_threads(requested_threads())


@contextmanager
def as_a_library() -> Iterator[None]:
    """Hides the program's arguments from Ultralytics inside the block.

    It takes any program whose name ends in "yolo", with the word predict among its arguments, for its own command line,
    and then drops the predictions.
    """
    held = ARGV[:]
    ARGV[:] = [""]  # in place: its modules have the list itself, which is sys.argv
    try:
        yield
    finally:
        ARGV[:] = held


def as_loaded(model: DetectionModel, train_args: Mapping[str, Any], path: Path) -> DetectionModel:
    """Returns a detector in eval mode with the attributes that the host's ``load_checkpoint`` gives it."""
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
    """Yields a path under which Ultralytics' loader opens a checkpoint.

    It drops quotes from a path and takes ``yolov5n.pt`` for ``yolov5nu.pt``. Where that changes the path, this is a
    link in a temporary folder.
    """
    if Path(check_yolov5u_filename(str(path).strip().replace("'", ""), verbose=False)) == path:
        yield path
        return
    with TemporaryDirectory(prefix="qreg-") as folder:
        link = Path(folder) / f"checkpoint{path.suffix}"
        link.symlink_to(path.absolute())
        yield link


def refuse_distillation(arguments: Mapping[str, Any]) -> None:
    """Raises where a teacher is given.

    Raises:
        ValueError: ``distill_model`` is set.
    """
    if (teacher := arguments.get("distill_model")) is not None:
        raise InvalidValueError(
            f"distill_model={teacher}: distillation of quantized detectors is not supported yet. Leave it out."
        )


def refuse_host_quantization(arguments: Mapping[str, Any]) -> None:
    """Raises where the host's own quantization or half precision is asked for beside ours.

    Raises:
        ValueError: ``quantize``, ``int8`` or ``half`` is set.
    """
    for key in ("quantize", "int8", "half"):
        value = arguments.get(key)
        if str(value).lower() in ("none", "false", "0", "32", "fp32", "w32a32"):
            continue
        if key == "half" or str(value).lower() in ("16", "fp16", "w16a16"):
            raise InvalidValueError(
                f"{key}={value}: a quantized detector keeps its tensors in float32, because rounding them changes "
                f"their codes. Leave {key} out; for mixed precision in training there is amp='bf16'."
            )
        raise InvalidValueError(
            f"{key}={value} is Ultralytics' own quantization, another method. Leave it out, and give the bits as "
            "qreg={'bits': 8} (on the command line: --bits 8)."
        )
