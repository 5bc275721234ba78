"""Data-parallel training: the exchange between processes. A single process exchanges nothing.

Each process sees its part of every batch, with BatchNorm on that part's own statistics. Gradients are averaged, so that
a step is that of the whole batch; LSQ's gradient scale counts the features of one sample, so that step sizes do not
notice how a batch is split either.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from qreg_yolo.io.strict_yaml import ConfigError


@dataclass(frozen=True)
class Processes:
    """This process and the number of processes that train the network."""

    rank: int = 0
    """0 for the one that writes and prints."""
    size: int = 1
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def average_gradients(self, model: nn.Module) -> None:
        """Averages the gradients of a model over the processes."""
        self.average([p.grad for p in model.parameters() if p.grad is not None])

    def average_statistics(self, model: nn.Module) -> None:
        """Averages BatchNorm's running statistics, so that every process validates and saves the same network."""
        self.average([buffer for buffer in model.buffers() if buffer.is_floating_point()])

    def share(self, model: nn.Module) -> None:
        """Gives every process the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)

    def same_text(self, text: str) -> str:
        """Returns the first process's text in all of them."""
        if self.size == 1:
            return text
        box = [text]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


def say(text: str) -> None:
    """Prints in the first process only."""
    if text and os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def world_size() -> int:
    """Returns the number of processes of ``torchrun`` (1 without it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device_of(name: str | None) -> torch.device:
    """Returns the device to compute on; by default this process's GPU, or else the CPU.

    Raises:
        ConfigError: No such device.
    """
    local = os.environ.get("LOCAL_RANK", "0")
    default = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or default)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(local))
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda are supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
        raise ConfigError(f"device={name!r} cannot be used: {str(error).splitlines()[0]}. Give cpu or cuda.") from error
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Yields the place of this process in ``torchrun``; processes communicate through gloo on the CPU, nccl on GPUs."""
    if world_size() == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = not distributed.is_initialized()
    if mine:
        # An optimizer imports this, and imported later it keeps the group alive for good: gloo's threads then outlive
        # the interpreter, and one that frees a tensor at that moment aborts a run that has ended well.
        importlib.import_module("torch._dynamo")
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # a process that leaves early takes the others' connections with it
    finally:
        if mine:
            distributed.destroy_process_group()
