from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.classify.classify_helpers import train
from tests.datasets.synthetic_cifar import write_cifar
from tests.process_helpers import made_once


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny tensors on a shared machine; puts torch's threads back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("QREG_YOLO_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder with 80 training and 24 test images."""
    return made_once(tmp_path_factory, "cifar10", write_cifar)


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar100"), "cifar100")


@pytest.fixture(scope="session")
def trained(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns the checkpoints of a float run and of its 4-bit counterpart, trained on the tiny set."""

    def train_both(folder: Path) -> list[Path]:
        runs = [
            train(cifar10, folder / name, bits=bits, epochs=40, val_every=40)
            for name, bits in (("fp32", 32), ("w4", 4))
        ]
        return [run / "weights" / "last.safetensors" for run in runs]

    return made_once(tmp_path_factory, "classifiers", train_both)
