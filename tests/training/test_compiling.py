"""Settings of Inductor: the rewritten graph, and the results of the compiled network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.utils import run_and_get_code

from qreg_yolo.quant import QuantSpec, calibrate, quantize_model
from qreg_yolo.training.compiling import REALIZE_READS, share_sigmoids, tune_compiler

aten = torch.ops.aten


def silu_graph(one: float = 1, numerator: str = "y") -> fx.GraphModule:
    """Returns ``numerator / (one + exp(-y))`` of the inputs y and z, as Inductor writes SiLU."""
    graph = fx.Graph()
    inputs = {name: graph.placeholder(name) for name in ("y", "z")}
    minus = graph.call_function(aten.neg.default, (inputs["y"],))
    total = graph.call_function(aten.add.Tensor, (graph.call_function(aten.exp.default, (minus,)), one))
    graph.output(graph.call_function(aten.div.Tensor, (inputs[numerator], total)))
    return fx.GraphModule(nn.Module(), graph)


def targets(module: fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def test_silu_is_written_with_the_sigmoid_of_its_gradient() -> None:
    module, y = silu_graph(), torch.randn(1000) * 10
    share_sigmoids(module.graph)
    module.recompile()
    assert targets(module) == [aten.sigmoid.default, aten.mul.Tensor]
    torch.testing.assert_close(module(y, y), nn.functional.silu(y))


@pytest.mark.parametrize("arguments", [{"one": 2}, {"numerator": "z"}])
def test_what_only_looks_like_it_is_left_alone(arguments: dict[str, object]) -> None:
    module = silu_graph(**arguments)  # type: ignore[arg-type]
    before = targets(module)
    share_sigmoids(module.graph)
    assert targets(module) == before


@pytest.fixture
def stock() -> Iterator[None]:
    """Inductor as it comes, put back afterwards; nothing compiled is left from one test to the next."""
    torch._dynamo.reset()
    uncached = config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False)
    with config.patch(realize_reads_threshold=4, joint_custom_pre_pass=None), uncached[0], uncached[1]:
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("stock")
def test_options_that_are_set_already_stay() -> None:
    def own(graph: fx.Graph) -> None:
        """Somebody else's pass."""

    with config.patch(realize_reads_threshold=2 * REALIZE_READS, joint_custom_pre_pass=own):
        tune_compiler()
        assert config.realize_reads_threshold == 2 * REALIZE_READS
        assert config.joint_custom_pre_pass is own


def network() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3, bias=False)
    )
    x = torch.randn(4, 3, 12, 12)
    quantize_model(model, QuantSpec(weight_bits=4, act_bits=4, first_last_bits="same"))
    calibrate(model, [x])
    return model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)


def gradients(run: nn.Module, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    run(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("stock")
def test_the_backward_has_one_exponential_per_silu_and_the_gradients_stay() -> None:
    model, x = network()
    expected = gradients(model, model, x)

    def compiled_backward() -> tuple[dict[str, Tensor], str]:
        torch._dynamo.reset()
        found, codes = run_and_get_code(lambda: gradients(torch.compile(model, dynamic=False), model, x))
        return found, codes[-1]

    _, before = compiled_backward()
    tune_compiler()
    found, after = compiled_backward()
    assert (before.count(".exp()"), after.count(".exp()")) == (2, 1)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
