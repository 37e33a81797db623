"""A search that takes a second: a small residual network whose task is to agree with itself."""

import contextlib
import math
import os
import time
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

#: A model of a sweep, which finds this file.
MODEL = {
    "name": "tiny",
    "python_path": [str(Path(__file__).parent)],
    "model": "tiny_task:build",
    "inputs": "tiny_task:inputs",
    "evaluate": "tiny_task:evaluate",
}


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block1 = Block(16, 32)
        self.block2 = Block(16, 32)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.block2(self.block1(F.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Padded(nn.Module):
    """Its forward hard-codes a width (a zero-padded shortcut), so pruned it becomes a graph."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, image):
        x = F.relu(self.stem(image))
        x = F.relu(self.conv(x) + F.pad(x, (0, 0, 0, 0, 4, 4)))
        return self.head(x.mean((2, 3)))


@cache
def _dense():
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(64, 3, 8, 8))
    return model.eval()


@cache
def _data():
    x = torch.randn(512, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = _dense()(x)
    return x, (logits - logits.mean(0)).argmax(1), logits.mean(0)


def build():
    import copy

    return copy.deepcopy(_dense())


def inputs(batch=2):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def evaluate(model, log=None):
    """Agreement with the dense network; a line in the file $TINY_CALLS for every call.

    What `hold` holds back waits until it is let go.
    """
    calls = log or os.environ.get("TINY_CALLS")
    if calls:
        with open(calls, "ab", buffering=0) as file:
            file.write(b"call\n")
            number = file.tell() // len(b"call\n")  # its own, whoever else writes
        while number > _let_through(calls):
            time.sleep(0.02)
    x, labels, centre = _data()
    with torch.no_grad():
        right = (model(x) - centre).argmax(1) == labels
    return {"accuracy": float(right.float().mean())}


def called(calls):
    """How often it was called, by the file of its calls."""
    try:
        return len(Path(calls).read_text().splitlines())
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def hold(calls, count):
    """Have every call but the first so many wait, until the block ends."""
    held = Path(f"{calls}.held")
    held.write_text(f"{count}\n")
    try:
        yield
    finally:
        held.unlink()


def kill_when(process, true):
    """Kill a process (SIGKILL) as soon as something is true of what it does."""
    until = time.monotonic() + 900
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.communicate()


def _let_through(calls):
    try:
        return int(Path(f"{calls}.held").read_text())
    except FileNotFoundError:
        return math.inf


def fails(model):
    return {"accuracy": 1.0}["top1"]


def calibration():
    return [torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(3))]


def train(batch=64):
    x, labels, _ = _data()
    return list(zip(x.split(batch), labels.split(batch), strict=True))


def waits(model, s=600):
    time.sleep(s)
    return evaluate(model)
