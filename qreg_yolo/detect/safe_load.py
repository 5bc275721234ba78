"""Names allowed in checkpoints, so that loading executes nothing from a file.

A pickle can call any function by name. Here a file is first read as data (`qreg_yolo.io.torch_archive`) and refused for
any name that no detector's checkpoint needs; then torch's restricted unpickler (``weights_only=True``) loads it. The
import of this module adds our classes to that unpickler's list, so that Ultralytics' restricted loading
(``ULTRALYTICS_SAFE_LOAD=1``) accepts our checkpoints too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.errors import UnsupportedError, WeightsError
from qreg_yolo.io.pickles import STORAGES, PickleError
from qreg_yolo.io.torch_archive import TorchArchive
from qreg_yolo.quant.layers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, QuantConv2d, QuantLinear
from qreg_yolo.quant.spec import QuantizerSpec

OUR_CLASSES: tuple[type, ...] = (
    QuantDetectionModel,
    AnchorDetect,
    QuantConv2d,
    QuantLinear,
    QuantizerSpec,
    *dict.fromkeys([*WEIGHT_QUANTIZERS.values(), *INPUT_QUANTIZERS.values()]),
)
"""Our classes in checkpoints."""
CALLED = frozenset(
    [
        "_codecs.encode",
        "builtins.set",
        "collections.OrderedDict",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.device",
        "ultralytics.utils.IterableSimpleNamespace",
        "ultralytics.yolo.utils.IterableSimpleNamespace",
    ]
)
"""Constructors of plain values, which loading may call."""
REVIVED = frozenset(
    [
        *(f"{cls.__module__}.{cls.__qualname__}" for cls in OUR_CLASSES),
        *(f"torch.{name}" for pair in STORAGES.items() for name in pair),
        "ultralytics.nn.tasks.DetectionModel",
        "ultralytics.nn.tasks.YOLOv10DetectionModel",
    ]
)
"""Classes whose objects get their state from the file without a call."""
_LAYERS = re.compile(
    r"(?:torch\.nn\.modules|ultralytics\.nn\.modules|ultralytics\.utils\.(?:loss|tal))(?:\.[a-z_]\w*)*"
    r"\.(?:[A-Z]|v8|v10Detect)\w*"
)
"""Likewise: classes of layers, and of the loss in unfinished and older checkpoints."""
_YOLOV5 = ("models.yolo.", "models.common.", "models.experimental.")
"""Packages of the YOLOv5 repository in its pickled models."""


def _register() -> None:
    """Allows torch's restricted unpickler our classes, for the life of the process."""
    # Before torch 2.6, Ultralytics' restricted loading silently becomes an unrestricted one.
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise UnsupportedError(
            f"torch {torch.__version__} cannot load checkpoints safely. Install a newer one: pip install 'torch>=2.6'."
        )
    torch.serialization.add_safe_globals(list(OUR_CLASSES))


def is_yolov5(archive: TorchArchive) -> bool:
    """Returns whether a file has YOLOv5 weights."""
    return any(name.startswith(_YOLOV5) for name in archive.names)


def check_archive(archive: TorchArchive, path: Path) -> None:
    """Raises `WeightsError` if a file has a name that no detector's checkpoint needs."""
    refused = _unknown(archive.names) | (archive.called - CALLED)
    if not refused:  # again as torch's reader sees the file: two readers may read a crafted zip differently
        try:
            refused = _unknown(torch.serialization.get_unsafe_globals_in_checkpoint(archive.rewound()))
        except Exception as error:  # torch's reader knows fewer opcodes than Python's
            raise unreadable(path, error) from error
    if refused:
        raise WeightsError(
            f"'{path}' wants to run or build '{min(refused)[:80]}', which no detector checkpoint does. Nothing of it "
            "was executed. Use a checkpoint of qreg-yolo or of an Ultralytics detector, from a source you trust."
        )


def _unknown(names: Iterable[str]) -> set[str]:
    return {name for name in names if name not in CALLED | REVIVED and not _LAYERS.fullmatch(name)}


def check_file(path: Path) -> None:
    """Raises `WeightsError` if loading a file would execute something, or torch.save did not write it."""
    try:
        with TorchArchive(path) as archive:
            check_archive(archive, path)
    except PickleError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> WeightsError:
    """Returns the error for a file that is not a checkpoint."""
    reason = str(error).splitlines()[0] if str(error) else "no details"
    return WeightsError(
        f"'{path}' ({path.stat().st_size} bytes) cannot be read as a checkpoint: it is damaged, cut short or of "
        f"another program ({type(error).__name__}: {reason})."
    )


_register()
