"""Small networks with branches that can be removed whole, and some with none."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and biases that show where they are forgotten."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
            module.running_var.copy_(torch.rand(len(module.bias), generator=generator) + 0.5)
    return model.eval()


class Block(nn.Module):
    """A basic block, its sum in place as in torchvision's, at a stride or not."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return torch.relu(out)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection, beside a shortcut."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Perceptron(nn.Module):
    """The second half of a transformer's block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Dense(nn.Module):
    """Channels that are put beside the input, not added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.outer(torch.relu(self.inner(x)))], 1)


def _head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]


def residual() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two basic blocks, the second at stride 2: both can go."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 1, 1), Block(8, 8), Block(8, 12, 2), *_head(12)]
    return _norms(nn.Sequential(*layers)), (torch.randn(3, 3, 10, 10),)


def inverted() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two inverted residual blocks."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 1, 1), Inverted(6, 12), Inverted(6, 9), *_head(6)]
    return _norms(nn.Sequential(*layers)), (torch.randn(3, 3, 8, 8),)


def perceptrons() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two perceptrons with residual sums."""
    torch.manual_seed(0)
    layers = [nn.Linear(7, 6), Perceptron(6, 16), Perceptron(6, 12), nn.Linear(6, 4)]
    return nn.Sequential(*layers).eval(), (torch.randn(3, 5, 7),)


def plain() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A chain: without any layer there is no way through."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), *_head(6)]
    return nn.Sequential(*layers).eval(), (torch.randn(2, 3, 9, 9),)


def concatenated() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What a dense block's layer gives goes beside its input."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), Dense(), nn.Conv2d(12, 6, 1), *_head(6)]
    return nn.Sequential(*layers).eval(), (torch.randn(2, 3, 9, 9),)


WITH = {"residual": residual, "inverted": inverted, "perceptrons": perceptrons}
