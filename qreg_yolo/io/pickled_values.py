"""What `qreg_yolo.io.safe_pickle` makes of a pickle's calls: data where it knows how, placeholders elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.errors import UserError


class PickleError(UserError, ValueError):
    """Bytes that are no pickle, or a pickle that uses what data does not need."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle refers to; it is not looked up."""

    name: str
    """Full name, such as `models.yolo.Model`."""


@dataclass(eq=False)
class Placeholder:
    """What stands where a pickle would construct an object."""

    name: str
    """Full name of the class or function that would have been called."""
    args: tuple[Any, ...] = ()
    """The arguments of the call."""
    state: Any = None
    """What the object's attributes would have been: mostly a dictionary."""
    children: list[Any] = field(default_factory=list)
    """The items of an object that is a list or a set; pairs of one that is a dictionary."""


@dataclass(eq=False)
class UnfinishedArray(Placeholder):
    """An array before its state is known."""

    memo_keys: list[int] = field(default_factory=list)
    """Where the machine remembers it: the finished array has to go there."""


@dataclass(frozen=True)
class Storage:
    """A record of a file of `torch.save` that holds the values of tensors."""

    dtype: str
    """For example `float16`."""
    key: str
    """Name of the record."""
    size: int
    """Number of elements."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file of `torch.save`: where its values lie (`qreg_yolo.io.torch_archive` reads them)."""

    storage: Storage
    """The record that holds its values."""
    offset: int
    """Elements before the first value."""
    shape: tuple[int, ...]
    """Size of each dimension."""
    stride: tuple[int, ...]
    """Elements from one value to the next, by dimension."""


STORAGES = {
    "BFloat16Storage": "bfloat16", "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8",
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "IntStorage": "int32",
    "LongStorage": "int64", "ShortStorage": "int16",
}  # fmt: skip
"""torch's storage classes -> their element type."""
_PLAIN_DTYPE = re.compile(r"[biufc][0-9]{1,2}|[SU][0-9]{1,9}")


def checked(value: Any, kind: type | tuple[type, ...]) -> Any:
    """Returns ``value``, which has to be a ``kind``."""
    if not isinstance(value, kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise PickleError(f"The pickle has a {type(value).__name__} where {wanted} has to stand.")
    return value


def _text(value: str | bytes) -> str:
    """Returns Python 2's and Python 3's strings alike."""
    text: str = value.decode("latin-1") if isinstance(value, bytes) else checked(value, str)
    return text


def _raw(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else str(checked(value, str)).encode("latin-1")


def _dtype(value: Any) -> np.dtype[Any] | None:
    """Returns the dtype of a pickled `numpy.dtype`, or None unless it is of plain numbers or fixed strings."""
    if not isinstance(value, Placeholder) or value.name != "numpy.dtype":
        raise PickleError("The pickle has an array without an element type.")
    name = _text(value.args[0])
    order, subtype, names, fields = (value.state or (3, "|", None, None, None))[1:5]
    if not _PLAIN_DTYPE.fullmatch(name) or _text(order) not in tuple("<>|=") or (subtype or names or fields):
        return None
    return np.dtype(_text(order) + name)


def _shaped(raw: bytes, dtype: np.dtype[Any], shape: Any, order: str) -> NDArray[Any]:
    shape = tuple(int(checked(side, int)) for side in checked(shape, tuple))
    flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy(order="K")


def array(state: Any) -> NDArray[Any] | None:
    """Returns the array of an ``ndarray.__setstate__`` argument, or None where it is not of plain values."""
    shape, dtype, is_fortran, raw = checked(state, tuple)[-4:]
    plain = _dtype(dtype)
    return None if plain is None else _shaped(_raw(raw), plain, shape, "F" if is_fortran else "C")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    plain = _dtype(dtype)
    if plain is None:
        return Placeholder("numpy.scalar", (dtype, raw))
    (value,) = np.frombuffer(_raw(raw), plain)
    return value


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
    plain = _dtype(dtype)
    return Placeholder("numpy.ndarray", (dtype, shape)) if plain is None else _shaped(_raw(raw), plain, shape, order)


def _encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if checked(encoding, str) not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise PickleError("The pickle has bytes in an unusual encoding.")
    return str(checked(text, str)).encode(encoding)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    """Returns the tensor of the arguments of torch's ``_rebuild_tensor`` functions."""
    lengths = [tuple(checked(n, int) for n in checked(sides, tuple)) for sides in (shape, stride)]
    return StoredTensor(checked(storage, Storage), checked(offset, int), *lengths)


def _first(value: Any, *_: Any) -> Any:
    return value


DECODERS: dict[str, Callable[..., Any]] = {
    "builtins.bytearray": lambda raw=b"", encoding="latin1": bytearray(_raw(raw)),
    "builtins.bytes": lambda: b"",
    "builtins.complex": lambda real, imag: complex(checked(real, float), checked(imag, float)),
    "builtins.frozenset": lambda items: frozenset(checked(items, list)),
    "builtins.set": lambda items: set(checked(items, list)),
    "collections.OrderedDict": lambda pairs=(): dict(checked(pairs, (list, tuple))),
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": lambda cls, *_: Placeholder(checked(cls, Name).name),
    "torch.Size": lambda sides: checked(sides, tuple),
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    **{
        f"numpy.{core}.multiarray._reconstruct": lambda *_: UnfinishedArray("numpy.ndarray")
        for core in ("core", "_core")
    },
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_from_buffer for core in ("core", "_core")},
}
"""Full name of a function or class -> what to make of its arguments."""
