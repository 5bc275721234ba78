"""Files of torch.save as data: tensors come back, damaged and dishonest files are refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qreg_yolo.io.pickles import PickleError, StoredTensor
from qreg_yolo.io.torch_archive import TorchArchive
from tests.test_imports import heavy_modules_loaded_by


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def archive(path: Path, data: bytes) -> TorchArchive:
    path.write_bytes(data)
    return TorchArchive(path)


DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("name", DTYPES)
def test_tensors_are_read(name: str, tmp_path: Path) -> None:
    whole = (torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) * 100).to(getattr(torch, name))
    tensors = {"whole": whole, "part": whole[1:, ::2].t(), "one": whole[2, 3], "none": whole[:0]}
    with archive(tmp_path / "a.pt", saved(tensors)) as file:
        for key, tensor in tensors.items():
            found = torch.from_numpy(file.array(file.content[key]))
            assert torch.equal(found, tensor.float() if name == "bfloat16" else tensor), key
            assert tuple(found.shape) == tuple(tensor.shape)


def test_a_module_is_a_tree_of_placeholders(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with archive(tmp_path / "a.pt", saved({"model": module, "size": torch.Size([2, 3])})) as file:
        tree = file.content["model"]
        assert file.content["size"] == (2, 3)
        assert tree.name == "torch.nn.modules.container.Sequential"
        linear = tree.state["_modules"]["0"]
        assert isinstance(linear.state["_parameters"]["weight"], StoredTensor)
        weight = torch.from_numpy(file.array(linear.state["_parameters"]["weight"]))
        assert torch.equal(weight, module[0].weight)
        assert file.names >= {"torch.nn.modules.linear.Linear", "torch._utils._rebuild_parameter"}
        assert "torch.nn.modules.linear.Linear" not in file.called


def rezipped(data: bytes, edit: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """Returns a zip file with its records passed through ``edit``; None drops one."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w", **options) as file:
        for name in source.namelist():
            if (content := edit(name, source.read(name))) is not None:
                file.writestr(name, content)
    return target.getvalue()


TENSOR = torch.arange(6.0)
GOOD = saved({"a": TENSOR})


def test_the_zip_files_below_are_refused_for_what_was_changed(tmp_path: Path) -> None:
    with archive(tmp_path / "a.pt", rezipped(GOOD, lambda _, data: data)) as file:
        assert np.array_equal(file.array(file.content["a"]), TENSOR.numpy())


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a file of torch.save"),
        (b"hello", "not a file of torch.save"),
        (GOOD[: len(GOOD) // 2], "not a file of torch.save"),
        (saved({"a": 1}, _use_new_zipfile_serialization=False), "newer torch"),
        (rezipped(GOOD, lambda name, data: None if name.endswith("data.pkl") else data), "0 data.pkl"),
        (rezipped(GOOD, lambda name, data: b"big" if name.endswith("byteorder") else data), "big-endian"),
        (rezipped(GOOD, lambda name, data: data[:-3] if name.endswith("data.pkl") else data), "pickle"),
    ],
)
def test_other_files_are_refused(data: bytes, word: str, tmp_path: Path) -> None:
    with pytest.raises(PickleError, match=word):
        archive(tmp_path / "a.pt", data)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (rezipped(GOOD, lambda name, data: None if name.endswith("data/0") else data), "missing"),
        (rezipped(GOOD, lambda name, data: data[:-4] if name.endswith("data/0") else data), "20 bytes instead of 24"),
        (rezipped(GOOD, lambda name, data: data.replace(b"K\x06\x85", b"K\x07\x85")), "exceeds"),
        (rezipped(GOOD, lambda name, data: data.replace(b"K\x01\x85", b"K\x02\x85")), "exceeds"),
        (rezipped(GOOD, lambda name, data: data.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85")), "exceeds"),
        (GOOD.replace(TENSOR.numpy().tobytes(), bytes(24)), "damaged"),
    ],
    ids=["no record", "short record", "shape", "stride", "negative stride", "checksum"],
)
def test_tensors_outside_of_their_record_are_refused(data: bytes, word: str, tmp_path: Path) -> None:
    assert data != GOOD
    with archive(tmp_path / "a.pt", data) as file, pytest.raises(PickleError, match=word):
        file.array(file.content["a"])


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    """A small file could grow without bound."""
    with pytest.raises(PickleError, match="compressed"):
        archive(tmp_path / "a.pt", rezipped(GOOD, lambda _, data: data, compression=zipfile.ZIP_DEFLATED))


def test_torch_is_not_needed() -> None:
    assert heavy_modules_loaded_by("import qreg_yolo.io.torch_archive") == ["numpy"]
