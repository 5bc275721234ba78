"""Every assumption about the host (Ultralytics), each with a message; and what the host changes behind our back."""

from __future__ import annotations

import os

import torch
from ultralytics import __version__ as host_version
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from ultralytics.nn.tasks import DetectionModel

THREADS_VARIABLE = "QREG_YOLO_THREADS"
"""Environment variable with the number of CPU threads; unset: all cores. Child processes inherit it."""

_HOOKS: dict[type, tuple[str, ...]] = {
    DetectionModel: ("_apply", "_predict_once", "fuse", "load"),
    DetectionTrainer: ("build_optimizer", "get_model", "get_validator", "preprocess_batch", "set_model_attributes"),
    DetectionValidator: ("get_dataloader", "init_metrics"),
    DetectionPredictor: ("setup_model",),
    BaseTrainer: ("check_resume",),
}
"""Methods of the host that we override or call, by class."""


def check_host() -> None:
    """Raises unless the installed Ultralytics has what the adapter builds on.

    Raises:
        RuntimeError: A version outside the tested range, or a method that is gone.
    """
    numbers = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in host_version.split(".")[:3])
    if not (8, 4, 190) <= numbers < (8, 5):
        raise RuntimeError(
            f"Ultralytics {host_version} is installed; qreg-yolo is tested with 8.4.190 up to 8.5. "
            "Run: pip install 'ultralytics>=8.4.190,<8.5'"
        )
    for cls, names in _HOOKS.items():
        for name in names:
            if not callable(getattr(cls, name, None)):
                raise RuntimeError(
                    f"Ultralytics {host_version} has no {cls.__name__}.{name}, which qreg-yolo builds on. "
                    "Run: pip install ultralytics==8.4.190"
                )


def requested_threads() -> int:
    """Returns the CPU threads to use: `THREADS_VARIABLE`, else every core this process may run on."""
    text = os.environ.get(THREADS_VARIABLE, "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{THREADS_VARIABLE}={text!r} is not a whole number of at least 1.")
        return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def restore_threads() -> None:
    """Undoes what the host's ``select_device('cpu')`` does: it leaves torch one core short (1 thread of 2 cores)."""
    torch.set_num_threads(requested_threads())
