"""Architectures of the zoo whose forward writes out in ops what others have as a module."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_sequence import Block, Encoder, ResidualMLP, plain_ffn, tokens, vectors


class WrittenRMSNorm(nn.Module):
    """As transformers' Llama has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6))


class WrittenLayerNorm(nn.Module):
    """With a mean, and a mean of squares, a variance or a standard deviation."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.kind == "std":
            return self.weight * (x - mean) / (x.std(-1, keepdim=True) + 1e-6) + self.bias
        if self.kind == "var":
            variance = x.var(-1, unbiased=False).unsqueeze(-1)
        else:
            variance = (x - mean).pow(2).mean(dim=-1, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias


class ResponseNorm(nn.Module):
    """ConvNeXt V2's: how large a channel is over all positions, relative to the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return self.gamma * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


def response_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), ResponseNorm(16), nn.Linear(16, 12), nn.ReLU(),
        ResponseNorm(12), nn.Linear(12, 5),
    )  # fmt: skip


class AlibiAttention(nn.Module):
    """Every head has a slope of its own, which is worked out from its number."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(x).view(b, t, self.num_heads, 3, self.head_dim)
        q, k, v = (qkv[..., i, :].transpose(1, 2) for i in range(3))
        slopes = torch.pow(2.0, -torch.arange(1, 1 + self.num_heads) * 8 / self.num_heads)
        bias = slopes[:, None, None] * torch.arange(t)[None, None, :]
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.head_dim) + bias, -1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class ListedAttention(nn.Module):
    """The only key and the only value are the last two of the heads, as in Falcon."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, width + 2 * self.head_dim)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = (
            part.transpose(1, 2) for part in (qkv[..., :-2, :], qkv[:, :, [-2]], qkv[:, :, [-1]])
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GatheredBias(nn.Module):
    """A bias for each distance is picked out of a product, as in DeBERTa."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.distances = nn.Parameter(torch.randn(heads, self.head_dim, 2 * length))
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        where = torch.arange(self.length)
        distance = where[:, None] - where[None, :] + self.length
        picked = distance.expand(q.shape[0], q.shape[1], -1, -1)
        bias = torch.gather(q @ self.distances, -1, picked)
        weights = torch.softmax(q @ k.transpose(-2, -1) + bias, -1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


def _encoder(attention: nn.Module, norm: Any = nn.LayerNorm) -> nn.Module:
    return Encoder(Block(attention, plain_ffn(16, 24), norm, 16), norm=norm)


ZOO = {
    "written_rms_norm": lambda: (ResidualMLP(WrittenRMSNorm), vectors(2, 8)),
    **{
        f"written_layer_norm_{kind}": lambda kind=kind: (
            ResidualMLP(lambda width: WrittenLayerNorm(width, kind)),
            vectors(2, 8),
        )
        for kind in ("mean", "var", "std")
    },
    "response_norm": lambda: (response_norm(), vectors(2, 6, 8)),
    "alibi": lambda: (_encoder(AlibiAttention(16, 4)), tokens()),
    "listed_heads": lambda: (_encoder(ListedAttention(16, 4)), tokens()),
    "gathered_bias": lambda: (_encoder(GatheredBias(16, 4, 6)), tokens()),
}
