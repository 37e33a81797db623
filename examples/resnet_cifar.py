"""CIFAR-10 ResNets (He et al., "Deep Residual Learning", CVPR 2016, section 4.2), pretrained.

Two families: `resnet20/32/44/56` with parameter-free shortcuts (option A: every second pixel, the
new channels zero-padded evenly on both sides), and `resnet56b` with 1×1 convolution + BatchNorm
shortcuts. Weights are read from `$AUTOPRUNE_SHARED_DATA/weights/*.safetensors`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


def shared_data(*parts: str) -> Path:
    """Return a path under `$AUTOPRUNE_SHARED_DATA`.

    Raises:
        FileNotFoundError: the variable is not set, or the path does not exist.
    """
    root = os.environ.get("AUTOPRUNE_SHARED_DATA")
    if not root:
        raise FileNotFoundError(
            "the environment variable AUTOPRUNE_SHARED_DATA must name the folder that holds "
            "cifar10/ and weights/; it is not set. Set it, e.g. "
            "export AUTOPRUNE_SHARED_DATA=/path/to/data"
        )
    path = Path(root, *parts)
    if not path.exists():
        raise FileNotFoundError(
            f"{Path(*parts)} must exist in the folder that AUTOPRUNE_SHARED_DATA names, {root}; "
            "it does not. Point the variable at the folder that holds cifar10/ and weights/"
        )
    return path


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the shortcut is the identity, zero-padded (A) or projected (B)."""

    def __init__(self, inputs: int, planes: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.extra = planes - inputs
        self.downsample: nn.Module | None = None
        if projection and (stride != 1 or self.extra):
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            result: Tensor = self.downsample(x)
            return result
        if self.stride != 1 or self.extra:
            side = self.extra // 2
            x = x[:, :, :: self.stride, :: self.stride]
            return F.pad(x, (0, 0, 0, 0, side, self.extra - side))
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem of 16 channels, three stages of 16, 32 and 64, and a linear classifier.

    Args:
        blocks: residual blocks in each of the three stages.
        projection: whether the shortcuts that change shape are 1×1 convolutions.
        head: the classifier's attribute name, as the weights have it.
    """

    def __init__(self, blocks: int, projection: bool = False, head: str = "linear") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1, projection)
        self.layer2 = self._stage(16, 32, blocks, 2, projection)
        self.layer3 = self._stage(32, 64, blocks, 2, projection)
        self.head = head
        self.add_module(head, nn.Linear(64, 10))

    @staticmethod
    def _stage(inputs: int, planes: int, blocks: int, stride: int, projection: bool) -> nn.Module:
        first = BasicBlock(inputs, planes, stride, projection)
        rest = [BasicBlock(planes, planes, 1, projection) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Classify normalised images (batch, 3, 32, 32); returns logits (batch, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.get_submodule(self.head)(x)
        return logits


def _pretrained(model: CifarResNet, name: str) -> CifarResNet:
    state = load_file(shared_data("weights", f"{name}.safetensors"))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"the weights {name} must fit the network; missing {missing}, unexpected {unexpected}"
        )
    return model.eval()


def resnet20(pretrained: bool = True) -> CifarResNet:
    """ResNet-20; 91.73 % top-1."""
    return _build(3, "resnet20", pretrained)


def resnet32(pretrained: bool = True) -> CifarResNet:
    """ResNet-32; 92.63 % top-1."""
    return _build(5, "resnet32", pretrained)


def resnet44(pretrained: bool = True) -> CifarResNet:
    """ResNet-44; 93.11 % top-1."""
    return _build(7, "resnet44", pretrained)


def resnet56(pretrained: bool = True) -> CifarResNet:
    """ResNet-56; 93.39 % top-1 (93.16 % on `val`)."""
    return _build(9, "resnet56", pretrained)


def resnet56b(pretrained: bool = True) -> CifarResNet:
    """ResNet-56 with projection shortcuts; 93.56 % top-1 (93.58 % on `val`).

    Normalised as `examples.cifar10.NORMALISATION["resnet56b"]` says.
    """
    model = CifarResNet(9, projection=True, head="fc").eval()
    return _pretrained(model, "resnet56b_cifar10_groupsl_torchpruning") if pretrained else model


def example_inputs(batch: int = 8) -> tuple[Tensor]:
    """Inputs to trace and to time with: one batch of `batch` images."""
    return (torch.zeros(batch, 3, 32, 32),)


def _build(blocks: int, name: str, pretrained: bool) -> CifarResNet:
    model = CifarResNet(blocks).eval()
    return _pretrained(model, f"{name}_cifar10_akamaster") if pretrained else model
