"""Architectures of the transformers package: tiny random configurations, nothing is downloaded.

Widths are small but unlike each other, so that what is tied by name and what only happens to be
as wide can be told apart. `FAMILIES` maps a name to a function that gives a module of one output
tensor and its example inputs (a batch of 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Makes a module and its inputs.
Build = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]

#: The usual names of a decoder's widths, and those of an encoder.
_TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip


class One(nn.Module):
    """A model as a function of its inputs to one tensor."""

    def __init__(self, model: nn.Module, output: str, **keywords: Any) -> None:
        super().__init__()
        self.model, self.output, self.keywords = model, output, keywords

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = getattr(self.model(*inputs, **self.keywords), self.output)
        return result


def _text(kind: str, output: str = "logits", config: str = "", **settings: Any) -> Build:
    """A language model or encoder of token ids."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        model = _made(kind, config, settings)
        keywords = {} if output != "logits" else {"use_cache": False}
        return One(model, output, **keywords), (torch.randint(3, 60, (2, 6)),)

    return build


def _vision(
    kind: str, output: str = "logits", config: str = "", size: int = 16, **settings: Any
) -> Build:
    """A classifier of images."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        return One(_made(kind, config, settings), output), (torch.randn(2, 3, size, size),)

    return build


def _audio(
    kind: str, output: str, shape: tuple[int, ...], config: str = "", **settings: Any
) -> Build:
    """An encoder of sound."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        return One(_made(kind, config, settings), output), (torch.randn(shape),)

    return build


def _translation(kind: str, config: str, **settings: Any) -> Build:
    """Encoder and decoder of token ids."""

    def build() -> tuple[nn.Module, tuple[Tensor, ...]]:
        model = _made(kind, config, settings)

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
                result: Tensor = self.model(
                    input_ids=tokens, decoder_input_ids=targets, use_cache=False
                ).logits
                return result

        return Both(), (torch.randint(3, 60, (2, 6)), torch.randint(3, 60, (2, 5)))

    return build


def _made(kind: str, config: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    name = (
        config or kind.rsplit("For", 1)[0].removesuffix("Model").removesuffix("Encoder") + "Config"
    )
    module: nn.Module = getattr(transformers, kind)(getattr(transformers, name)(**settings))
    return module


_HIDDEN = "last_hidden_state"
_WIDTHS = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "num_labels": 5}
_T5 = {
    "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
_SPEECH = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "conv_dim": (12, 16), "conv_stride": (4, 2), "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "vocab_size": 20,
}  # fmt: skip

FAMILIES: dict[str, Build] = {
    # Vision.
    "vit": _vision("ViTForImageClassification", **_VISION),
    "deit": _vision("DeiTForImageClassification", **_VISION),
    "beit": _vision("BeitForImageClassification", **_VISION),
    "dinov2": _vision("Dinov2ForImageClassification", **{**_VISION, "mlp_ratio": 2}),
    "siglip": _vision(
        "SiglipVisionModel", "pooler_output",
        **{k: v for k, v in _VISION.items() if k != "num_labels"},
    ),
    "clip-vision": _vision(
        "CLIPVisionModel", "pooler_output",
        **{k: v for k, v in _VISION.items() if k != "num_labels"},
    ),
    "swin": _vision(
        "SwinForImageClassification", image_size=32, size=32, patch_size=2, embed_dim=16,
        depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5,
    ),
    "segformer": _vision(
        "SegformerForSemanticSegmentation", size=32, hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], sr_ratios=[4, 2, 1, 1],
        decoder_hidden_size=20, num_labels=5,
    ),
    "pvt": _vision(
        "PvtForImageClassification", size=64, image_size=64, hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], num_labels=5,
    ),
    "mobilevit": _vision(
        "MobileViTForImageClassification", size=32, image_size=32, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 12, 16, 20, 24, 28, 32], num_attention_heads=4, num_labels=5,
    ),
    "convnext": _vision("ConvNextForImageClassification", size=32, **_WIDTHS),
    "convnextv2": _vision("ConvNextV2ForImageClassification", size=32, **_WIDTHS),
    "resnet": _vision(
        "ResNetForImageClassification", size=32, embedding_size=8, layer_type="basic", **_WIDTHS
    ),
    "regnet": _vision(
        "RegNetForImageClassification", size=32, embedding_size=8, groups_width=4, layer_type="y",
        **_WIDTHS,
    ),
    "mobilenetv1": _vision(
        "MobileNetV1ForImageClassification", size=32, depth_multiplier=0.25, num_labels=5
    ),
    "mobilenetv2": _vision(
        "MobileNetV2ForImageClassification", size=32, depth_multiplier=0.25, num_labels=5
    ),
    "efficientnet": _vision(
        "EfficientNetForImageClassification", size=32, image_size=32, width_coefficient=0.25,
        depth_coefficient=0.3, hidden_dim=320, num_labels=5,
    ),
    "poolformer": _vision("PoolFormerForImageClassification", size=32, **_WIDTHS),
    # Encoders of text.
    "bert": _text("BertModel", "pooler_output", **_TEXT),
    "roberta": _text("RobertaModel", "pooler_output", **_TEXT),
    "distilbert": _text(
        "DistilBertModel", _HIDDEN, vocab_size=64, dim=32, hidden_dim=48, n_layers=2, n_heads=4
    ),
    "albert": _text("AlbertModel", "pooler_output", embedding_size=16, **_TEXT),
    "electra": _text("ElectraModel", _HIDDEN, embedding_size=16, **_TEXT),
    "mpnet": _text("MPNetModel", "pooler_output", **_TEXT),
    "deberta-v2": _text(
        "DebertaV2Model", _HIDDEN, relative_attention=True, pos_att_type=["p2c", "c2p"], **_TEXT
    ),
    "modernbert": _text("ModernBertModel", _HIDDEN, **_TEXT),
    "t5-encoder": _text("T5EncoderModel", _HIDDEN, "T5Config", **_T5),
    # Decoders of text.
    "gpt2": _text("GPT2LMHeadModel", config="GPT2Config", vocab_size=64, n_positions=32, n_embd=32,
                  n_inner=48, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "gpt-neox": _text("GPTNeoXForCausalLM", **_TEXT),
    "gptj": _text("GPTJForCausalLM", vocab_size=64, n_positions=32, n_embd=32, n_inner=48,
                  n_layer=2, n_head=4, rotary_dim=4, bos_token_id=1, eos_token_id=2),
    "opt": _text("OPTForCausalLM", vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                 num_attention_heads=4, max_position_embeddings=32, word_embed_proj_dim=32),
    "bloom": _text("BloomForCausalLM", vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "falcon": _text("FalconForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=2,
                    num_attention_heads=4, multi_query=True),
    "falcon-new": _text("FalconForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=2,
                        num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True),
    "mpt": _text("MptForCausalLM", vocab_size=64, d_model=32, n_layers=2, n_heads=4,
                 max_seq_len=32),
    "bigcode": _text("GPTBigCodeForCausalLM", vocab_size=64, n_positions=32, n_embd=32, n_inner=48,
                     n_layer=2, n_head=4),
    "llama": _text("LlamaForCausalLM", **_GROUPED),
    "mistral": _text("MistralForCausalLM", **_GROUPED),
    "qwen2": _text("Qwen2ForCausalLM", **_GROUPED),
    "qwen3": _text("Qwen3ForCausalLM", head_dim=8, **_GROUPED),
    "gemma": _text("GemmaForCausalLM", head_dim=8, **_GROUPED),
    "gemma2": _text("Gemma2ForCausalLM", head_dim=8, **_GROUPED),
    "phi": _text("PhiForCausalLM", **_TEXT),
    "phi3": _text("Phi3ForCausalLM", **_GROUPED),
    "olmo": _text("OlmoForCausalLM", **_GROUPED),
    "starcoder2": _text("Starcoder2ForCausalLM", **_GROUPED),
    "cohere": _text("CohereForCausalLM", **_GROUPED),
    "mamba": _text("MambaForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=2,
                   state_size=4),
    "mixtral": _text("MixtralForCausalLM", num_local_experts=4, **_GROUPED),
    # Both.
    "t5": _translation("T5ForConditionalGeneration", "T5Config", **_T5),
    "bart": _translation(
        "BartForConditionalGeneration", "BartConfig", vocab_size=64, d_model=32,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32,
    ),
    # Sound.
    "whisper-encoder": _audio(
        "WhisperForAudioClassification", "logits", (2, 20, 40), "WhisperConfig", d_model=32,
        encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48, num_mel_bins=20,
        max_source_positions=20, classifier_proj_size=24, num_labels=5,
    ),
    "wav2vec2": _audio("Wav2Vec2ForCTC", "logits", (2, 320), "Wav2Vec2Config", **_SPEECH),
    "ast": _audio(
        "ASTForAudioClassification", "logits", (2, 32, 16), "ASTConfig", hidden_size=32,
        intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, patch_size=4,
        frequency_stride=4, time_stride=4, max_length=32, num_mel_bins=16, num_labels=5,
    ),
}  # fmt: skip
