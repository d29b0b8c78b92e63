"""Models loaded from the hub, a folder, a run of ours, a random initialisation or a factory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING
from transformers.utils.import_utils import is_accelerate_available

import dynamics.models.transformer  # noqa: F401 (registers our own architecture)
from dynamics.allowed import own_modules
from dynamics.capture import input_device
from dynamics.errors import InputError, in_words
from dynamics.loading.inputs import Encode
from dynamics.loading.options import ModelOptions
from dynamics.loading.subjects import Subject
from dynamics.models import hub

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MODALITIES = {  # by the name of the main input
    **dict.fromkeys(("input_ids", "inputs_embeds"), "text"),
    "pixel_values": "images",
    **dict.fromkeys(("input_values", "input_features"), "audio"),
}
# Weights that no layer reads: a checkpoint may lack them.
HEADS = ("pooler", "classifier", "lm_head", "cls.", "projector", "qa_outputs", "masked_spec_embed", "mask_token")
WEIGHTS_SHARE = 0.6  # of a device's free memory: a model that takes more is spread over all devices
ALIASES = {"byt5": "t5", "mit": "segformer", "deit3": "deit"}
SMALL: dict[str, Any] = {  # of a random model: keys that its configuration has, where it holds a plain number
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim", "embedding_size"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "hidden_dim", "d_ff", "encoder_ffn_dim"), 512),
    **{"num_key_value_heads": 4, "num_kv_heads": 4, "head_dim": 32, "d_kv": 32, "rotary_dim": 16},
    **{"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 512, "num_decoder_layers": 1},
}
SPECIAL: dict[str, dict[str, Any]] = {
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280},
    "byt5": {"feed_forward_proj": "gated-gelu", "vocab_size": 384},
}


@dataclass
class Loaded:
    """A model ready to be measured."""

    model: nn.Module
    modality: str  # `text`, `images` or `audio`
    source: str = ""  # where its tokenizer or processor lies; empty where it has none
    trusted: bool = False  # whether code that it brings may run
    config: PreTrainedConfig | None = None
    encode: Encode | None = None  # makes its batches where it brings its own function (a module by factory)
    facts: dict[str, Any] = field(default_factory=dict)  # for the record

    @property
    def main_input(self) -> str:
        """Name of the argument that carries the input."""
        return str(getattr(self.model, "main_input_name", "input_ids"))

    @property
    def device(self) -> torch.device:
        """Device of its inputs."""
        return input_device(self.model)


def modality(subject: Subject, options: ModelOptions) -> str:
    """Return what a subject takes (`text`, `images` or `audio`) without its weights; "" where these are needed."""
    if subject.origin.kind in ("run", "module"):
        return "text" if subject.origin.kind == "run" else ""
    config = _config(subject.origin, options)
    if type(config) not in MODEL_MAPPING:
        if options.trust_remote_code:
            return ""
        raise InputError(f"{subject.model}: transformers has no model for its type {config.model_type}.")
    kind: Any = MODEL_MAPPING[type(config)]
    return _modality(subject, (kind[0] if isinstance(kind, list | tuple) else kind).main_input_name)


def width(subject: Subject, options: ModelOptions) -> int | None:
    """Return the width of a subject's states without its weights; None where these are needed."""
    size = None if subject.kind == "module" else getattr(_config(subject.origin, options), "hidden_size", None)
    return size if isinstance(size, int) else None


def _modality(subject: Subject, main_input: str) -> str:
    if main_input not in MODALITIES:
        raise InputError(f"{subject.model} takes {main_input}: only models of text, images or audio can be measured.")
    return MODALITIES[main_input]


def load(subject: Subject, options: ModelOptions) -> Loaded:
    """Load a subject in eval mode, on its device, in its precision.

    Raises:
        InputError: it is not found, has no such revision, lacks weights, or is not to be trusted.
    """
    dtype, device = PRECISIONS[options.dtype], _device(options.device)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        if subject.kind == "module":
            return _from_factory(subject.source, device, dtype)
        model: Any
        if subject.kind in ("random", "untrained"):
            config = _config(subject.origin, options)
            kind = _class(subject.origin, config)
            trusted = {"trust_remote_code": True} if options.trust_remote_code else {}
            with _fitting(subject, options):
                model = kind.from_config(config, dtype=dtype, **trusted)
        else:
            model = _pretrained(subject, options, dtype, device)
    config, is_placed = model.config, hasattr(model, "hf_device_map")
    if _has_decoder(model):
        model = model.get_encoder()
    if not is_placed:
        model = model.to(device)
    main_input = model.main_input_name if isinstance(model, PreTrainedModel) else "input_values"
    source = {"random": "", "run": str(subject.run)}.get(subject.origin.kind, subject.weights)
    facts = {"commit": commit} if (commit := getattr(config, "_commit_hash", None)) else {}
    facts |= {"untrained": subject.twin.name} if subject.twin else {}
    return Loaded(model.eval(), _modality(subject, main_input), source, options.trust_remote_code, config, facts=facts)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}).") from error


def _config(subject: Subject, options: ModelOptions) -> PreTrainedConfig:
    if subject.kind != "random":
        return _fetch(subject, options, AutoConfig.from_pretrained)
    kind = ALIASES.get(subject.source, subject.source)
    if kind not in CONFIG_MAPPING:
        near = ", ".join(get_close_matches(kind, list(CONFIG_MAPPING), n=3)) or "bert, gpt2, vit"
        raise InputError(f"transformers has no architecture {subject.source}: did you mean {near}?")
    defaults = AutoConfig.for_model(kind).to_dict()
    is_staged = any(isinstance(defaults.get(key), list | tuple) for key in ("depths", "depth", "hidden_sizes"))
    small = {key: value for key, value in SMALL.items() if isinstance(defaults.get(key), int) and not is_staged}
    for key in options.config_overrides:
        if key not in defaults:
            near = ", ".join(get_close_matches(key, defaults, n=2)) or "a key of its configuration"
            raise InputError(f"--config_overrides: {subject.source} has no {key}: did you mean {near}?")
    with _fitting(subject, options):
        return AutoConfig.for_model(kind, **(small | SPECIAL.get(subject.source, {}) | options.config_overrides))


@contextmanager
def _fitting(subject: Subject, options: ModelOptions) -> Iterator[None]:
    """Refuse overrides that no model can be built with; without overrides the error is a bug of ours."""
    try:
        yield
    except Exception as error:  # every architecture raises its own
        if not options.config_overrides:
            raise
        raise InputError(f"--config_overrides do not fit {subject.source} ({in_words(error)}).") from error


def _fetch(subject: Subject, options: ModelOptions, call: Callable[..., Any], **settings: Any) -> Any:
    """Call the `from_pretrained` of a subject."""
    revision = "" if subject.hub_revision == "main" else subject.hub_revision
    settings |= {"name": subject.model, "revision": revision, "trust_remote_code": options.trust_remote_code}
    return hub.fetch(call, subject.weights, **settings)


def _pretrained(subject: Subject, options: ModelOptions, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    settings: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    config = _config(subject, options)  # refused here where it names code, before any weight is read
    kind = _class(subject, config)
    if options.device == "auto" and device.type == "cuda" and is_accelerate_available():
        settings["device_map"] = _device_map(kind, config, dtype, device)
    model, info = _fetch(subject, options, kind.from_pretrained, **settings)
    unread = (*HEADS, "decoder.") if _has_decoder(model) else HEADS
    if missing := sorted(key for key in info["missing_keys"] if not any(part in key for part in unread)):
        raise InputError(
            f"the checkpoint of {subject.name} lacks {len(missing)} weights of {type(model).__name__} "
            f"({missing[0]}): they would be random."
        )
    return model


def _device_map(kind: Any, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """Return where the weights of a model go: to one device where they leave it room to measure, else to several."""
    if torch.cuda.device_count() < 2:
        return "auto"
    try:
        with torch.device("meta"):
            size = kind.from_config(config, dtype=dtype).get_memory_footprint()
    except Exception:  # code that the model brings along may ask for real tensors
        return "auto"
    return {"": device} if size <= WEIGHTS_SHARE * torch.cuda.mem_get_info(device)[0] else "auto"


def _class(subject: Subject, config: PreTrainedConfig) -> Any:
    """Return the class that a subject is loaded by: of a run that is not fine-tuned, with its language-model head.

    Tied embeddings are saved once, under the name of the output: the trunk alone would not find them.
    """
    if subject.kind != "run" or any("For" in name and "LM" not in name for name in config.architectures or ()):
        return AutoModel
    return AutoModelForMaskedLM if type(config) in MODEL_FOR_MASKED_LM_MAPPING else AutoModelForCausalLM


def _has_decoder(model: nn.Module) -> bool:
    """Whether a model is an encoder with a decoder beside it: its encoder is what is measured."""
    return hasattr(model, "encoder") and hasattr(model, "decoder")


def _from_factory(name: str, device: torch.device, dtype: torch.dtype) -> Loaded:
    """Load what `package:factory` returns: a module, or a module and the function that encodes a list of inputs."""
    package, _, factory = name.partition(":")
    own_modules.add(package)
    try:
        product = getattr(import_module(package), factory)()
    except InputError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"--module {name}: {error}; give package:factory, a function without arguments.") from error
    model, encode = product if isinstance(product, tuple) else (product, getattr(product, "encode", None))
    if not isinstance(model, nn.Module):
        raise InputError(f"--module {name} returns {type(model).__name__}, not a torch module.")
    kind = MODALITIES.get(getattr(model, "main_input_name", "input_ids"), "text")
    return Loaded(model.to(device, dtype).eval(), getattr(model, "modality", kind), encode=encode)
