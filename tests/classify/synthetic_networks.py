"""Networks of a few parameters, as a user's own factories."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Small(nn.Module):
    """Two strided convolutions and a linear layer; BatchNorm and dropout where asked for."""

    def __init__(self, num_classes: int, *, norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(self.drop(self.second(x).relu().mean((2, 3))))


def plain(num_classes: int) -> nn.Module:
    return Small(num_classes, norm=False)


def with_norm(num_classes: int) -> nn.Module:
    return Small(num_classes, norm=True)


def with_dropout(num_classes: int) -> nn.Module:
    return Small(num_classes, norm=True, dropout=0.3)


def of_ten(num_classes: int) -> nn.Module:
    return Small(10, norm=False)


class Direct(Small):
    """Reads the weight of its second convolution without calling it."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(self.norm(self.first(x)).relu(), self.second.weight, self.second.bias, 2, 1)
        return self.head(x.relu().mean((2, 3)))


def direct(num_classes: int) -> nn.Module:
    return Direct(num_classes, norm=True)


def no_module(num_classes: int) -> int:
    return num_classes


PLAIN = f"{__name__}:plain"
NORMED = f"{__name__}:with_norm"
DROPOUT = f"{__name__}:with_dropout"
DIRECT = f"{__name__}:direct"
