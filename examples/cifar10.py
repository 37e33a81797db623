"""CIFAR-10 for searching, recovering and comparing: images from lossless WebP contact sheets.

`$AUTOPRUNE_SHARED_DATA/cifar10` holds `train-*.webp` and `val.webp` (32×32 tiles, row by row) and
`train-labels.npy` and `val-labels.npy`. Search on `val`, fine-tune and calibrate on `train`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from autoprune.evaluate import Accuracy
from examples.resnet_cifar import shared_data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: (mean, standard deviation) of the channels, by the weights that were trained with them.
NORMALISATION = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "resnet56b": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


@lru_cache(maxsize=8)
def images(split: str, sheets: int | None = None) -> tuple[Tensor, Tensor]:
    """Read a split, or the first `sheets` contact sheets of it (12,500 images each in `train`).

    Args:
        split: "train" or "val".
        sheets: how many sheets to read; None reads all.

    Returns:
        images uint8 (n, 3, 32, 32) in channels-last memory, labels int64 (n,).

    Raises:
        ValueError: the split is unknown, or images and labels don't match.
        FileNotFoundError: the data is not there; the message says what to set.
    """
    if split not in ("train", "val"):
        raise ValueError(f"a split must be 'train' or 'val', got {split!r}")
    folder = shared_data("cifar10")
    paths = sorted(folder.glob("train-*.webp")) if split == "train" else [folder / "val.webp"]
    labels = np.load(folder / f"{split}-labels.npy", allow_pickle=False).astype(np.int64)
    tiles = []
    for path in paths[:sheets]:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
        tiled = pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2)
        tiles.append(tiled.reshape(-1, 32, 32, 3))
    array = np.concatenate(tiles)
    if len(array) != len(labels) and sheets is None:
        raise ValueError(f"{split} must have as many labels as images: {len(labels)}, {len(array)}")
    return torch.from_numpy(array).permute(0, 3, 1, 2), torch.from_numpy(labels[: len(array)])


def normalise(pixels: Tensor, normalisation: str = "imagenet") -> Tensor:
    """Turn uint8 pixels into network inputs, float32 of the same shape (n, 3, 32, 32)."""
    mean, std = NORMALISATION[normalisation]
    scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)
    return torch.addcmul(shift, pixels, scale)


def calibration(
    count: int = 400, batch: int = 200, normalisation: str = "imagenet", seed: int = 0
) -> list[Tensor]:
    """Batches of training images (batch, 3, 32, 32), drawn with `seed`, not augmented.

    Args:
        count: images in all, at most 12,500 (they are drawn from the first contact sheet).
        batch: images in a batch.
        normalisation: a key of `NORMALISATION`.
        seed: of the draw.
    """
    pixels, _ = images("train", 1)
    if not 1 <= count <= len(pixels):
        raise ValueError(f"count must be from 1 to {len(pixels)}, got {count}")
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[:count]
    return list(normalise(pixels[chosen], normalisation).split(batch))


def train_batches(
    batch: int = 128, normalisation: str = "imagenet", seed: int = 0, count: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of training batches: 4-pixel padded random crops and flips (He et al. 2016).

    Args:
        batch: images in a batch; the last, incomplete one is dropped.
        normalisation: a key of `NORMALISATION`.
        seed: of order and augmentation; give another one to each epoch.
        count: train on this many images only, drawn with the seed; None takes all.

    Yields:
        inputs float32 (batch, 3, 32, 32), labels int64 (batch,).
    """
    pixels, labels = images("train")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=generator)[:count]
    for chosen in order.split(batch):
        if len(chosen) < batch:
            return
        yield augment(pixels[chosen], generator, normalisation), labels[chosen]


def augment(pixels: Tensor, generator: torch.Generator, normalisation: str = "imagenet") -> Tensor:
    """Crop (of the image padded by 4) and flip each image at random, then normalise."""
    n = len(pixels)
    padded = F.pad(pixels, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, n, 1), generator=generator)
    columns = left + torch.arange(32)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    rows = top + torch.arange(32)
    index = torch.arange(n).view(n, 1, 1)
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return normalise(cropped.permute(0, 3, 1, 2), normalisation)


class Loader:
    """Training batches in a new order, augmented anew, each time they are iterated."""

    def __init__(
        self,
        batch: int = 128,
        normalisation: str = "imagenet",
        seed: int = 0,
        count: int | None = None,
    ) -> None:
        self.batch, self.normalisation, self.seed, self.count = batch, normalisation, seed, count
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Give epoch `epoch` (from 1) next, so that a training that was cut off can go on."""
        self.epoch = epoch - 1

    def __len__(self) -> int:
        return (self.count or 50_000) // self.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        seed = self.seed * 100_003 + self.epoch
        return train_batches(self.batch, self.normalisation, seed, self.count)


@lru_cache(maxsize=4)
def _val(normalisation: str, subset: int | None) -> tuple[Tensor, Tensor]:
    pixels, labels = images("val")
    if subset is not None:
        chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:subset]
        pixels, labels = pixels[chosen], labels[chosen]
    return normalise(pixels, normalisation), labels


def evaluate(
    model: nn.Module, normalisation: str = "imagenet", subset: int | None = None, batch: int = 50
) -> dict[str, float]:
    """Top-1 accuracy on `val`, in channels-last memory, without changing the model's mode.

    Args:
        model: takes (batch, 3, 32, 32), gives logits (batch, 10).
        normalisation: a key of `NORMALISATION`.
        subset: evaluate on a fixed draw of this many of the 5,000 images; None takes all.
        batch: images in a forward pass.

    Returns:
        {"accuracy": share of the images classified correctly, from 0 to 1}.
    """
    inputs, labels = _val(normalisation, subset)
    training = model.training
    model.eval()
    right = 0
    try:
        with torch.inference_mode():
            for x, y in zip(inputs.split(batch), labels.split(batch), strict=True):
                right += int((model(x).argmax(1) == y).sum())
    finally:
        model.train(training)
    return {"accuracy": right / len(labels)}


def evaluate_resnet56b(model: nn.Module) -> dict[str, float]:
    """`evaluate` for the `resnet56b` weights, which were trained with another normalisation."""
    return evaluate(model, "resnet56b")


class Val(Accuracy):
    """`evaluate` as an object that can be asked for single images, as `racing` needs it.

    Args:
        normalisation: a key of `NORMALISATION`.
        subset: evaluate on a fixed draw of this many of the 5,000 images; None takes all.
        batch: images in a forward pass.
    """

    def __init__(
        self, normalisation: str = "imagenet", subset: int | None = None, batch: int = 50
    ) -> None:
        super().__init__(*_val(normalisation, subset), batch)
