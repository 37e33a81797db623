"""Transformers, recurrent networks and multi-layer perceptrons of the zoo, small; see `zoo`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEEDS_TRANSFORMERS = ("hf_llama", "hf_bert", "hf_gpt2", "hf_vit")


def tokens(length: int = 6, vocabulary: int = 20) -> tuple[Tensor, ...]:
    return (torch.randint(0, vocabulary, (2, length)),)


def vectors(*shape: int) -> tuple[Tensor, ...]:
    return (torch.randn(*shape),)


class Attention(nn.Module):
    """Separate projections, `self.num_heads` in the reshapes, softmax written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(b, t, self.num_heads, self.head_dim).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.head_dim), -1)
        y = (weights @ v).transpose(1, 2)
        return self.o(y.reshape(b, t, self.num_heads * self.head_dim))


class FusedAttention(nn.Module):
    """One projection reshaped to (3, heads, head width), as in timm's ViT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))


class GroupedQueryAttention(nn.Module):
    """Queries share key-value heads through `enable_gqa`."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(width, kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            f(x).view(b, t, -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class MultiQueryAttention(nn.Module):
    """Queries and one key-value head from one projection, split by sizes, as in BigCode's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.head_dim = width, width // heads
        self.c_attn = nn.Linear(width, width + 2 * self.head_dim)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        sizes = (self.width, self.head_dim, self.head_dim)
        q, k, v = self.c_attn(x).unsqueeze(1).split(sizes, dim=3)
        q = q.view(b, t, -1, self.head_dim).transpose(1, 2)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(self.head_dim), -1)
        return self.o((weights @ v).transpose(1, 2).reshape(b, t, -1))


class GatedFused(nn.Module):
    """SwiGLU from one projection, cut by chunk."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(a) * b)


class GatedSeparate(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, ffn: nn.Module, norm: Any, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = norm(width), attention
        self.norm2, self.ffn = norm(width), ffn

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Encoder(nn.Module):
    """Embeds tokens, runs blocks, pools, classifies."""

    def __init__(self, *blocks: nn.Module, norm: Any = nn.LayerNorm, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.position = nn.Parameter(0.1 * torch.randn(1, 6, width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x) + self.position
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y).mean(1))


def plain_ffn(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width)
    )


def mha() -> nn.Module:
    w = 16
    return Encoder(
        Block(Attention(w, 4), plain_ffn(w, 32), nn.LayerNorm, w),
        Block(Attention(w, 2), GatedSeparate(w, 24), nn.LayerNorm, w),
    )


def fused_qkv() -> nn.Module:
    w = 16
    return Encoder(
        Block(FusedAttention(w, 4), GatedFused(w, 24), nn.LayerNorm, w),
        Block(FusedAttention(w, 4), plain_ffn(w, 32), nn.LayerNorm, w),
    )


def grouped_query() -> nn.Module:
    w = 16
    return Encoder(
        Block(GroupedQueryAttention(w, 8, 4), GatedSeparate(w, 24), nn.RMSNorm, w),
        Block(GroupedQueryAttention(w, 4, 2), GatedFused(w, 24), nn.RMSNorm, w),
        norm=nn.RMSNorm,
    )


def multi_query() -> nn.Module:
    w = 16
    return Encoder(Block(MultiQueryAttention(w, 4), plain_ffn(w, 32), nn.LayerNorm, w))


class TiedLM(nn.Module):
    """The output layer holds the embedding's weight."""

    def __init__(self, width: int = 16, vocabulary: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.block = Block(
            GroupedQueryAttention(width, 4, 4), plain_ffn(width, 24), nn.LayerNorm, width
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.embed(x))))


class TorchMHA(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.ffn = plain_ffn(width, 24)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.out(x + self.ffn(x))


class TorchEncoder(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inp = nn.Linear(8, width)
        self.layers = nn.Sequential(
            nn.TransformerEncoderLayer(width, 4, 24, batch_first=True),
            nn.TransformerEncoderLayer(width, 4, 32, batch_first=True, norm_first=True),
        )
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.inp(x)).mean(1))


class ResidualMLP(nn.Module):
    """Pre-norm residual stream; every width is free."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.inp = nn.Linear(8, 16)
        self.norms = nn.ModuleList([norm(16), norm(16), norm(16)])
        self.ffns = nn.ModuleList([plain_ffn(16, 24), plain_ffn(16, 20)])
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for norm, ffn in zip(self.norms, self.ffns, strict=False):
            x = x + ffn(norm(x))
        return self.out(self.norms[2](x))


class BareNorm(nn.Module):
    """Norms without parameters, and a norm called as a function with its width written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.b = nn.Linear(16, 12)
        self.c = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.a(x)))
        return self.c(F.layer_norm(F.relu(self.b(x)), (12,)))


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.inp = nn.Linear(8, 12)
        self.rnn = kind(12, 10, num_layers=2, batch_first=True)
        self.hidden = nn.Linear(10, 14)
        self.out = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(F.relu(self.inp(x)))
        return self.out(F.relu(self.hidden(y[:, -1])))


class Wrapped(nn.Module):
    """A Hugging Face model as a function of one tensor."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:
        keywords = (
            {"use_cache": False} if self.output == "logits" and not x.is_floating_point() else {}
        )
        result: Tensor = getattr(self.model(x, **keywords), self.output)
        return result


def hf_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        attn_implementation="sdpa",
    )
    return Wrapped(LlamaForCausalLM(config), "logits")


def hf_bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
    )
    return Wrapped(BertModel(config), "pooler_output")


def hf_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=20,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Wrapped(GPT2LMHeadModel(config), "logits")


def hf_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_labels=5,
    )
    return Wrapped(ViTForImageClassification(config), "logits")


ZOO = {
    "mha": lambda: (mha(), tokens()),
    "fused_qkv": lambda: (fused_qkv(), tokens()),
    "grouped_query": lambda: (grouped_query(), tokens()),
    "multi_query": lambda: (multi_query(), tokens()),
    "tied_lm": lambda: (TiedLM(), tokens()),
    "torch_mha": lambda: (TorchMHA(), vectors(2, 6, 8)),
    "torch_encoder": lambda: (TorchEncoder(), vectors(2, 6, 8)),
    "mlp_layer_norm": lambda: (ResidualMLP(nn.LayerNorm), vectors(2, 8)),
    "mlp_rms_norm": lambda: (ResidualMLP(nn.RMSNorm), vectors(2, 8)),
    "bare_norm": lambda: (BareNorm(), vectors(2, 8)),
    "lstm": lambda: (Recurrent(nn.LSTM), vectors(2, 6, 8)),
    "gru": lambda: (Recurrent(nn.GRU), vectors(2, 6, 8)),
    "hf_llama": lambda: (hf_llama(), tokens()),
    "hf_bert": lambda: (hf_bert(), tokens()),
    "hf_gpt2": lambda: (hf_gpt2(), tokens()),
    "hf_vit": lambda: (hf_vit(), vectors(2, 3, 8, 8)),
}
