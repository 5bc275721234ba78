"""The classification networks of QReg (AskariHemmat et al., arXiv 2206.12372) for images of 32 pixels.

| name | network | parameters, 10 / 100 classes |
|---|---|--:|
| `resnet20` | He et al., arXiv 1512.03385, section 4.2 and table 6: option-A shortcuts | 269,722 / 275,572 |
| `resnet18`, `resnet50` | arXiv 1512.03385, table 1, with a 3x3 stem of stride 1 and no max-pool | 11,173,962 / 11,220,132, 23,520,842 / 23,705,252 |
| `mobilenetv1` | Howard et al., arXiv 1704.04861, table 1, with a stem of stride 1 | 3,217,226 / 3,309,476 |

Every network takes `(n, 3, 32, 32)` and returns logits `(n, num_classes)`; any other size from 32 up works too.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.errors import did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError

Factory = Callable[[int], nn.Module]
"""Takes the number of classes, returns the network."""


def _conv3x3(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, groups=groups, bias=False)


def _he_initialised(model: nn.Module) -> None:
    """Draws the convolutions' weights from N(0, 2 / fan_in) (He et al., arXiv 1502.01852, eq. 10)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class PlainShortcutBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut subsamples and pads with zero channels (option A, arXiv 1512.03385)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(c_in, c_out, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = _conv3x3(c_out, c_out)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        inner = x[:, :, :: self.stride, :: self.stride]
        # Not F.pad: with it Inductor makes scalar code of the whole block's end and of the quantizers behind it.
        zeros = torch.zeros_like(inner[:, : self.pad])  # in the memory format of x; there are as many: widths double
        return torch.cat([zeros, inner, zeros], 1)


class ResNet20(nn.Module):
    """Three stages of three blocks at 16, 32 and 64 channels (arXiv 1512.03385, section 4.2)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = _conv3x3(3, 16)
        self.bn = nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        strides = [1, 1, 1, 2, 1, 1, 2, 1, 1]
        self.blocks = nn.Sequential(*(PlainShortcutBlock(widths[i], widths[i + 1], s) for i, s in enumerate(strides)))
        self.fc = nn.Linear(64, num_classes)
        _he_initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class _Projection(nn.Sequential):
    """The shortcut where the shape changes: a 1x1 convolution and BatchNorm (option B, arXiv 1512.03385)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        if stride == 1 and c_in == c_out:
            super().__init__()
        else:
            super().__init__(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (arXiv 1512.03385, table 1, 18 layers)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _Projection(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the 3x3 with the stride (arXiv 1512.03385, table 1, 50 layers)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.shortcut = _Projection(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages at 64, 128, 256 and 512 channels behind a 3x3 stem, without a max-pool."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv = _conv3x3(3, 64)
        self.bn = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        c_in = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            for number in range(depth):
                blocks.append(block(c_in, width, 2 if stage > 0 and number == 0 else 1))
                c_in = width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(c_in, num_classes)
        _he_initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class SeparableBlock(nn.Module):
    """A depthwise 3x3 and a pointwise convolution (arXiv 1704.04861, figure 3)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _conv3x3(c_in, c_in, stride, groups=c_in)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(out)))


class MobileNetV1(nn.Module):
    """Thirteen separable blocks behind a 3x3 stem; 32 pixels end as 2 x 2 (arXiv 1704.04861, table 1)."""

    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = _conv3x3(3, 32)
        self.bn = nn.BatchNorm2d(32)
        shapes = zip((32, *self.widths[:-1]), self.widths, self.strides, strict=True)
        self.blocks = nn.Sequential(*(SeparableBlock(c_in, c_out, stride) for c_in, c_out, stride in shapes))
        self.fc = nn.Linear(self.widths[-1], num_classes)
        _he_initialised(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def resnet18(num_classes: int) -> nn.Module:
    """Returns ResNet18 for 32 pixels (blocks 2, 2, 2, 2)."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet50(num_classes: int) -> nn.Module:
    """Returns ResNet50 for 32 pixels (blocks 3, 4, 6, 3)."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


MODELS: dict[str, Factory] = {
    "resnet20": ResNet20,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenetv1": MobileNetV1,
}
"""Name -> factory."""


def is_import_path(model: str) -> bool:
    """Returns whether a model is the user's own, ``package.module:factory``: building it runs that code."""
    return ":" in model


def build_model(model: str, num_classes: int, seed: int) -> nn.Module:
    """Returns a network with the initial weights of ``seed``, the same for every quantization.

    Args:
        model: A name of `MODELS`, or ``package.module:factory``, a callable that takes the number of classes.
        num_classes: Width of the output.
        seed: Of torch's random state, from which the weights are drawn.

    Raises:
        ConfigError: No such model (the nearest is named), module or factory, or one that gives no module.
    """
    factory = _imported(model) if is_import_path(model) else MODELS.get(model)
    if factory is None:
        raise ConfigError(
            f"model={model!r} is not one of: {', '.join(MODELS)}.{did_you_mean(model, MODELS)} Or give a factory of "
            "your own as package.module:factory."
        )
    torch.manual_seed(seed)
    network = factory(num_classes)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model={model!r} gave a {type(network).__name__}, not a torch.nn.Module. Correct the factory."
        )
    return network


def _imported(path: str) -> Factory:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"model={path!r}: '{module_name}' cannot be imported ({error}). Give package.module:factory, with the "
            "package on PYTHONPATH."
        ) from error
    except ValueError as error:  # an empty module name
        raise ConfigError(f"model={path!r} is not package.module:factory.") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"model={path!r}: '{module_name}' has no callable '{name}'.{did_you_mean(name, names)}")
    return factory  # type: ignore[no-any-return]
