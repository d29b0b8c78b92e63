"""Language models of any architecture of transformers, built from scratch by its name: size, causal mask, head.

`find`, `sizes` and `settable` serve whoever builds an untrained model of a chosen size.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from dynamics.errors import InputError
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

DEFAULT = CharTransformerConfig.model_type
# Widths inside the MLP, scaled with the model's.
INNER = ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "hidden_dim", "n_inner")
# Keys of a configuration and the options that set them.
OPTIONS = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads"}
# Ends of the keys of special tokens, and of the probabilities of dropout.
SPECIAL, DROPOUT = ("_token_id", "pad_index"), ("dropout", "dropout_prob", "pdrop")
WITH_HEAD: tuple[Any, ...] = (transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM)
# Change of earlier logits, as a share of their standard deviation, below which they do not see later tokens.
TOLERANCE = 1e-5
HEAD_STD = 0.02


def find(name: str) -> type[PreTrainedConfig]:
    """Return the configuration class of an architecture; refuse one that is unknown or made of several models."""
    mapping = transformers.CONFIG_MAPPING
    if name not in mapping:
        near = get_close_matches(name, list(mapping), n=3) or ["gpt2", "bert", "llama"]
        raise InputError(f"transformers has no architecture {name}: did you mean {', '.join(near)}?")
    kind = mapping[name]
    if parts := [part.model_type for part in kind.sub_configs.values() if hasattr(part, "model_type")]:
        raise InputError(f"architecture {name} is made of several models: name one of {', '.join(parts)}.")
    return kind


def sizes(standard: PreTrainedConfig, width: int, depth: int, heads: int) -> dict[str, int]:
    """Return the keys that set the size of a model; those that depend on the width keep their proportion to it."""
    head = width // heads
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": _key_heads(standard, heads),
        **dict.fromkeys(("head_dim", "d_kv", "d_head"), head),
        "rotary_dim": min(head, getattr(standard, "rotary_dim", None) or head),
        **{key: max(1, (getattr(standard, key, None) or 0) * width // standard.hidden_size) for key in INNER},
    }


def _key_heads(standard: PreTrainedConfig, heads: int) -> int:
    """Return the key heads in the architecture's proportion to its query heads, where that divides them."""
    keys, queries = (getattr(standard, key, 1) for key in ("num_key_value_heads", "num_attention_heads"))
    share = max(1, heads * keys // queries) if isinstance(keys, int) and isinstance(queries, int) else heads
    return share if heads % share == 0 else heads


def settable(standard: PreTrainedConfig, values: Mapping[str, int]) -> dict[str, int]:
    """Return those of `values` that the configuration holds as plain numbers, under its own names for them."""
    kind = type(standard)
    names = {key: kind.attribute_map.get(key, key) for key in values}
    return {
        names[key]: value
        for key, value in values.items()
        if isinstance(getattr(standard, key, None), int) and not isinstance(getattr(kind, names[key], None), property)
    }


def refuse_overrides(overrides: Mapping[str, Any], standard: PreTrainedConfig, taken: Collection[str]) -> None:
    """Refuse keys that the configuration does not have, or that other options set (`taken`)."""
    allowed = {*standard.to_dict(), *standard.attribute_map} - set(taken)
    for key in overrides:
        if key in taken or standard.attribute_map.get(key) in taken:
            raise InputError(f"model.overrides.{key} is set by another option of model or data; remove it.")
        if key not in allowed:
            near = ", ".join(get_close_matches(key, allowed, n=2)) or "a key of its configuration"
            raise InputError(f"model.overrides: {standard.model_type} has no {key}: did you mean {near}?")


def draw(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Return a language model whose weights depend on `seed` alone: twins start equal whatever was drawn before.

    An architecture without an output head gets a linear one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(config, CharTransformerConfig):
            return CharTransformerLM(config)
        auto = next((auto for auto in WITH_HEAD if type(config) in auto._model_mapping), None)
        network = auto.from_config(config, dtype=torch.float32) if auto else _with_head(type(config))(config)
    network.config.architectures = [type(network).__name__]
    return network


def _with_head(kind: type[PreTrainedConfig]) -> type[PreTrainedModel]:
    trunk: Any = AutoModel._model_mapping[kind]

    class Headed(trunk):
        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            nn.init.normal_(self.lm_head.weight, std=HEAD_STD)

        def forward(self, *args: Any, **inputs: Any) -> Any:
            output = super().forward(*args, **inputs)
            output["logits"] = self.lm_head(output.last_hidden_state)
            return output

    # A scan of the saved weights recognises by this name that the head is none of transformers'.
    Headed.__name__ = f"{trunk.__name__}ForTokenPrediction"
    return Headed


def build(
    name: str, common: Mapping[str, Any], dropout: float, overrides: Mapping[str, Any], seed: int
) -> PreTrainedModel:
    """Build a language model of an architecture of transformers, and check that its mask is as asked for.

    Args:
        common: `vocab_size`, `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `max_position_embeddings`
            (the longest input), `pad_token_id` and `is_causal`.
        dropout: probability, wherever the architecture has dropout.
        overrides: further keys of its configuration.
    """
    standard = find(name)()
    if standard.is_encoder_decoder:
        raise InputError(f"architecture {name} is an encoder with a decoder; choose one that is either.")
    autos = (auto for auto in (*WITH_HEAD, AutoModel) if type(standard) in auto._model_mapping)
    models = (auto._model_mapping[type(standard)] for auto in autos)
    if getattr(next(models, None), "main_input_name", None) != "input_ids":
        raise InputError(f"architecture {name} is no model of text; choose one that is.")
    context, causal, error = common["max_position_embeddings"], common["is_causal"], Exception()
    # RoBERTa and its kin count positions from the id of the padding token.
    for reach in (context, context + common["pad_token_id"] + 1):
        try:
            config = _configure(name, standard, {**common, "max_position_embeddings": reach}, dropout, overrides)
            network = draw(config, seed)
            change = change_by_later_tokens(network, context)
        except InputError:
            raise
        except Exception as failure:  # every architecture raises its own
            error = failure
            continue
        if causal == (change <= TOLERANCE):
            return network
        raise InputError(
            f"the mask of architecture {name} cannot be switched, it is always "
            f"{'bidirectional' if causal else 'causal'}: set model.is_causal {str(not causal).lower()}, or choose "
            "another architecture."
        )
    message = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    raise InputError(
        f"architecture {name} cannot be built {common['hidden_size']} wide with {common['num_attention_heads']} heads "
        f"({message}): choose other sizes, or set what it needs in model.overrides."
    ) from error


def _configure(
    name: str, standard: PreTrainedConfig, common: Mapping[str, Any], dropout: float, overrides: Mapping[str, Any]
) -> PreTrainedConfig:
    """Return the architecture's configuration at our size, with our vocabulary and mask.

    The mask is switched by `is_causal`, or by `is_decoder` (BERT and its kin). No character marks the beginning or
    the end of a text, so every special token is the padding token.
    """
    defaults, names = standard.to_dict(), standard.attribute_map
    width, depth, heads = (common[key] for key in OPTIONS)
    size = sizes(standard, width, depth, heads)
    special = [key for key, value in defaults.items() if key.endswith(SPECIAL) and isinstance(value, int)]
    dropouts = [key for key, value in defaults.items() if key.endswith(DROPOUT) and isinstance(value, float)]
    switches = {"is_decoder": common["is_causal"], "use_cache": False}
    settings = {
        **settable(standard, {**size, **{key: common[key] for key in ("vocab_size", "max_position_embeddings")}}),
        **dict.fromkeys((*special, "pad_token_id"), common["pad_token_id"]),
        **dict.fromkeys(dropouts, dropout),
        **{key: value for key, value in switches.items() if key in defaults},
        "is_causal": common["is_causal"],
    }
    refuse_overrides(overrides, standard, {*(names.get(key, key) for key in common), "is_decoder"})
    config = type(standard)(**(settings | dict(overrides)))
    for key, option in OPTIONS.items():
        absent = common[key] if option == "heads" else None  # an architecture may have no attention
        if getattr(config, key, absent) != common[key]:
            raise InputError(f"model.{option} has no effect on architecture {name}; choose another one.")
    return config


def change_by_later_tokens(network: PreTrainedModel, context: int) -> float:
    """Return how far the second half of an input changes the logits of the first, as a share of their deviation.

    0, up to rounding, under a causal mask. The network is left in eval mode.
    """
    half, characters = context // 2, network.config.vocab_size - 2
    if not half:
        return 0.0
    ids = torch.arange(context) % characters
    changed = torch.where(torch.arange(context) < half, ids, (ids + 1) % characters)
    with torch.no_grad():
        logits = network.eval()(input_ids=torch.stack((ids, changed))).logits
    return float((logits[0, :half] - logits[1, :half]).abs().max() / logits.std())
