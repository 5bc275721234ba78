"""Small networks for the replacement pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OddConv(nn.Conv2d):
    """A subclass: may use its weight in its own way."""


class Mixed(nn.Module):
    """A layer under two names of one parent, a shared block, a transposed convolution, a subclass, a 1-D one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.twice
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.ReLU())
        self.other = nn.ModuleDict({"block": self.block, "conv": self.block[0]})
        self.nothing = None
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.odd = OddConv(4, 4, 1)
        self.line = nn.Conv1d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.again(self.twice(x))
        x = self.other["conv"](self.block(x))
        x = self.odd(self.up(x))
        return self.head(self.line(x.flatten(2)).mean(2))


def mixed(seed: int = 0) -> Mixed:
    torch.manual_seed(seed)
    return Mixed()


def image(batch: int = 2, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
