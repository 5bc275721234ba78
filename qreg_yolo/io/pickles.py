"""Pickles read as data: nothing in them is imported, called or executed.

Python's own unpickler reads the opcodes, with classes and functions replaced by their names (`Name`) and objects by
placeholders. Its pure-Python form (`pickle._Unpickler`) is used: no number in a hostile file reaches C code that
allocates memory by it, and the opcodes that set the state of an object can be replaced.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from qreg_yolo.errors import UserError

STORAGES = {
    "BFloat16Storage": "bfloat16", "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8",
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "IntStorage": "int32",
    "LongStorage": "int64", "ShortStorage": "int16",
}  # fmt: skip
"""torch's storage class -> its element type."""
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules as protocols up to 2 name them."""
_PLAIN_DTYPE = re.compile(r"[biufc][0-9]{1,2}|[SU][0-9]{1,9}")


class PickleError(UserError, ValueError):
    """Bytes that are not a pickle, or a pickle that uses more than data needs."""


@dataclass(frozen=True)
class Decoded:
    """A pickle's content, and the names that Python's `pickle` would have imported."""

    value: Any
    """The content."""
    names: frozenset[str]
    """Full names of the classes and functions that it refers to."""
    called: frozenset[str]
    """Classes that it calls; others are only revived (``__new__`` and their state)."""


@dataclass(eq=False)
class Placeholder:
    """An object that was not constructed."""

    name: str
    """Full name of the class or function that would have been called."""
    args: tuple[Any, ...] = ()
    """The arguments of the call."""
    state: Any = None
    """The object's attributes, mostly a dictionary."""
    children: list[Any] = field(default_factory=list)
    """The items of an object that is a list or a set; pairs of one that is a dictionary."""

    def append(self, item: Any) -> None:
        """Adds an item, as the unpickler does with a list."""
        self.children.append(item)

    add = append  # as with a set

    def __setitem__(self, key: Any, value: Any) -> None:
        self.children.append((key, value))


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle refers to; it is not imported."""

    name: str
    """Full name, such as `models.yolo.Model`."""
    called: set[str] = field(default_factory=set, compare=False, repr=False)
    """Receives the name when the pickle calls it."""

    def __call__(self, *args: Any) -> Any:
        """Returns the value of a call with these arguments where it is data, else a placeholder."""
        self.called.add(self.name)
        decode = _DECODERS.get(self.name.replace("numpy._core.", "numpy.core."))
        return Placeholder(self.name, args) if decode is None else decode(*args)


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
    """The place of a tensor's values in a file of `torch.save` (`TorchArchive.array` reads them)."""

    storage: Storage
    """The record that holds its values."""
    offset: int
    """Elements before the first value."""
    shape: tuple[int, ...]
    """Size of each dimension."""
    stride: tuple[int, ...]
    """Elements from one value to the next, by dimension."""


def load_pickle(data: bytes) -> Any:
    """Returns the content of a pickle of any protocol, without executing anything; Python 2's strings are `bytes`.

    Raises:
        PickleError: It is damaged, not a pickle, or uses more than data needs.

    >>> import pickle
    >>> load_pickle(pickle.dumps({b"labels": [3, 1]}, protocol=2))
    {b'labels': [3, 1]}
    >>> load_pickle(pickle.dumps(slice(1, 2))).args
    (1, 2, None)
    """
    return decode(data).value


def decode(data: bytes, *, encoding: str = "bytes") -> Decoded:
    """Returns the content of a pickle and the names it refers to; errors as `load_pickle`.

    Args:
        data: The pickle.
        encoding: Of Python 2's strings; ``bytes`` leaves them as they are.
    """
    unpickler = _Unpickler(data, encoding)
    try:
        value = unpickler.load()
    except PickleError:
        raise
    except Exception as error:  # whatever the bytes make the unpickler raise
        raise PickleError(f"The bytes are not a readable pickle ({type(error).__name__}: {error}).") from error
    if unpickler.stack or unpickler.metastack:
        raise PickleError("The pickle holds more than one value.")
    return Decoded(value, frozenset(unpickler.names), frozenset(unpickler.called))


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, without its ways to import, construct and change objects."""

    stack: list[Any]
    metastack: list[list[Any]]
    memo: dict[int, Any]

    def __init__(self, data: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self.names: set[str] = set()
        self.called: set[str] = set()

    def find_class(self, module: str, name: str) -> Name:
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        self.names.add(full)
        return Name(full, self.called)

    def get_extension(self, code: int) -> None:
        raise PickleError(f"The pickle uses the extension code {code}, which data does not need.")

    def persistent_load(self, reference: Any) -> Storage:
        """Returns the record of a file of `torch.save` that a tensor refers to."""
        kind, storage_type, key, _, size = _checked(reference, tuple)
        name = _checked(storage_type, Name).name
        dtype = STORAGES.get(name.removeprefix("torch."))
        if kind != "storage" or dtype is None:
            raise PickleError(f"The pickle refers to a record of type {name}, which is not known.")
        return Storage(dtype, _checked(key, str), _checked(size, int))

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(Placeholder(_checked(cls, Name).name, _checked(args, tuple)))

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        self.stack[-1] = (*self.stack[-1], keywords)
        self.load_newobj()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Placeholder):  # the attributes of others (an OrderedDict's) are of no use here
            return
        target.state = state
        if target.name == "numpy.ndarray":
            shape, dtype, is_fortran, raw = _checked(state, tuple)[-4:]
            array = _array(raw, dtype, shape, "F" if is_fortran else "C")
            if not isinstance(array, Placeholder):
                self.stack[-1] = array
                self.memo.update([(key, array) for key, value in self.memo.items() if value is target])

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
    }


def _checked(value: Any, kind: type) -> Any:
    """Returns ``value`` if it is a ``kind``; else raises."""
    if not isinstance(value, kind):
        raise PickleError(f"The pickle has a {type(value).__name__} instead of a {kind.__name__}.")
    return value


def _text(value: Any) -> str:
    """Returns Python 2's and Python 3's strings alike."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(_checked(value, str))


def _raw(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else str(_checked(value, str)).encode("latin-1")


def _dtype(value: Any) -> np.dtype[Any] | None:
    """Returns the dtype of a pickled `numpy.dtype`, or None unless it is of plain numbers or fixed strings."""
    if not isinstance(value, Placeholder) or value.name != "numpy.dtype":
        raise PickleError("The pickle has an array without an element type.")
    name = _text(value.args[0])
    order, subtype, names, fields = (value.state or (3, "|", None, None, None))[1:5]
    if not _PLAIN_DTYPE.fullmatch(name) or _text(order) not in tuple("<>|=") or (subtype or names or fields):
        return None
    return np.dtype(_text(order) + name)


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Returns an array, or a placeholder where it is not of plain values."""
    plain = _dtype(dtype)
    if plain is None:
        return Placeholder("numpy.ndarray", (dtype, shape))
    sides = tuple(int(_checked(side, int)) for side in _checked(shape, tuple))
    return np.frombuffer(_raw(raw), plain).reshape(sides, order="F" if order == "F" else "C").copy(order="K")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    plain = _dtype(dtype)
    if plain is None:
        return Placeholder("numpy.scalar", (dtype, raw))
    (value,) = np.frombuffer(_raw(raw), plain)
    return value


def _encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise PickleError("The pickle has bytes in an unusual encoding.")
    return str(_checked(text, str)).encode(encoding)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    """Returns the tensor of the arguments of torch's ``_rebuild_tensor`` functions."""
    lengths = [tuple(_checked(n, int) for n in _checked(sides, tuple)) for sides in (shape, stride)]
    return StoredTensor(_checked(storage, Storage), _checked(offset, int), *lengths)


def _first(value: Any, *_: Any) -> Any:
    return value


_DECODERS: dict[str, Callable[..., Any]] = {
    "builtins.bytearray": lambda raw=b"", encoding="latin1": bytearray(_raw(raw)),
    "builtins.bytes": lambda: b"",
    "builtins.complex": lambda real, imag: complex(_checked(real, float), _checked(imag, float)),
    "builtins.frozenset": lambda items: frozenset(_checked(items, list)),
    "builtins.set": lambda items: set(_checked(items, list)),
    "collections.OrderedDict": lambda pairs=(): dict(pairs),
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": lambda cls, *_: Placeholder(_checked(cls, Name).name),
    "numpy.core.multiarray._reconstruct": lambda *_: Placeholder("numpy.ndarray"),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "torch.Size": lambda sides: _checked(sides, tuple),
    "torch._tensor._rebuild_from_type_v2": lambda function, _, args, __: _checked(function, Name)(*args),
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""Full name of a function or class -> its value for the arguments of a call."""
