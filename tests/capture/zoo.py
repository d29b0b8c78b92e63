"""Tiny models with random weights, one for each architecture to be measured, and padded inputs.

`build("bert")` gives a model in eval mode, `inputs("bert")` what it is called with. Weights and inputs depend
on the name alone.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel, T5EncoderModel

VOCABULARY = 64
MIXED = {"initializer_range": 0.3}
"""Weights far from zero: attention far from uniform, so that a wrong scaling or mask shows."""


@dataclass(frozen=True)
class Tiny:
    """One architecture.

    `block` is the class of its layers. `hidden` says which of the model's hidden states the layers must equal:
    "all"; "inner" where the last one comes after a final norm; "none" where the model lists other things.
    `reference` says where true attention weights come from: the "attentions" of its eager path, every "softmax"
    of its eager path, its calls of "sdpa", or nowhere ("").
    """

    block: str
    config: dict[str, Any]
    inputs: Callable[[], dict[str, Tensor]]
    heads: tuple[int, ...] = (4, 4)
    hidden: str = "all"
    reference: str = "attentions"
    model_type: str = ""
    part: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model


def text(length: int = 11) -> dict[str, Tensor]:
    """Three texts, padded at the end."""
    ids = torch.randint(5, VOCABULARY, (3, length))
    mask = torch.ones_like(ids)
    mask[1, length - 3 :] = 0
    mask[2, 4:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def wave() -> dict[str, Tensor]:
    mask = torch.ones(2, 320, dtype=torch.long)
    mask[1, 190:] = 0
    return {"input_values": torch.randn(2, 320) * mask, "attention_mask": mask}


def spectrogram() -> dict[str, Tensor]:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, 13:] = 0
    return {"input_features": torch.randn(2, 8, 24), "attention_mask": mask}


BERT = {
    **MIXED,
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {
    **MIXED,
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "initializer_factor": 1.0,
}
SPEECH = {
    **{k: v for k, v in BERT.items() if k != "max_position_embeddings"},
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
VIT = {
    **MIXED,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
PYRAMID = {
    **MIXED,
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}

ZOO: dict[str, Tiny] = {
    "bert": Tiny("BertLayer", BERT, text),
    "roberta": Tiny("RobertaLayer", BERT, text),
    "electra": Tiny("ElectraLayer", {**BERT, "embedding_size": 24}, text),
    "albert": Tiny(
        "AlbertLayerGroup",
        {**BERT, "embedding_size": 16, "num_hidden_layers": 3},
        text,
        heads=(4, 4, 4),
    ),
    "distilbert": Tiny(
        "TransformerBlock",
        {**MIXED, "vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
        text,
    ),
    "modernbert": Tiny(
        "ModernBertEncoderLayer",
        {**BERT, "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
        text,
        hidden="inner",
    ),
    "llama": Tiny("LlamaDecoderLayer", {**BERT, "num_key_value_heads": 2}, text, hidden="inner"),
    "mistral": Tiny(
        "MistralDecoderLayer", {**BERT, "num_key_value_heads": 2, "sliding_window": 4}, text, hidden="inner"
    ),
    "qwen3": Tiny("Qwen3DecoderLayer", {**BERT, "num_key_value_heads": 1, "head_dim": 8}, text, hidden="inner"),
    "gpt2": Tiny("GPT2Block", GPT, text, hidden="inner"),
    "gpt_neox": Tiny("GPTNeoXLayer", BERT, text, hidden="inner"),
    "opt": Tiny(
        "OPTDecoderLayer",
        {**BERT, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
        text,
        hidden="inner",
    ),
    "t5": Tiny("T5Block", T5, text, hidden="inner"),
    "byt5": Tiny("T5Block", {**T5, "feed_forward_proj": "gated-gelu"}, text, hidden="inner", model_type="t5"),
    "whisper": Tiny(
        "WhisperEncoderLayer",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 8,
            "max_source_positions": 12,
            "max_target_positions": 12,
            "init_std": 0.3,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
        },
        spectrogram,
        hidden="inner",
        part=lambda model: model.get_encoder(),
    ),
    "wav2vec2": Tiny("Wav2Vec2EncoderLayer", SPEECH, wave),
    "hubert": Tiny("HubertEncoderLayer", SPEECH, wave),
    "vit": Tiny("ViTLayer", VIT, image),
    "deit": Tiny("DeiTLayer", VIT, image),
    "dinov2": Tiny("Dinov2Layer", VIT, image),
    "beit": Tiny("BeitLayer", {**VIT, "use_relative_position_bias": True, "vocab_size": 16}, image),
    "segformer": Tiny(
        "SegformerLayer",
        PYRAMID,
        image,
        heads=(2, 4, 4),
        hidden="none",
    ),
    "swin": Tiny(
        "SwinLayer",
        {
            **MIXED,
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        image,
        heads=(2, 4, 4),
        hidden="none",
        reference="softmax",
    ),
    "gptj": Tiny("GPTJBlock", {**GPT, "rotary_dim": 4}, text, hidden="inner"),
    "mpt": Tiny(
        "MptBlock",
        {**MIXED, "vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        text,
        hidden="inner",
    ),
    "bloom": Tiny(
        "BloomBlock",
        {**MIXED, "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0},
        text,
        hidden="inner",
    ),
    "falcon": Tiny("FalconDecoderLayer", {**BERT, "alibi": True}, text, hidden="inner", reference="sdpa"),
    "falcon_rotary": Tiny(
        "FalconDecoderLayer",
        {**BERT, "alibi": False, "multi_query": True},
        text,
        hidden="inner",
        model_type="falcon",
    ),
    "canine": Tiny(
        "CanineLayer",
        {
            **BERT,
            "num_hash_functions": 2,
            "num_hash_buckets": 32,
            "local_transformer_stride": 8,
            "downsampling_rate": 4,
        },
        lambda: text(32),
        heads=(4, 4, 4, 4),
        hidden="none",
        reference="softmax",
    ),
    "cvt": Tiny(
        "CvtLayer",
        {
            **MIXED,
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "embed_dim": [16, 32],
            "num_heads": [2, 4],
            "depth": [1, 2],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.0],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
        },
        image,
        heads=(2, 4, 4),
        hidden="none",
        reference="softmax",
    ),
    "pvt_v2": Tiny(
        "PvtV2BlockLayer",
        {**PYRAMID, "image_size": 32},
        image,
        heads=(2, 4, 4),
        hidden="none",
        reference="softmax",
    ),
    "resnet": Tiny(
        "ResNetStage",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic"},
        image,
        heads=(0, 0),
        reference="",
    ),
    "convnext": Tiny(
        "ConvNextStage",
        {"hidden_sizes": [16, 32], "depths": [1, 2], "num_stages": 2},
        image,
        heads=(0, 0),
        reference="",
    ),
    "efficientnet": Tiny(
        "EfficientNetBlock",
        {
            "image_size": 32,
            "hidden_dim": 1280,
            "in_channels": [32, 8],
            "out_channels": [8, 16],
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "expand_ratios": [1, 2],
            "num_block_repeats": [1, 1],
            "depthwise_padding": [],
            "depth_coefficient": 1.0,
            "width_coefficient": 1.0,
        },
        image,
        heads=(0, 0),
        reference="",
    ),
}


def build(name: str, implementation: str | None = None) -> PreTrainedModel:
    """The tiny model called `name`, always with the same weights, in eval mode."""
    tiny = ZOO[name]
    config = AutoConfig.for_model(tiny.model_type or name, **tiny.config)
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        kwargs = {} if implementation is None else {"attn_implementation": implementation}
        if config.model_type == "t5":
            model = T5EncoderModel._from_config(config, **kwargs)
        else:
            model = AutoModel.from_config(config, **kwargs)
        for parameter in model.parameters():
            # relative biases and the like start at zero, where nobody would miss them
            parameter.data += 0.05 * torch.randn_like(parameter)
    return tiny.part(model).eval()


def inputs(name: str) -> dict[str, Tensor]:
    """What the model called `name` is called with, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ZOO[name].inputs()
