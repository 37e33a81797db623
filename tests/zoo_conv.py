"""Convolutional architectures of the zoo, small; see `zoo`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def images(*shape: int) -> tuple[Tensor, ...]:
    return (torch.randn(*(shape or (2, 3, 16, 16))),)


def conv_bn(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)
    )


def conv_bn_relu(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(i, o, k, stride, groups), nn.ReLU(inplace=True))


def head(width: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def vgg() -> nn.Module:
    return nn.Sequential(
        *conv_bn_relu(3, 8),
        nn.MaxPool2d(2),
        *conv_bn_relu(8, 12),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 24),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(24, 5),
    )


class BasicBlock(nn.Module):
    """The CIFAR ResNet's block; option A is the parameter-free zero-padded shortcut."""

    def __init__(self, i: int, planes: int, stride: int = 1, option: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes, self.option = planes, option
        self.padded = option == "A" and (stride != 1 or i != planes)
        self.downsample = (
            conv_bn(i, planes, 1, stride)
            if option == "B" and (stride != 1 or i != planes)
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.padded:
            quarter = self.planes // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), "constant", 0)
        else:
            x = self.downsample(x)
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, option: str = "B", depth: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        blocks, i = [], 8
        for planes, stride in ((8, 1), (16, 2), (32, 2)):
            for n in range(depth):
                blocks.append(BasicBlock(i, planes, stride if n == 0 else 1, option))
                i = planes
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class Bottleneck(nn.Module):
    def __init__(
        self, i: int, width: int, o: int, stride: int = 1, groups: int = 1, se: int = 0
    ) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(i, width, 1)
        self.conv2 = conv_bn_relu(width, width, 3, stride, groups)
        self.conv3 = conv_bn(width, o, 1)
        self.se = SqueezeExcite(o, se) if se else nn.Identity()
        self.shortcut = conv_bn(i, o, 1, stride) if stride != 1 or i != o else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.conv3(self.conv2(self.conv1(x))))
        return F.relu(y + self.shortcut(x))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeeze: int, gate: Any = torch.sigmoid) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, width, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        s = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.fc2(F.relu(self.fc1(s))))


def bottleneck(groups: int = 1, width: int = 8, se: int = 0) -> nn.Module:
    return nn.Sequential(
        conv_bn_relu(3, 8),
        Bottleneck(8, width, 16, 1, groups, se),
        Bottleneck(16, width, 16, 1, groups, se),
        Bottleneck(16, 2 * width, 24, 2, groups, se),
        head(24),
    )


class SENet(nn.Module):
    """Squeeze-and-excitation with linear layers and a view, as in the original code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.conv = conv_bn(12, 12)
        self.fc = nn.Sequential(
            nn.Linear(12, 4, bias=False), nn.ReLU(), nn.Linear(4, 12, bias=False), nn.Sigmoid()
        )
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        b, c, _, _ = y.size()
        s = self.fc(F.adaptive_avg_pool2d(y, 1).view(b, c)).view(b, c, 1, 1)
        return self.head(F.relu(x + y * s.expand_as(y)))


class DenseLayer(nn.Module):
    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(i)
        self.conv1 = nn.Conv2d(i, 2 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([self.conv2(F.relu(self.bn2(y))), x], 1)


def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        DenseLayer(8, 4),
        DenseLayer(12, 4),
        nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2)),
        DenseLayer(8, 4),
        DenseLayer(12, 4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        head(16),
    )


class Inception(nn.Module):
    def __init__(self, i: int) -> None:
        super().__init__()
        self.b1 = conv_bn_relu(i, 4, 1)
        self.b2 = nn.Sequential(conv_bn_relu(i, 4, 1), conv_bn_relu(4, 6))
        self.b3 = nn.Sequential(conv_bn_relu(i, 4, 1), conv_bn_relu(4, 4), conv_bn_relu(4, 6))
        self.b4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn_relu(i, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], 1)


def googlenet() -> nn.Module:
    return nn.Sequential(conv_bn_relu(3, 8), Inception(8), nn.MaxPool2d(2), Inception(20), head(20))


def mobilenet_v1(multiplier: int = 1) -> nn.Module:
    def separable(i: int, o: int, stride: int = 1) -> nn.Sequential:
        m = i * multiplier
        return nn.Sequential(conv_bn_relu(i, m, 3, stride, i), conv_bn_relu(m, o, 1))

    return nn.Sequential(
        conv_bn_relu(3, 8), separable(8, 12), separable(12, 16, 2), separable(16, 16), head(16)
    )


class InvertedResidual(nn.Module):
    def __init__(
        self, i: int, o: int, expand: int, stride: int = 1, act: Any = nn.ReLU6, se: int = 0
    ) -> None:
        super().__init__()
        m = i * expand
        layers: list[nn.Module] = [*conv_bn(i, m, 1), act()] if expand != 1 else []
        layers += [*conv_bn(m, m, 3, stride, m), act()]
        layers += [SqueezeExcite(m, se, F.hardsigmoid)] if se else []
        self.body = nn.Sequential(*layers, *conv_bn(m, o, 1))
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        *conv_bn(3, 8, 3),
        nn.ReLU6(),
        InvertedResidual(8, 8, 1),
        InvertedResidual(8, 12, 2, 2),
        InvertedResidual(12, 12, 2),
        *conv_bn(12, 20, 1),
        nn.ReLU6(),
        head(20),
    )


def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        *conv_bn(3, 8, 3),
        nn.Hardswish(),
        InvertedResidual(8, 8, 1, 1, nn.ReLU, 4),
        InvertedResidual(8, 12, 2, 2, nn.Hardswish, 4),
        InvertedResidual(12, 12, 3, 1, nn.Hardswish, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(12, 20, 1),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(20, 5),
    )


class MBConv(InvertedResidual):
    """EfficientNet's block: SiLU, squeeze-and-excitation with a sigmoid."""

    def __init__(self, i: int, o: int, expand: int, stride: int = 1) -> None:
        super().__init__(i, o, expand, stride, nn.SiLU, 2)
        for module in self.body:
            if isinstance(module, SqueezeExcite):
                module.gate = torch.sigmoid


def efficientnet() -> nn.Module:
    return nn.Sequential(
        *conv_bn(3, 8, 3),
        nn.SiLU(),
        MBConv(8, 8, 1),
        MBConv(8, 12, 3, 2),
        MBConv(12, 12, 3),
        head(12),
    )


class ShuffleV1(nn.Module):
    """ShuffleNetV1's unit: grouped 1x1, channel shuffle, depthwise, grouped 1x1, residual."""

    def __init__(self, width: int, mid: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.gconv1 = conv_bn_relu(width, mid, 1, 1, groups)
        self.depthwise = conv_bn(mid, mid, 3, 1, mid)
        self.gconv2 = conv_bn(mid, width, 1, 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gconv1(x)
        n, c, h, w = y.size()
        g = self.groups
        y = y.view(n, g, c // g, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return F.relu(x + self.gconv2(self.depthwise(y)))


def shufflenet_v1() -> nn.Module:
    return nn.Sequential(conv_bn_relu(3, 16), ShuffleV1(16, 8, 2), ShuffleV1(16, 16, 4), head(16))


class ShuffleV2(nn.Module):
    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        half = width // 2
        self.stride = stride
        i = half if stride == 1 else width
        o = half if stride == 1 else width
        self.branch = nn.Sequential(
            *conv_bn_relu(i, half, 1),
            *conv_bn(half, half, 3, stride, half),
            *conv_bn_relu(half, o, 1),
        )
        self.down = nn.Sequential(*conv_bn(width, width, 3, 2, width), *conv_bn_relu(width, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            a, b = x.chunk(2, dim=1)
            y = torch.cat((a, self.branch(b)), dim=1)
        else:
            y = torch.cat((self.down(x), self.branch(x)), dim=1)
        n, c, h, w = y.size()
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn_relu(3, 8),
        ShuffleV2(8),
        ShuffleV2(8, 2),
        ShuffleV2(16),
        conv_bn_relu(16, 12, 1),
        head(12),
    )


def regnet() -> nn.Module:
    """Group width 4, squeeze-and-excitation."""
    return nn.Sequential(
        conv_bn_relu(3, 8), Bottleneck(8, 8, 8, 2, 2, 2), Bottleneck(8, 16, 16, 2, 4, 2), head(16)
    )


class DLATree(nn.Module):
    """Deep layer aggregation: a root that concatenates both branches and adds a residual."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.left = BasicBlock(i, o)
        self.right = BasicBlock(o, o)
        self.root = conv_bn(2 * o, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.left(x)
        b = self.right(a)
        return F.relu(self.root(torch.cat([a, b], 1)) + b)


def dla() -> nn.Module:
    return nn.Sequential(
        conv_bn_relu(3, 8), DLATree(8, 8), nn.MaxPool2d(2), DLATree(8, 12), head(12)
    )


class DualPath(nn.Module):
    """DPN: the first channels are residual, the rest are concatenated."""

    def __init__(self, i: int, mid: int, o: int, dense: int, first: bool) -> None:
        super().__init__()
        self.o = o
        self.body = nn.Sequential(
            conv_bn_relu(i, mid, 1), conv_bn_relu(mid, mid, 3, 1, 2), conv_bn(mid, o + dense, 1)
        )
        self.shortcut = conv_bn(i, o + dense, 1) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y, x, d = self.body(x), self.shortcut(x), self.o
        return F.relu(torch.cat([x[:, :d] + y[:, :d], x[:, d:], y[:, d:]], 1))


def dpn() -> nn.Module:
    return nn.Sequential(
        conv_bn_relu(3, 8), DualPath(8, 8, 8, 4, True), DualPath(16, 8, 8, 4, False), head(20)
    )


class PNASCell(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.sep7 = conv_bn(i, o, 7, 1, 4)
        self.sep3 = conv_bn(i, o, 3, 1, 4)
        self.sep5 = conv_bn(i, o, 5, 1, 4)
        self.point = conv_bn(i, o, 1)
        self.reduce = conv_bn_relu(2 * o, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.sep7(x) + self.point(F.max_pool2d(x, 3, 1, 1)))
        b = F.relu(self.sep5(x) + self.sep3(x))
        return self.reduce(torch.cat([a, b], 1))


def pnasnet() -> nn.Module:
    return nn.Sequential(conv_bn_relu(3, 8), PNASCell(8, 8), PNASCell(8, 16), head(16))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = conv_bn_relu(3, 8)
        self.down2 = conv_bn_relu(8, 12)
        self.bottom = conv_bn_relu(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.dec2 = conv_bn_relu(24, 12)
        self.dec1 = conv_bn_relu(20, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.dec2(torch.cat([self.up2(c), b], 1))
        up = F.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(self.dec1(torch.cat([a, up], 1)))


def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.SiLU(),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.GroupNorm(1, 12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, padding=1),
        nn.GroupNorm(8, 8),
        nn.ReLU(),
        head(8),
    )


def instance_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.InstanceNorm2d(12),
        nn.LeakyReLU(),
        nn.Conv2d(12, 3, 3, padding=1),
    )


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 24, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )


class TiedConv(nn.Module):
    """One convolution used twice, its norms apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.last = conv_bn_relu(8, 12)
        self.head = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.bn1(self.shared(x)))
        x = F.relu(self.bn2(self.shared(x)))
        return self.head(self.last(x))


class TiedWeight(nn.Module):
    """Two convolution modules that hold the same parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.a = nn.Conv2d(8, 12, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1)
        self.b.weight = self.a.weight
        self.head = head(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([F.relu(self.a(x)), torch.sigmoid(self.b(x))], 1))


class MultiOutput(nn.Module):
    """Two inputs, a dictionary and a tuple of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_bn_relu(3, 8), conv_bn_relu(3, 8)
        self.join = conv_bn_relu(16, 12)
        self.boxes = nn.Conv2d(12, 4, 1)
        self.classes = head(12)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        x = self.join(torch.cat([self.left(a), self.right(b)], 1))
        return {"classes": self.classes(x), "maps": (self.boxes(x), a.mean((2, 3)))}


class HardCoded(nn.Module):
    """A forward that writes widths out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(3, 8)
        self.conv2 = conv_bn_relu(8, 16, 3, 2)
        self.drop = nn.Dropout(0.3)
        self.fc1 = nn.Linear(16 * 4 * 4, 12)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv2(self.conv1(x)), 2)
        x = self.drop(x.view(-1, 16 * 4 * 4))
        x = F.relu(self.fc1(x))
        return self.fc2(F.dropout(x, 0.1, self.training))


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.GELU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 12, 3, dilation=2),
        nn.BatchNorm1d(12),
        nn.ELU(),
        nn.ConvTranspose1d(12, 6, 2, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(6, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class ConvNeXt(nn.Module):
    """Depthwise 7x7, channels-last LayerNorm, layer scale, pointwise linear layers."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, 2)
        self.dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pw1, self.pw2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)
        self.head = head(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = (self.gamma * self.pw2(F.gelu(self.pw1(y)))).permute(0, 3, 1, 2)
        return self.head(x + y)


ZOO = {
    "vgg": lambda: (vgg(), images()),
    "resnet": lambda: (ResNet(), images()),
    "resnet_padded": lambda: (ResNet("A"), images()),
    "resnet_bottleneck": lambda: (bottleneck(), images()),
    "resnext": lambda: (bottleneck(4, 16), images()),
    "senet": lambda: (SENet(), images()),
    "se_resnet": lambda: (bottleneck(se=4), images()),
    "densenet": lambda: (densenet(), images()),
    "googlenet": lambda: (googlenet(), images()),
    "mobilenet_v1": lambda: (mobilenet_v1(), images()),
    "depthwise_multiplier": lambda: (mobilenet_v1(2), images()),
    "mobilenet_v2": lambda: (mobilenet_v2(), images()),
    "mobilenet_v3": lambda: (mobilenet_v3(), images()),
    "efficientnet": lambda: (efficientnet(), images()),
    "shufflenet_v1": lambda: (shufflenet_v1(), images()),
    "shufflenet_v2": lambda: (shufflenet_v2(), images()),
    "regnet": lambda: (regnet(), images()),
    "dla": lambda: (dla(), images()),
    "dpn": lambda: (dpn(), images()),
    "pnasnet": lambda: (pnasnet(), images()),
    "unet": lambda: (UNet(), images()),
    "group_norm": lambda: (group_norm(), images()),
    "instance_norm": lambda: (instance_norm(), images()),
    "pixel_shuffle": lambda: (pixel_shuffle(), images(2, 3, 8, 8)),
    "convnext": lambda: (ConvNeXt(), images()),
    "tied_conv": lambda: (TiedConv(), images()),
    "tied_weight": lambda: (TiedWeight(), images()),
    "multi_output": lambda: (MultiOutput(), images() + images()),
    "hard_coded": lambda: (HardCoded(), images()),
    "conv1d": lambda: (conv1d(), images(2, 4, 24)),
    "conv3d": lambda: (conv3d(), images(2, 1, 6, 8, 8)),
}
