"""Files of `torch.save` read as data: nothing in them is executed, and torch is not needed."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.io.pickles import PickleError, StoredTensor, decode


class TorchArchive:
    """An open file of `torch.save` (torch 1.6 or newer); use it in a ``with``.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        PickleError: It is damaged, or not such a file.
    """

    content: Any
    """The saved object: plain data, `StoredTensor` and `Placeholder`."""
    names: frozenset[str]
    """Full names of the classes and functions that the file refers to."""
    called: frozenset[str]
    """Classes that `torch.load` would call; it would only revive the others."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def rewound(self) -> BinaryIO:
        """Returns the open file, at its start, for another reader."""
        self._file.seek(0)
        return self._file

    def _read(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(self._file)
            records = self._zip.namelist()
        except Exception as error:  # whatever the bytes make zipfile raise
            raise PickleError(
                f"'{path}' is not a file of torch.save: it is damaged, cut short, of another program, or older than "
                "torch 1.6 (then load and save it once with a newer torch)."
            ) from error
        roots = [name[: -len("data.pkl")] for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1 or len(set(records)) != len(records):
            raise PickleError(f"'{path}' is a zip file, but not one of torch.save: it has {len(roots)} data.pkl.")
        self._root = roots[0]
        if f"{self._root}byteorder" in records and self._record("byteorder") != b"little":
            raise PickleError(f"'{path}' was saved on a big-endian machine, which is not supported.")
        decoded = decode(self._record("data.pkl"), encoding="utf-8")
        self.content, self.names, self.called = decoded.value, decoded.names, decoded.called

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def array(self, tensor: StoredTensor) -> NDArray[Any]:
        """Returns a tensor's values; bfloat16, which NumPy lacks, comes as float32.

        Raises:
            PickleError: The record is damaged, or too small for the values.
        """
        storage = tensor.storage
        element = np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
        raw = self._record(f"data/{storage.key}")
        if len(raw) != storage.size * element.itemsize:
            raise PickleError(
                f"Record {storage.key} has {len(raw)} bytes instead of {storage.size * element.itemsize}."
            )
        if not _fits(tensor):
            raise PickleError(f"A tensor of shape {list(tensor.shape)} exceeds its record of {storage.size} values.")
        flat = np.frombuffer(raw, element)
        strides = [stride * element.itemsize for stride in tensor.stride]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        if storage.dtype != "bfloat16":
            return view.copy(order="C")
        wide = view.astype(np.uint32, order="C")
        wide <<= 16  # bfloat16 is float32 without its lower 16 bits
        return wide.view(np.float32)

    def _record(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(f"{self._root}{name}")
            if info.compress_type != zipfile.ZIP_STORED:  # torch does not compress; a bomb would
                raise PickleError(f"Record {name} is compressed, which torch.save does not do.")
            return self._zip.read(info)
        except PickleError:
            raise
        except Exception as error:  # whatever the bytes make zipfile raise
            raise PickleError(f"Record {name} is missing or damaged ({error}).") from error


def _fits(tensor: StoredTensor) -> bool:
    """Returns whether a tensor reads only values of its record, and at most as many as that holds."""
    if len(tensor.shape) != len(tensor.stride) or min((tensor.offset, *tensor.shape, *tensor.stride)) < 0:
        return False
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride, strict=True))
    count = math.prod(tensor.shape)
    if count == 0:
        return max((*tensor.shape, *tensor.stride)) < 2**31  # nothing is read, but NumPy keeps the numbers
    return last < tensor.storage.size and count <= tensor.storage.size
