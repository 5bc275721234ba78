"""The networks: parameters as published, shapes, initial weights, factories of the user's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qreg_yolo.classify.models import MODELS, build_model
from qreg_yolo.classify.network import check_output, first_last_layers
from qreg_yolo.io.strict_yaml import ConfigError
from tests.classify.synthetic_networks import PLAIN

PARAMETERS = {
    "resnet20": (269_722, 275_572),
    "resnet18": (11_173_962, 11_220_132),
    "resnet50": (23_520_842, 23_705_252),
    "mobilenetv1": (3_217_226, 3_309_476),
}
"""With 10 and 100 classes."""


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_as_published(name: str) -> None:
    with torch.device("meta"):
        counts = tuple(sum(p.numel() for p in MODELS[name](classes).parameters()) for classes in (10, 100))
    assert counts == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_edges(name: str) -> None:
    model = build_model(name, 10, seed=0)
    check_output(model, name, 10)
    assert first_last_layers(model) == ["conv", "fc"]
    assert model.training


def test_the_spatial_sizes_of_a_residual_network_are_32_16_8() -> None:
    model = build_model("resnet20", 10, seed=0).eval()
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: sizes.append((output.shape[1], output.shape[2])))
    model(torch.zeros(1, 3, 32, 32))
    assert sizes == [(16, 32)] * 3 + [(32, 16)] * 3 + [(64, 8)] * 3


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_option_a_pads_with_zero_channels_and_has_no_parameters(memory: torch.memory_format) -> None:
    block = build_model("resnet20", 10, seed=0).blocks[3].eval()
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            getattr(block, name).weight.zero_()
    x = torch.rand(2, 16, 8, 8).contiguous(memory_format=memory)
    out = block(x)
    assert out.is_contiguous(memory_format=memory)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_the_initial_weights_follow_from_the_seed_and_he() -> None:
    one, two, other = (build_model("resnet20", 10, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.conv.weight, other.conv.weight)
    wide = build_model("resnet18", 10, seed=0).blocks[7].conv2.weight
    assert float(wide.detach().std()) == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)


def test_a_factory_of_the_users_own() -> None:
    model = build_model(PLAIN, 7, seed=0)
    check_output(model, PLAIN, 7)
    assert first_last_layers(model) == ["first", "head"]


def test_edges_go_by_the_order_of_running_not_of_registration() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.middle = nn.Conv2d(4, 4, 1)
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.middle(self.stem(x)).mean((2, 3)))

    assert first_last_layers(Backwards()) == ["stem", "head"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet2", ["'resnet2'", "Did you mean 'resnet20'", "package.module:factory"]),
        ("no_such_module_x:f", ["no_such_module_x", "cannot be imported"]),
        (PLAIN + "n", ["no callable 'plainn'", "Did you mean 'plain'"]),
        (PLAIN.replace("plain", "no_module"), ["gave a int", "torch.nn.Module"]),
        (":f", ["package.module:factory"]),
    ],
)
def test_a_model_that_does_not_exist(name: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_model(name, 10, seed=0)
    assert all(word in str(error.value) for word in words), error.value


def test_a_model_of_other_classes_is_refused() -> None:
    name = PLAIN.replace("plain", "of_ten")
    with pytest.raises(ConfigError, match=r"gives \[2, 10\] for two images, not \[2, 100\]"):
        check_output(build_model(name, 100, seed=0), name, 100)


def test_a_model_for_other_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model='mine' cannot take two images of 32 pixels \(RuntimeError"):
        check_output(nn.Linear(5, 10), "mine", 10)
