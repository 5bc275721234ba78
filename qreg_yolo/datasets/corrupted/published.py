"""CIFAR-10-C and CIFAR-100-C in the published layout, read where they lie; nothing in the files is executed.

``<corruption>.npy``: uint8 `(5 n, 32, 32, 3)`, severity by severity; ``labels.npy``: the n labels five times over. So
Hendrycks & Dietterich (arXiv 1903.12261) published them, and so `sets/cifar.py` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.corrupt.draws import Image
from qreg_yolo.corrupt.spec import SEVERITIES
from qreg_yolo.datasets.corrupted.manifest import SetsError
from qreg_yolo.errors import MissingFileError
from qreg_yolo.io import files

LABELS = "labels.npy"
_REMEDY = "Give the folder of the files that belong to this data set."


class Published:
    """The corrupted images of a folder, mapped into memory.

    Args:
        folder: Where the ``.npy`` files lie.
        labels: int64 `(n,)`: of all test images of the clean set, which the files have to be of.
        chosen: `(m,)`: which of them are wanted. Files of just these, as ``qreg-yolo corrupt --limit`` writes them,
            will do too.

    Raises:
        FileNotFoundError: No such folder, or no labels in it.
        SetsError: Labels of another form, or of other images.
    """

    def __init__(self, folder: Path, labels: NDArray[np.int64], chosen: NDArray[np.intp]) -> None:
        self.folder = folder
        self._files: dict[str, NDArray[np.uint8]] = {}
        path = folder / LABELS
        stored = _mapped(path)
        if stored.ndim != 1 or not np.issubdtype(stored.dtype, np.integer) or len(stored) % len(SEVERITIES):
            raise SetsError(
                f"'{path}' is {stored.dtype} {list(stored.shape)}, not five times the labels as integers. {_REMEDY}"
            )
        self._n = len(stored) // len(SEVERITIES)
        if self._n == len(labels):
            self._rows, expected = chosen, labels
        elif self._n == len(chosen):
            self._rows, expected = np.arange(self._n), labels[chosen]
        else:
            raise SetsError(
                f"'{path}' has the labels of 5 x {self._n} images, the data set has {len(labels)} images. {_REMEDY}"
            )
        differs = stored != np.tile(expected, len(SEVERITIES))
        if differs.any():
            row = int(differs.argmax())
            raise SetsError(
                f"'{path}' has the label {stored[row]} in row {row}, the data set {expected[row % self._n]}: they "
                f"are of other images, or in another order. {_REMEDY}"
            )

    def check(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the SHA-256 of each corruption's file, all of which have the right form.

        Raises:
            FileNotFoundError: One is missing.
            SetsError: One holds something else.
        """
        found = {}
        shape = (len(SEVERITIES) * self._n, 32, 32, 3)
        for name in names:
            path = self.folder / f"{name}.npy"
            array = _mapped(path)
            if array.dtype != np.uint8 or array.shape != shape:
                raise SetsError(
                    f"'{path}' is {array.dtype} {list(array.shape)}, not uint8 {list(shape)}: {self._n} images of 32 "
                    f"pixels at each of five severities, as {LABELS} has them."
                )
            self._files[name] = array
            found[name] = files.sha256(path)
        return found

    def images(self, name: str, severity: int, part: slice) -> Image:
        """Returns some of the wanted images, `(k, 32, 32, 3)`, of a corruption that `check` has seen.

        Args:
            name: The corruption.
            severity: 1..5.
            part: Which of the wanted images.
        """
        taken: Image = self._files[name][(severity - 1) * self._n + self._rows[part]]
        return taken


def _mapped(path: Path) -> NDArray[Any]:
    """Returns the array in a file, without reading it as a whole.

    Raises:
        FileNotFoundError: No such file.
        SetsError: It holds no plain array, or is cut short.
    """
    if not path.is_file():
        raise MissingFileError(
            f"There is no '{path}'. Give with --published the folder of CIFAR-10-C's or CIFAR-100-C's .npy files."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise SetsError(f"'{path}' is no array of numbers, or cut short ({error}). Fetch or write it again.") from error
    if not isinstance(array, np.ndarray):
        array.close()  # of several arrays
        raise SetsError(f"'{path}' is no single array. Fetch or write it again.")
    return array
