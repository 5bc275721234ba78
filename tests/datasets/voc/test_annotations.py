from __future__ import annotations

import math
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qreg_yolo.datasets.voc import annotations
from qreg_yolo.datasets.voc.annotations import Annotation, Fault, read_annotation
from tests.datasets.voc.synthetic_devkit import HEIGHT, WIDTH, annotation, box

NAMES = ("aeroplane", "dog", "person")
CLASS_IDS = {name: number for number, name in enumerate(NAMES)}


def read(folder: Path, text: str | bytes, **options: Any) -> Annotation:
    path = folder / "a.xml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_annotation(path, CLASS_IDS, **options)


def refusal(folder: Path, text: str | bytes) -> Fault:
    with pytest.raises(Fault) as error:
        read(folder, text)
    return error.value


# ---------------------------------------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def their_convert_label() -> Any:
    """Returns the function of Ultralytics' own script (in its VOC.yaml) that writes a label file."""
    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    text = (Path(spec.submodule_search_locations[0]) / "cfg/datasets/VOC.yaml").read_text(encoding="utf-8")
    script = yaml.safe_load(text)["download"].partition("# Download")[0]
    script = "\n".join(line for line in script.splitlines() if not line.startswith("from ultralytics"))
    scope: dict[str, Any] = {"yaml": {"names": dict(enumerate(NAMES))}}
    exec(script, scope)
    return scope["convert_label"]


BOXES = [
    (1, 1, WIDTH, HEIGHT),
    (1, 1, 2, 2),
    (39, 29, 40, 30),
    (3, 7, 20, 22),
    ("45.70000076293945", "1.5", "300.25", "77.3"),
    (" 5 ", "\n6\n", "1e1", "+20"),
]


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (500, 375), (333, 499)])
@pytest.mark.ultralytics
def test_the_text_is_that_of_ultralytics_own_script(
    tmp_path: Path, their_convert_label: Any, size: tuple[int, int]
) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    objects = [box("person", (1, 2, 3, 4), 1), box("person", (2, 3, 9, 9)).replace("</object>", f"{part}</object>")]
    objects += [box(NAMES[i % 3], corners) for i, corners in enumerate(BOXES) if float(corners[2]) <= size[0]]
    text = annotation(*objects, size=f"<width>{size[0]}</width><height>{size[1]}</height>")
    (tmp_path / "VOC2007" / "Annotations").mkdir(parents=True)
    (tmp_path / "VOC2007" / "Annotations" / "1.xml").write_text(text)
    their_convert_label(tmp_path, tmp_path / "1.txt", "2007", "1")
    found = read(tmp_path, text)
    assert len(found.lines) == len(objects) - 1 >= 6
    assert "".join(f"{line}\n" for line in found.lines) == (tmp_path / "1.txt").read_text()
    assert (found.n_difficult, found.faults) == (1, ())


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_box_in_the_image_is_in_the_unit_square_and_can_be_read_back(tmp_path: Path, data: st.DataObject) -> None:
    corners, sizes = [], []
    for _ in "xy":
        size = data.draw(st.integers(2, 4000))
        low = data.draw(st.integers(1, size - 1))
        corners.append((low, data.draw(st.integers(low + 1, size))))
        sizes.append(size)
    (x1, x2), (y1, y2) = corners
    text = annotation(box(corners=(x1, y1, x2, y2)), size=f"<width>{sizes[0]}</width><height>{sizes[1]}</height>")
    (line,) = read(tmp_path, text).lines
    x, y, w, h = (float(value) for value in line.split()[1:])
    for center, extent, (low, high), size in zip((x, y), (w, h), corners, sizes, strict=True):
        assert center - extent / 2 + 1e-12 >= 0
        assert center + extent / 2 <= 1
        assert (center - extent / 2) * size + 1 == pytest.approx(low, abs=1e-6)  # VOC counts from 1
        assert (center + extent / 2) * size + 1 == pytest.approx(high, abs=1e-6)


def test_difficult_objects_are_dropped_unless_kept(tmp_path: Path) -> None:
    text = annotation(box("dog"), box("person", difficult=1), box("aeroplane", difficult=" 0\n"))
    found = read(tmp_path, text)
    assert [line.split()[0] for line in found.lines] == ["1", "0"]
    assert found.n_difficult == 1
    kept = read(tmp_path, text, keep_difficult=True)
    assert [line.split()[0] for line in kept.lines] == ["1", "2", "0"]
    assert kept.n_difficult == 0


def test_an_object_without_the_flag_is_not_difficult(tmp_path: Path) -> None:
    found = read(tmp_path, annotation(box().replace("<difficult>0</difficult>", "")))
    assert (len(found.lines), found.n_difficult) == (1, 0)


def test_an_image_without_objects_is_no_fault(tmp_path: Path) -> None:
    assert read(tmp_path, annotation()) == Annotation((), 0, ())


# ---------------------------------------------------------------------------------------------- faults


OBJECT_FAULTS = [
    (box("dgo"), annotations.UNKNOWN_CLASS, ["'dgo'", "3 classes"]),
    (box("dgo", difficult=1), annotations.UNKNOWN_CLASS, ["'dgo'"]),
    ("<object/>", annotations.UNKNOWN_CLASS, ["''"]),
    (box(difficult=2), annotations.WRONG_FLAG, ["'2'", "0 or 1"]),
    (box(difficult="yes"), annotations.WRONG_FLAG, ["'yes'"]),
    (box(corners=(0, 4, 20, 25)), annotations.OUTSIDE, ["(0, 4) to (20, 25)", "(1, 1) to (40, 30)"]),
    (box(corners=(3, 0.5, 20, 25)), annotations.OUTSIDE, ["(3, 0.5)"]),
    (box(corners=(3, 4, 41, 25)), annotations.OUTSIDE, ["(41, 25)"]),
    (box(corners=(3, 4, 20, 31)), annotations.OUTSIDE, ["(20, 31)"]),
    (box(corners=(-5, 4, 20, 25)), annotations.OUTSIDE, ["(-5, 4)"]),
    (box(corners=(20, 4, 20, 25)), annotations.NO_AREA, ["(20, 4) to (20, 25)"]),
    (box(corners=(3, 25, 20, 4)), annotations.NO_AREA, ["(3, 25) to (20, 4)"]),
    (box(corners=("nan", 4, 20, 25)), annotations.NOT_A_NUMBER, ["xmin 'nan'"]),
    (box(corners=(3, 4, "inf", 25)), annotations.NOT_A_NUMBER, ["xmax 'inf'"]),
    (box(corners=(3, "four", 20, 25)), annotations.NOT_A_NUMBER, ["ymin 'four'"]),
    (box(corners=(3, 4, 20, "")), annotations.NOT_A_NUMBER, ["ymax ''"]),
    (box().replace("bndbox", "bbox"), annotations.NOT_A_NUMBER, ["xmin None"]),
]


@pytest.mark.parametrize(
    ("bad", "kind", "words"), OBJECT_FAULTS, ids=lambda value: "" if isinstance(value, list) else value
)
def test_a_faulty_object_is_named_and_the_others_are_kept(
    tmp_path: Path, bad: str, kind: str, words: list[str]
) -> None:
    found = read(tmp_path, annotation(box("person"), bad, box("aeroplane")))
    assert [line.split()[0] for line in found.lines] == ["2", "0"]
    (fault,) = found.faults
    assert fault.kind == kind
    for word in ["object 2", *words]:
        assert word in fault.found


def test_the_box_of_a_dropped_difficult_object_is_not_looked_at(tmp_path: Path) -> None:
    text = annotation(box(corners=(9, 9, 9, 9), difficult=1))
    assert read(tmp_path, text).faults == ()
    assert [fault.kind for fault in read(tmp_path, text, keep_difficult=True).faults] == [annotations.NO_AREA]


@pytest.mark.parametrize(
    ("size", "word"),
    [
        ("", "width None"),
        ("<width>40</width>", "height None"),
        ("<width>0</width><height>30</height>", "width '0'"),
        ("<width>40</width><height>-1</height>", "height '-1'"),
        ("<width>nan</width><height>30</height>", "width 'nan'"),
        ("<width>wide</width><height>30</height>", "width 'wide'"),
        ("<width>5e-324</width><height>30</height>", "width '5e-324'"),
    ],
)
def test_a_missing_size(tmp_path: Path, size: str, word: str) -> None:
    fault = refusal(tmp_path, annotation(box(), size=size))
    assert fault.kind == annotations.MISSING_SIZE
    assert word in fault.found


def test_a_missing_annotation(tmp_path: Path) -> None:
    with pytest.raises(Fault) as error:
        read_annotation(tmp_path / "none.xml", CLASS_IDS)
    assert error.value.kind == annotations.MISSING_ANNOTATION


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "no element"),
        (annotation(box())[:-5], "unclosed"),
        (b"<annotation>\xff</annotation>", "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "klingon"),
        (b'<?xml version="1.0" encoding="shift_jis"?><annotation/>', "multi-byte"),
        (b"<annotation>&nbsp;</annotation>", "entity"),
        (b"<html><body>404</body></html>", "<html> instead of <annotation>"),
        (annotation() + " " * annotations.MAX_BYTES, "more than 1048576 bytes"),
    ],
    ids=["empty", "cut off", "bytes", "encoding", "encoding of several bytes", "entity", "html", "size"],
)
def test_malformed_xml(tmp_path: Path, text: str | bytes, word: str) -> None:
    fault = refusal(tmp_path, text)
    assert fault.kind == annotations.MALFORMED_XML
    assert word in fault.found


# ---------------------------------------------------------------------------------------------- hostile XML


def bomb(levels: int) -> str:
    """Returns a document in which ten names expand to 10 ** levels letters."""
    entities = '<!ENTITY e0 "x">' + "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(levels))
    return f"<!DOCTYPE annotation [{entities}]><annotation><name>&e{levels};</name></annotation>"


def test_the_bomb_works_on_a_plain_parser() -> None:
    assert len(ET.fromstring(bomb(4)).findtext("name") or "") == 10**4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        bomb(30),
        '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation>&e;</annotation>',
        '<!DOCTYPE annotation SYSTEM "http://192.0.2.1/voc.dtd"><annotation/>',
        "<!DOCTYPE annotation><annotation/>",
    ],
    ids=["bomb", "external entity", "external DTD", "bare"],
)
def test_a_document_type_is_refused_before_it_is_read(
    tmp_path: Path, text: str, encoding: str, network_attempts: list[str]
) -> None:
    start = time.process_time()
    fault = refusal(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    assert (fault.kind, network_attempts) == (annotations.MALFORMED_XML, [])
    assert "document type ('annotation')" in fault.found
    assert time.process_time() - start < 1


def test_numbers_are_finite_or_nan() -> None:
    assert annotations._number("12") == 12
    assert all(math.isnan(annotations._number(text)) for text in (None, "", "x", "nan", "-inf", "1e999"))
