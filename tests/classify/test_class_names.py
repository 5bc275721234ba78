"""The classes of a checkpoint and of a dataset go by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from qreg_yolo.classify.checkpoint import Description
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.datasets import class_rows
from qreg_yolo.classify.evaluate import evaluate
from qreg_yolo.classify.robustness import Classifier
from qreg_yolo.io.strict_yaml import ConfigError

WEIGHTS = Path("last.safetensors")
DESCRIPTION = Description(
    model="own:model", classes=("cat", "dog", "ship"), config={"run": {"data": "cifar10"}}, precision="fp32"
)


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        name="cifar10", split="test", classes=DESCRIPTION.classes, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
        images=torch.randint(0, 256, (30, 2, 2, 3), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, 3, (30,), generator=generator),
    )  # fmt: skip


def test_another_order_gives_the_same_numbers(images: ImageSet) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    order = torch.tensor([2, 0, 1])  # ship, cat, dog
    turned = replace(images, classes=("ship", "cat", "dog"), labels=order.argsort()[images.labels])
    assert class_rows(WEIGHTS, DESCRIPTION, images) is None
    rows = class_rows(WEIGHTS, DESCRIPTION, turned)
    assert rows == (2, 0, 1)
    expected, found = evaluate(model, images), evaluate(model, turned.renumbered(rows))
    assert 0 < expected.accuracy < 1
    assert (found.loss, found.accuracy) == (expected.loss, expected.accuracy)
    assert not torch.equal(evaluate(model, turned).correct, expected.correct), "the order makes no difference here"
    one = Classifier(WEIGHTS, model, {"run_id": "r"}, "fp32", rows)
    assert one.predictions(turned, 0)["correct"].tolist() == expected.correct.tolist()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("cat", "dog", "frog"), r"3 classes of cifar10.*only the data has 'frog'; only the model has 'ship'"),
        (("cat", "dog"), r"has 2, and only the model has 'ship'"),
    ],
)
def test_other_names_are_refused(classes: tuple[str, ...], words: str, images: ImageSet) -> None:
    with pytest.raises(ConfigError, match=words):
        class_rows(WEIGHTS, DESCRIPTION, replace(images, classes=classes))
