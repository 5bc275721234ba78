"""Settings of torch's compiler on the CPU: cheap values are computed again instead of being written and read."""

from __future__ import annotations

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

aten = torch.ops.aten

REALIZE_READS = 8
"""Values that read more tensors than this are materialised instead of recomputed by each of their readers.

With Inductor's own 4, what BatchNorm gives (of input, mean, deviation, weight and bias) is written once and read three
times in the backward. So is the gradient that a quantizer passes on; and its memory format is then fixed while Inductor
still takes its inputs for channels first: it was seen to be written and summed across the channels, on one thread.
"""


def tune_compiler() -> None:
    """Sets Inductor's options for this process; a pass over the joint graph that is already there stays."""
    config.realize_reads_threshold = max(config.realize_reads_threshold, REALIZE_READS)
    if config.joint_custom_pre_pass is None:
        config.joint_custom_pre_pass = _ShareSigmoids()


class _ShareSigmoids(CustomGraphPass):
    """Rewrites the graph of forward and backward before it is divided into the two."""

    def __call__(self, graph: fx.Graph) -> None:
        share_sigmoids(graph)

    def uuid(self) -> object:
        return get_hash_for_files((__file__,))


def share_sigmoids(graph: fx.Graph) -> None:
    """Turns ``y / (1 + exp(-y))``, as Inductor writes SiLU, into ``y * sigmoid(y)``.

    SiLU's gradient has that sigmoid too, so that the backward computes one exponential where it needs both: SiLU for
    the quantizer that follows it, and its gradient. Inductor stores whatever holds an exponential and is read twice.
    """
    for node in graph.find_nodes(op="call_function", target=aten.div.Tensor):
        y = node.args[0]
        if not isinstance(y, fx.Node) or not _is_one_plus_exp_of_minus(node.args[1], y):
            continue
        with graph.inserting_before(node):
            sigmoid = graph.call_function(aten.sigmoid.default, (y,))
            product = graph.call_function(aten.mul.Tensor, (y, sigmoid))
        for new in (sigmoid, product):
            new.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _is_one_plus_exp_of_minus(node: object, y: fx.Node) -> bool:
    for target in (aten.add.Tensor, aten.exp.default, aten.neg.default):
        if not isinstance(node, fx.Node) or node.target is not target or node.args[1:] not in ((), (1,)):
            return False
        node = node.args[0]
    return node is y
