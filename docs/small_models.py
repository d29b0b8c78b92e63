"""Small models of any architecture of transformers, with random weights and inputs: what docs/models.md is made of.

Every configuration is made small by the names of its keys, in the same way for all architectures, nested ones
included. Where that fits no model, more of its standard sizes are kept.
"""

import copy
import inspect
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

ROWS, TOKENS, FRAMES, VOCABULARY, LAYERS = 3, 12, 4, 128, 2
LARGEST = 40_000_000  # parameters of a small model at most
DROPPED = {  # keys that follow from others
    *("model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path"),
    *("id2label", "label2id", "num_labels", "out_features", "out_indices", "stage_names", "per_layer_config"),
    *("qk_head_dim", "max_window_layers", "attn_config", "ffn_config"),
}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "depth", "num_encoder_layers")
KINDS = ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern")
FIXED = {"mrope_section": [2, 1, 1], "use_cache": False}
MLA = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "head_dim": 4, "v_head_dim": 8}
WANTED = (  # what is needed where the default is None
    r"num_experts_per_tok|sliding_window|head_dim|vocab_size|n_routed_experts|num_key_value_heads"
)
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_state": 8}
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"]},
    "nemotron_h": {"n_groups": 1, "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8},
    "dots1": {"n_shared_experts": 1},
    "esm": {"pad_token_id": 1, "mask_token_id": 4},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "diffusion_gemma_text": {"num_experts": 4},
    "xlstm": {"qk_dim_factor": 1.0},
    "glm5_next_text": {"index_topk": 16},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "state_size": 8},
    "xlnet": {"n_head": 4, "d_model": 32, "d_head": 8},
    "xmod": {"default_language": "en_XX"},
    "efficientnet": {"hidden_dim": 1280, "width_coefficient": 1.0, "depth_coefficient": 1.0},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "funnel": {"block_sizes": [1, 2], "block_repeats": [1, 1], "num_decoder_layers": 1},
}
SIZES = (  # what the whole name of a key says, and the size that it gets; the first that fits
    (r"(.*_)?vocab_size(_.*)?|vocab", VOCABULARY),
    (r".*experts_per_tok(en)?|.*top_?k(_experts)?|moe_k|moe_top.*", 2),
    (r"n_group|topk_group|num_expert_group.*", 1),
    (r"(.*_)?(num|n)_(\w+_)?experts|moe_num_experts", 4),
    (r".*(kv_|key_value_|kv)heads|num_kv_heads|.*_kv_heads", 2),
    (r"(.*_)?(num_|n_)?(\w+_)?heads?|n_head", 4),
    (r"num_feat_extract_layers", 99),
    (r"(.*_)?(num_|n_)?(hidden_|\w+_)?layers?|depth|n_layers?|.*_depth|num_(\w+_)?blocks|.*layers_per.*", LAYERS),
    (r"(.*_)?(qk_rope_head_dim|rotary_dim)", 4),
    (r"(.*_)?(head_dim|d_kv|d_head|dim_head|head_size|d_head|attention_head_size)", 8),
    (r".*lora_rank", 16),
    (r"(.*_)?(moe|expert)_(\w+_)?intermediate_size", 16),
    (r"(.*_)?(intermediate_size|intermediate_dim|ffn_dim|d_ff|ffn_size|mlp_dim|ffn_hidden_size|n_inner)", 48),
    (r"(.*_)?(hidden_size|hidden_dim|d_model|n_embd|emb_dim|embed_dim|embedding_size|embedding_dim|d_embed)(_.*)?", 32),
    (
        r"dim|width|projection_(dim|size)|out_hidden_size|bottleneck_dim|.*_hidden_size|.*proj_dim|.*proj_size|.*_channels?",
        32,
    ),
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
    values = _shrunk(kind().to_dict(), keep) | SPECIAL.get(name, {})
    for part in (values, values.get("text_config")):
        rope = part.get("rope_parameters") or {} if isinstance(part, dict) else {}
        if "rope_type" in rope and _reads(kind, "mrope"):
            rope["mrope_section"] = [2, 1, 1]
    return kind(**values)


def _reads(kind: type, word: str) -> bool:
    """Whether the code of the model of a configuration holds a word."""
    path = Path(inspect.getfile(kind).replace("configuration_", "modeling_"))
    return path.is_file() and word in path.read_text()


def _shrunk(values: dict[str, Any], keep: str) -> dict[str, Any]:
    """Return settings with small sizes; layers of every kind stay, and lists of one entry a layer follow them."""
    depth = next((x for key in DEPTHS if isinstance(x := values.get(key), int)), 0)
    kinds = next((x for key in KINDS if isinstance(x := values.get(key), list) and len(x) == depth), [])
    layers = sorted({kinds.index(kind) for kind in kinds}) or list(range(min(depth, LAYERS)))
    layers = layers if len(layers) >= LAYERS or depth < LAYERS else [*layers, *range(depth)][:LAYERS]
    result: dict[str, Any] = {}
    tokens = VOCABULARY // 2
    for key, value in values.items():
        if key in DROPPED:
            continue
        if key in FIXED:
            result[key] = FIXED[key]
        elif isinstance(value, dict):
            result[key] = _shrunk(value, keep) | {key: x for key, x in value.items() if key == "model_type"}
        elif key.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= tokens:
            result[key] = tokens = tokens + 1
        elif isinstance(value, list) and depth > LAYERS and len(value) == depth and not key.startswith("conv"):
            result[key] = [value[layer] for layer in layers]
        elif key in DEPTHS and isinstance(value, int) and value:
            result[key] = max(1, len(layers))
        else:
            result[key] = value if keep and re.fullmatch(keep, key) else _size(key, value)
    if keep:
        return result
    heads, shared = (values.get(key) for key in ("num_attention_heads", "num_key_value_heads"))
    if isinstance(heads, int) and isinstance(shared, int) and "num_key_value_heads" in result:
        result["num_key_value_heads"] = 4 if heads == shared else min(shared, 2)
    if isinstance(rotary := values.get("qk_rope_head_dim"), int):
        mla = MLA if values.get("head_dim") == rotary else {**MLA, "head_dim": 8}
        result |= {key: value for key, value in mla.items() if key in values}
    return result


def _size(key: str, value: Any) -> Any:
    size = next((size for pattern, size in SIZES if re.fullmatch(pattern, key)), None)
    if value is None and size is not None and re.fullmatch(WANTED, key):
        return size
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
    """Return a small model of an architecture in eval mode.

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
    return model.float().eval()


def _instance(config: PreTrainedConfig) -> Any:
    config = copy.deepcopy(config)
    kind: Any = AutoModel._model_mapping.get(type(config), None)
    if isinstance(kind, list | tuple):
        return kind[0](config)
    if kind is not None:
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
    """Yield inputs that a model may take, the likeliest first, always the same ones; an encoder's decoder reads ids."""
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        ids = torch.randint(5, VOCABULARY // 2 - 2, (ROWS, TOKENS - 4), generator=torch.Generator().manual_seed(1))
        yield from (batch | {"decoder_input_ids": ids} for batch in _inputs(model))
    yield from _inputs(model)


def _inputs(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    takes = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    config: Any = model.config
    main = getattr(model, "main_input_name", "input_ids")
    main = main if main in takes else next(iter(takes))
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

    if "grid_thw" in takes:  # patches of all images in one row, with the grid of each
        patch, frames = getattr(config, "patch_size", 8), getattr(config, "temporal_patch_size", 1) or 1
        for size in (channels * frames * patch**2, channels * patch**2):
            yield {main: noise(16 * ROWS, size), "grid_thw": torch.tensor([[1, 4, 4]] * ROWS)}
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
        for shape in ((4000,), (mel, limit), (long, mel), (64, mel), (mel, 64), (1, 64, mel), (1, 4000)):
            batch = {main: noise(ROWS, *shape)}
            if "attention_mask" in takes:
                for size in {shape[0], shape[-1]}:
                    mask = torch.ones(ROWS, size, dtype=torch.long)
                    mask[1, size - size // 4 :] = 0
                    yield batch | {"attention_mask": mask}
            yield batch
    elif main in ("inputs_embeds", "hidden_states", "inputs"):
        wide = getattr(config, "hidden_size", None) or getattr(config, "d_model", 32)
        yield {main: noise(ROWS, TOKENS, wide)}
    else:
        raise ValueError(f"it takes {main}, which is neither text nor image nor sound")


MEL = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "num_mels", "feature_projection_input_dim")


def names() -> list[str]:
    """Return every architecture of transformers, in alphabetic order."""
    return sorted(CONFIG_MAPPING)


if __name__ == "__main__":
    print(len(names()), transformers.__version__)
