"""Pickles as data: what they hold is read, what they would do is not done."""

from __future__ import annotations

import copyreg
import os
import pickle
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qreg_yolo.io.pickles import Name, PickleError, Placeholder, decode, load_pickle
from tests.io.checkpoint_factories import Evil

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN: dict[Any, Any] = {
    "numbers": [0, 255, -1, 65536, 2**70, -(2**70), 1.5, float("inf"), True, False, None],
    "texts": ["", "a", "größer", "x" * 300],
    b"bytes": [b"", b"a", b"\xff" * 300, bytearray(b"xy")],
    "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, [4, {"k": ({5}, frozenset([6]))}])),
    7: OrderedDict(a=1),
    "complex": 1 + 2j,
}
ARRAYS = [
    np.arange(12, dtype=">i4").reshape(3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 3), np.float32),
    np.array(7, np.uint8),
    np.array([[True, False]]),
    np.array([b"ab", b"c"]),
    np.array(["ab", "ü"]),
    np.arange(4, dtype=np.float16)[::2],
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_equal(protocol: int) -> None:
    assert load_pickle(pickle.dumps(PLAIN, protocol=protocol)) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_scalars_come_back_equal(protocol: int) -> None:
    twice = [*ARRAYS, *ARRAYS]  # the second time they come from the memo
    found = load_pickle(pickle.dumps([twice, np.float32(2.5), np.bool_(True)], protocol=protocol))
    assert len(found[0]) == len(twice)
    for array, expected in zip(found[0], twice, strict=True):
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert np.array_equal(array, expected)
        array[...] = expected  # it can be written to
    assert (found[1], type(found[1]), found[2], type(found[2])) == (2.5, np.float32, True, np.bool_)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    ),
    st.sampled_from(PROTOCOLS),
)
def test_whatever_data_is_pickled_comes_back(value: Any, protocol: int) -> None:
    assert load_pickle(pickle.dumps(value, protocol=protocol)) == value


def test_a_list_in_itself() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = load_pickle(pickle.dumps(loop))
    assert found[1] is found


PYTHON_2 = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x05wordsq\x04U\x02\xe4bq\x05U\x04dataq\x06"
    b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87q\tRq\n"
    b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x0bU\x02u1K\x00K\x01\x87Rq\x0c(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x06\x00\x01\x02\xfd\xfe\xfftbu."
)
"""As Python 2 and its NumPy wrote datasets of images: texts and raw values are 8-bit strings."""


def test_pickles_of_python_2() -> None:
    found = load_pickle(PYTHON_2)
    assert found.keys() == {b"labels", b"words", b"data"}
    assert (found[b"labels"], found[b"words"]) == ([6, 9], b"\xe4b")
    assert np.array_equal(found[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    assert decode(PYTHON_2, encoding="latin1").value["words"] == "äb"


class Revived:
    """An object with state."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["marker"].touch()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [Evil, Revived])
def test_nothing_is_executed(kind: Callable[[Path], Any], protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"here": kind(marker)}, protocol=protocol)
    found = load_pickle(data)["here"]
    assert isinstance(found, Placeholder)
    assert found.name == ("tests.io.test_pickles.Revived" if kind is Revived else f"{os.mkdir.__module__}.mkdir")
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the pickle was harmless: the test shows nothing"


@pytest.mark.parametrize(
    ("data", "name", "args"),
    [
        (b"(S'echo hello'\nios\nsystem\n.", "os.system", (b"echo hello",)),  # INST
        (b"(cos\nsystem\nX\x01\x00\x00\x00ao.", "os.system", ("a",)),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01a\x85R.", "os.system", ("a",)),  # STACK_GLOBAL, REDUCE
        (b"\x80\x04cos\nPath\n)}\x92.", "os.Path", ({},)),  # NEWOBJ_EX
        (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval", (b"1",)),
    ],
)
def test_every_way_to_call_gives_a_placeholder(data: bytes, name: str, args: tuple[Any, ...]) -> None:
    decoded = decode(data)
    assert (decoded.value.name, decoded.value.args) == (name, args)
    assert decoded.names == {name}


def test_what_would_be_called_is_told_from_what_would_be_revived() -> None:
    decoded = decode(pickle.dumps([Revived(Path("x")), OrderedDict()], protocol=2))
    revived = f"{Revived.__module__}.Revived"
    assert decoded.called & {revived, "collections.OrderedDict"} == {"collections.OrderedDict"}
    assert decoded.names >= {revived, "collections.OrderedDict"}
    assert decoded.value[0].name == revived


def test_objects_keep_their_state_and_items() -> None:
    class_, items, pairs = load_pickle(
        b"(cm\nA\n)\x81}X\x01\x00\x00\x00bK\x03sbcm\nL\n)\x81(K\x01K\x02ecm\nD\n)\x81(K\x01K\x02ut."
    )
    assert (class_.name, class_.state) == ("m.A", {"b": 3})
    assert (items.name, items.children) == ("m.L", [1, 2])
    assert (pairs.name, pairs.children) == ("m.D", [(1, 2)])
    assert load_pickle(b"cm\nf\n.") == Name("m.f")


def test_states_change_only_placeholders() -> None:
    """Python would set the attributes of whatever object it is told to."""
    state = b"}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb"
    assert load_pickle(b"cm\nf\n" + state + b".") == Name("m.f")
    assert decode(b"ccollections\nOrderedDict\n" + state + b")R" + state + b".").called == {"collections.OrderedDict"}


def test_extension_codes_are_refused_even_where_python_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(copyreg._extension_cache, 1, os.mkdir)  # type: ignore[attr-defined]
    path = str(tmp_path / "marker").encode()
    data = b"\x82\x01X" + len(path).to_bytes(4, "little") + path + b"\x85R."
    with pytest.raises(PickleError, match="extension code 1"):
        load_pickle(data)
    assert not (tmp_path / "marker").exists()
    pickle.loads(data)
    assert (tmp_path / "marker").exists(), "the pickle was harmless: the test shows nothing"


def test_numbers_reserve_no_memory() -> None:
    tracemalloc.start()
    assert load_pickle(b"Nr\xff\xff\xff\xff.") is None  # the last place of the memo
    for name, size in ((b"\x8e", 8), (b"\x8d", 8), (b"\x96", 8), (b"B", 4), (b"\x8b", 4)):  # bytes, text, a number
        with pytest.raises(PickleError):
            load_pickle(name + (2 ** (8 * size - 1) - 1).to_bytes(size, "little") + b"abc.")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_arrays_of_objects_stay_closed() -> None:
    """Their dtype has state of its own, which NumPy trusts: it is not given to NumPy."""
    array = np.array([1, "a"], dtype=object)
    structured = np.zeros(2, dtype=[("a", "i4"), ("b", "O")])
    for value in (array, structured, np.array(["2024-01-01"], dtype="M8[D]")):
        found = load_pickle(pickle.dumps(value, protocol=2))
        assert isinstance(found, Placeholder)
        assert found.name == "numpy.ndarray"


def _array(raw: bytes, shape: tuple[int, ...] = (3,), dtype: str = "f8") -> bytes:
    data = pickle.dumps(np.zeros(3), protocol=4)
    assert data.count(b"\x8c\x02f8") == 1
    data = data.replace(b"\x8c\x02f8", b"\x8c\x02" + dtype.encode()).replace(b"K\x03\x85", b"K%c\x85" % shape[0], 1)
    return data.replace(b"C\x18" + bytes(24), b"C%c" % len(raw) + raw)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b".",
        b"\x80\x02",
        b"K\x01K\x02.",  # two values
        b"K\x01e.",  # APPENDS without MARK
        b"K\x01K\x02a.",  # APPEND to a number
        b"}K\x01a.",
        b"]K\x01K\x02s.",
        b"h\x05.",  # an empty place of the memo
        b"K\x01)R.",  # a call of a number
        b"cm\nf\nK\x01R.",  # arguments that are no tuple
        b"K\x01Q.",  # a persistent reference that is no tensor
        b"\x82\x01.",  # EXT1
        b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00.",
        b"}(]K\x01u.",  # a list as a key
        b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.",  # two gigabytes of nothing
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        pickle.dumps(PLAIN)[:-20],
        _array(bytes(23)),
        _array(bytes(24), shape=(4,)),
        _array(bytes(24), dtype="f3"),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_damaged_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(PickleError):
        load_pickle(data)


def test_the_arrays_above_are_refused_for_what_was_changed() -> None:
    assert np.array_equal(load_pickle(_array(bytes(24))), np.zeros(3))


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda junk: pickle.dumps(PLAIN)[:90] + junk + b"."))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(PickleError):
        decode(data)
