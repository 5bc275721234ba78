"""Reads pickles as data: nothing in them is imported, called or executed.

A small stack machine interprets the pickle's opcodes itself. What the pickle would import is a `Name` here, what it
would construct a `Placeholder` that holds the arguments and the state. Plain containers and numbers, NumPy arrays and
the tensors of `torch.save` become data (`qreg_yolo.io.pickled_values`).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.io.pickled_values import (
    DECODERS,
    STORAGES,
    Name,
    PickleError,
    Placeholder,
    Storage,
    UnfinishedArray,
    array,
    checked,
)

_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Python 2's names, which protocols up to 2 write."""
_MARK = object()


@dataclass(frozen=True)
class Decoded:
    """A pickle's content, and what loading it with Python's `pickle` would have imported."""

    value: Any
    """The content."""
    names: frozenset[str]
    """Full names of the classes and functions that it refers to."""
    called: frozenset[str]
    """Those that it calls; the other classes are revived only (``__new__`` and their state)."""


def load_pickle(source: Path | bytes, *, encoding: str | None = None) -> Any:
    """Returns the content of a pickle of any protocol, without executing anything.

    Args:
        source: The pickle, or its file.
        encoding: Of Python 2's strings; None: they are `bytes`.

    Raises:
        OSError: The file cannot be read.
        PickleError: No pickle, a damaged one, or one that uses what data does not need.

    >>> import pickle
    >>> load_pickle(pickle.dumps({b"labels": [3, 1]}, protocol=2))
    {b'labels': [3, 1]}
    >>> load_pickle(pickle.dumps(Path("a"), protocol=2)).args
    ('a',)
    """
    return decode(source if isinstance(source, bytes) else source.read_bytes(), encoding=encoding).value


def decode(data: bytes, *, encoding: str | None = None) -> Decoded:
    """Returns the content of a pickle and the names it refers to; errors as `load_pickle`."""
    machine = _Machine(encoding)
    try:
        value = machine.run(data)
    except PickleError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, StopIteration, TypeError, ValueError) as error:
        raise PickleError(f"The bytes are no readable pickle ({type(error).__name__}: {error}).") from error
    return Decoded(value, frozenset(machine.names), frozenset(machine.called))


class _Machine:
    """Python's pickle machine, with placeholders where that one imports and calls."""

    def __init__(self, encoding: str | None) -> None:
        self.encoding = encoding
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()
        self.called: set[str] = set()

    def run(self, data: bytes) -> Any:
        for opcode, argument, position in pickletools.genops(data):
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise PickleError(f"The pickle uses {opcode.name} (at byte {position}), which data does not need.")
            operation(self, argument)
        (value,) = self.stack
        return value

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - next(i for i, item in enumerate(reversed(self.stack)) if item is _MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _pairs_since_mark(self) -> list[tuple[Any, Any]]:
        items = self._since_mark()
        return list(zip(items[::2], items[1::2], strict=True))

    def _op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _op_pop(self, _: Any) -> None:
        self.stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _op_string(self, text: str) -> None:
        raw = text.encode("latin-1")  # pickletools decodes so
        self.stack.append(raw if self.encoding is None else raw.decode(self.encoding))

    def _op_get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def _op_put(self, key: int) -> None:
        self.memo[key] = top = self.stack[-1]
        if isinstance(top, UnfinishedArray):
            top.memo_keys.append(key)

    def _op_memoize(self, _: Any) -> None:
        self._op_put(len(self.memo))

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _op_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(self._since_mark()))

    def _op_dict(self, _: Any) -> None:
        self.stack.append(dict(self._pairs_since_mark()))

    def _op_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([(key, value)])

    def _op_setitems(self, _: Any) -> None:
        self._update(self._pairs_since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(items)
        else:
            checked(target.children if isinstance(target, Placeholder) else target, list).extend(items)

    def _update(self, pairs: list[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target.children.extend(pairs)
        else:
            checked(target, dict).update(pairs)

    def _op_global(self, module_and_name: str) -> None:
        module, _, name = module_and_name.partition(" ")
        full = f"{_MODULES.get(module, module)}.{name}"
        self.names.add(full)
        self.stack.append(Name(full))

    def _op_stack_global(self, _: Any) -> None:
        name, module = checked(self.stack.pop(), str), checked(self.stack.pop(), str)
        self._op_global(f"{module} {name}")

    def _op_reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(function, args))

    def _op_inst(self, module_and_name: str) -> None:
        args = tuple(self._since_mark())
        self._op_global(module_and_name)
        self.stack.append(self._call(self.stack.pop(), args))

    def _op_obj(self, _: Any) -> None:
        cls, *args = self._since_mark()
        self.stack.append(self._call(cls, tuple(args)))

    def _call(self, function: Any, args: Any) -> Any:
        """Returns the decoded value of a call, or a placeholder for it."""
        name, args = checked(function, Name).name, checked(args, tuple)
        self.called.add(name)
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: (function, type, args, state)
            return self._call(args[0], args[2])
        return DECODERS[name](*args) if name in DECODERS else Placeholder(name, args)

    def _op_newobj(self, _: Any) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.stack.append(Placeholder(checked(cls, Name).name, checked(args, tuple)))

    def _op_newobj_ex(self, _: Any) -> None:
        keywords, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Placeholder(checked(cls, Name).name, (*checked(args, tuple), checked(keywords, dict))))

    def _op_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder):  # the attributes of others (an OrderedDict's) are of no use here
            target.state = state
        if isinstance(target, UnfinishedArray) and (values := array(state)) is not None:
            self.stack[-1] = values
            self.memo.update(dict.fromkeys(target.memo_keys, values))

    def _op_binpersid(self, _: Any) -> None:
        kind, storage_type, key, _, size = checked(self.stack.pop(), tuple)
        name = checked(storage_type, Name).name
        if kind != "storage" or name.removeprefix("torch.") not in STORAGES:
            raise PickleError(f"The pickle refers to a record of type {name}, which is not known.")
        self.stack.append(Storage(STORAGES[name.removeprefix("torch.")], checked(key, str), checked(size, int)))


def _push(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _push_empty(kind: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(kind())


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _ignore(machine: _Machine, argument: Any) -> None:
    del machine, argument


_LITERALS = [
    "BINBYTES", "BINBYTES8", "BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8",
    "FLOAT", "INT", "LONG", "LONG1", "LONG4", "SHORT_BINBYTES", "SHORT_BINUNICODE", "UNICODE",
]  # fmt: skip
_SAME_AS = {
    "ADDITEMS": "APPENDS", "BINGET": "GET", "BINPUT": "PUT", "BINSTRING": "STRING", "LONG_BINGET": "GET",
    "LONG_BINPUT": "PUT", "SHORT_BINSTRING": "STRING",
}  # fmt: skip
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(["PROTO", "FRAME", "STOP"], _ignore),
    **dict.fromkeys(_LITERALS, _push_argument),
    **{"NONE": _push(None), "NEWTRUE": _push(True), "NEWFALSE": _push(False), "EMPTY_TUPLE": _push(())},
    **{"EMPTY_LIST": _push_empty(list), "EMPTY_DICT": _push_empty(dict), "EMPTY_SET": _push_empty(set)},
    **{name[4:].upper(): method for name, method in vars(_Machine).items() if name.startswith("_op_")},
}
_OPERATIONS |= {name: _OPERATIONS[same] for name, same in _SAME_AS.items()}
"""Name of an opcode (as `pickletools` has it) -> what the machine does; the others are refused."""
