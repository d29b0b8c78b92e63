"""Small models of any architecture of transformers, with random weights and inputs: what docs/models.md is made of.

Every configuration is made small by the names of its keys, in the same way for all architectures, nested ones
included. Where that fits no model, more of its standard sizes are kept.
"""

import copy
import re
import zlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

ROWS, TOKENS, FRAMES, VOCABULARY, LAYERS = 3, 12, 4, 128, 2
LARGEST = 60_000_000  # parameters of a small model at most
DROPPED = {  # keys that follow from others, or list something for each layer
    *("model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"),
    *("id2label", "label2id", "num_labels", "layer_types", "attention_types", "rope_scaling"),
}
SIZES = (  # what the whole name of a key says, and the size that it gets; the first that fits
    (r"(.*_)?vocab_size(_.*)?|vocab", VOCABULARY),
    (r".*experts_per_tok(en)?|.*top_?k(_experts)?|moe_k|moe_top.*", 2),
    (r"n_group|topk_group|num_expert_group.*", 1),
    (r"(.*_)?(num|n)_(\w+_)?experts|moe_num_experts", 4),
    (r".*(kv_|key_value_|kv)heads|num_kv_heads|.*_kv_heads", 2),
    (r"(.*_)?(num_|n_)?(\w+_)?heads?|n_head", 4),
    (r"(.*_)?(num_|n_)?(hidden_|\w+_)?layers?|depth|n_layers?|.*_depth|num_(\w+_)?blocks|.*layers_per.*", LAYERS),
    (r"(.*_)?(qk_rope_head_dim|rotary_dim)", 4),
    (r"(.*_)?(head_dim|d_kv|d_head|dim_head|head_size|d_head|attention_head_size)", 8),
    (r".*lora_rank", 16),
    (r"(.*_)?(moe|expert)_(\w+_)?intermediate_size", 16),
    (r"(.*_)?(intermediate_size|intermediate_dim|ffn_dim|d_ff|ffn_size|mlp_dim|ffn_hidden_size|n_inner)", 48),
    (r"(.*_)?(hidden_size|hidden_dim|d_model|n_embd|emb_dim|embed_dim|embedding_size|embedding_dim|d_embed)(_.*)?", 32),
    (r"dim|width|projection_dim|out_hidden_size|bottleneck_dim|.*_hidden_size|.*proj_dim|.*proj_size|.*_channels?", 32),
    (r"(.*_)?(max_)?(\w+_)?(positions?|position_embeddings|seq_len(gth)?|context_length)", 128),
    (r"(.*_)?image_size|input_size", 32),
    (r"(.*_)?patch_size|encoder_stride", 8),
    (r"num_mel_bins|feature_size|n_mels|num_mels", 16),
    (r"sliding_window|.*window_size|attention_window|local_attention|block_size|chunk_size", 4),
    (r"num_frames", FRAMES),
)


def small(name: str, keep: str = "") -> PreTrainedConfig:
    """Return the configuration of an architecture, made small except for keys that match `keep`."""
    kind = CONFIG_MAPPING[name]
    return kind(**_shrunk(kind().to_dict(), keep))


def _shrunk(values: dict[str, Any], keep: str) -> dict[str, Any]:
    layers = next((v for k, v in values.items() if re.fullmatch(SIZES[6][0], k) and isinstance(v, int)), 0)
    result, tokens = {}, VOCABULARY // 2
    for key, value in values.items():
        if key in DROPPED and not (key == "model_type" and "transformers_version" not in values):
            continue
        if isinstance(value, dict):
            result[key] = _shrunk(value, keep)
        elif key.endswith(("_token_id", "_token_index", "_id")) and isinstance(value, int) and value >= tokens:
            result[key] = tokens = tokens + 1
        elif isinstance(value, list | tuple) and layers > LAYERS and len(value) == layers:
            continue
        elif not (keep and re.fullmatch(keep, key)):
            result[key] = _size(key, value)
        else:
            result[key] = value
    if {"hidden_size", "num_attention_heads"} <= result.keys() and isinstance(values.get("num_key_value_heads"), int):
        shared = values["num_key_value_heads"] != values.get("num_attention_heads")
        result["num_key_value_heads"] = min(result["num_key_value_heads"], 2) if shared else 4
    return result


def _size(key: str, value: Any) -> Any:
    size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if size is None else min(value, size)
    if isinstance(value, list | tuple) and value and all(isinstance(x, int) and not isinstance(x, bool) for x in value):
        if re.fullmatch(r"depths?|num_block_repeats|stage_num_blocks", key):
            return [min(x, 1 + (i == 1)) for i, x in enumerate(value)]
        if re.fullmatch(r".*heads", key):
            return [min(x, 2) for x in value]
        if re.fullmatch(r"(.*_)?(hidden_sizes|embed_dims?|hidden_dims?)", key):
            return [min(x, 16 * (i + 1)) for i, x in enumerate(value)]
        if re.fullmatch(r"conv_dim|.*image_size", key):
            return [min(x, 32) for x in value]
    return value


VARIANTS = (
    "",
    r".*(hidden|embed|head|channel|dim|intermediate|patch|image|position|window|block|chunk).*",
    ".*(?<!layers)",
)
"""Keys that keep their standard values, from none to all but the numbers of layers."""


def build(name: str, keep: str = "") -> PreTrainedModel:
    """Return a small model of an architecture in eval mode, its encoder where it has a decoder beside it.

    Weights depend on the name alone and are far from zero, biases too: what is left out shows.
    """
    config = small(name, keep)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in _instance(config).parameters())
    if size > LARGEST:
        raise ValueError(f"it has {size / 1e6:.0f} M parameters at its smallest")
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        model = _instance(config)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data += 0.05 * torch.randn_like(parameter)
    if hasattr(model, "encoder") and hasattr(model, "decoder"):
        model = model.get_encoder()
    return model.float().eval()


def _instance(config: PreTrainedConfig) -> Any:
    config = copy.deepcopy(config)
    if type(config) in AutoModel._model_mapping:
        return AutoModel.from_config(config, dtype=torch.float32)
    classes = [
        kind
        for kind in vars(__import__(_module(config), fromlist=["*"])).values()
        if isinstance(kind, type)
        and issubclass(kind, PreTrainedModel)
        and kind.config_class is type(config)
        and "forward" in vars(kind)
    ]
    if not classes:
        raise ValueError("it has no model of its own")
    return classes[0](config)


def _module(config: PreTrainedConfig) -> str:
    return type(config).__module__.replace(".configuration_", ".modeling_")


def inputs(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Yield inputs that a model may take, the likeliest first, always the same ones."""
    import inspect

    takes = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    config: Any = model.config
    main = getattr(model, "main_input_name", "input_ids")
    main = main if main in takes or "kwargs" in takes else next(iter(takes))
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", None) or 32
    height, width = side if isinstance(side, list | tuple) else (side, side)
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    channels = channels if isinstance(channels, int) else 3
    frames = getattr(vision, "num_frames", FRAMES)

    def text(length: int) -> dict[str, Tensor]:
        ids = torch.randint(5, VOCABULARY // 2 - 2, (ROWS, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, length - length // 4 :] = 0
        mask[2, length // 3 :] = 0
        return {"input_ids": ids, "attention_mask": mask} if "attention_mask" in takes else {"input_ids": ids}

    images = [{"pixel_values": noise(ROWS, channels, height, width)}]
    images += [{"pixel_values": noise(ROWS, channels, size, size)} for size in (64, 224)]
    if main == "input_ids" or main.startswith("decoder_input"):
        for length in (TOKENS, 32, 64):
            yield text(length)
        if "pixel_values" in takes:
            for image in images:
                yield text(TOKENS) | image
        if "bbox" in takes:
            yield text(TOKENS) | {"bbox": torch.zeros(ROWS, TOKENS, 4, dtype=torch.long)}
        if "input_features" in takes:
            yield text(TOKENS) | {"input_features": noise(ROWS, 16, 64)}
        yield text(TOKENS) | {"decoder_input_ids": text(TOKENS)["input_ids"]}
    elif main.startswith("pixel_values"):
        for image in images:
            yield {main: image["pixel_values"]}
        for size in (height, 224):
            yield {main: noise(ROWS, frames, channels, size, size)}
        for image in images[:1]:
            yield text(TOKENS) | image
    elif main in ("input_values", "input_features"):
        mel = next((v for k in MEL if isinstance(v := getattr(config, k, None), int)), 16)
        long = getattr(config, "max_length", None) or 64
        limit = 2 * (getattr(config, "max_source_positions", None) or 64)
        for shape in ((4000,), (long, mel), (mel, limit), (64, mel), (mel, 64), (1, 64, mel), (1, 4000)):
            batch = {main: noise(ROWS, *shape)}
            if "attention_mask" in takes:
                for size in {shape[0], shape[-1]}:
                    mask = torch.ones(ROWS, size, dtype=torch.long)
                    mask[1, size - size // 4 :] = 0
                    yield batch | {"attention_mask": mask}
            yield batch
    elif main in ("inputs_embeds", "hidden_states", "inputs"):
        width = getattr(config, "hidden_size", None) or getattr(config, "d_model", 32)
        yield {main: noise(ROWS, TOKENS, width)}
    else:
        raise ValueError(f"it takes {main}, which is neither text nor image nor sound")


MEL = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "num_mels", "feature_projection_input_dim")


def names() -> list[str]:
    """Return every architecture of transformers, in alphabetic order."""
    return sorted(CONFIG_MAPPING)


if __name__ == "__main__":
    print(len(names()), transformers.__version__)
