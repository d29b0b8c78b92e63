"""`CharTransformer`: one architecture whose causal mask is a switch, as a transformers model.

Shapes: B batch, T tokens, D width, H heads, K head width (D / H), V rows of the embedding table.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dynamics.errors import InputError
from dynamics.models import attention, interventions
from dynamics.models.casting import AS_THEY_ARE, Matrices, linear, training_matrices
from dynamics.models.interventions import Real

UNMASKED = ("sdpa", "flash_attention_2", "flash_attention_3")  # attention functions that are told `is_causal`
CHOICES = {
    "norm": ("pre", "post", "none"),
    "positions": ("learned", "rope", "none"),
    "attention": interventions.KINDS,
}
LIMIT = 1 << 24  # of sizes: what is beyond is a slip


class CharTransformerConfig(PreTrainedConfig):
    """Configuration of `CharTransformer`; its keys are named as in transformers.

    `is_causal` is the only thing that may differ between twins. Linear maps and norms have no biases by
    default: the gradient of a key bias is zero (softmax is shift-invariant), so Adam would move it by rounding
    noise and fake a drift.
    """

    model_type = "char_transformer"

    vocab_size: int = 207
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    max_position_embeddings: int = 256
    is_causal: bool = True
    norm: str = "pre"
    positions: str = "learned"
    attention: str = "softmax"
    rope_theta: float = 10_000.0
    qk_norm: bool = False
    bias: bool = False
    dropout: float = 0.0
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            if not isinstance(getattr(self, key), int) or not 1 <= getattr(self, key) < LIMIT:
                raise InputError(f"{key} must be at least 1 and less than {LIMIT:,} (got {getattr(self, key)}).")
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            raise InputError(
                f"the width {width} cannot be shared by {heads} heads: choose a number of heads that divides it."
            )
        if self.positions == "rope" and width // heads % 2:
            raise InputError(
                f"rope rotates pairs of coordinates, and {heads} heads of a width of {width} have an odd number each: "
                "choose another width or number of heads."
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and less than 1 (got {self.dropout}).")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise InputError(f"{key} must be one of {', '.join(choices)} (got {getattr(self, key)}).")


def _norm(config: CharTransformerConfig, width: int, is_there: bool) -> nn.Module:
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias) if is_there else nn.Identity()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding (RoFormer, 2104.09864, eq. 34). x: (B, H, T, K); cos, sin: (T, K/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class ResidualLinear(nn.Linear):
    """A linear map at the end of a residual branch; a class of its own because it is initialised differently."""


class SelfAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface."""

    def __init__(self, config: CharTransformerConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, config.is_causal
        self.head_dim = config.hidden_size // config.num_attention_heads
        width = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=config.bias) for _ in range(3))
        self.o_proj = ResidualLinear(width, width, bias=config.bias)
        self.q_norm, self.k_norm = (_norm(config, self.head_dim, config.qk_norm) for _ in range(2))
        self.kind, self.scaling = config.attention, self.head_dim ** (0.5 if config.attention == "cosine" else -0.5)
        interventions.freeze(self, self.kind)

    def forward(
        self, x: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, matrices: Matrices, real: Real
    ) -> tuple[Tensor, Tensor | None]:
        """Map x (B, T, D) to (B, T, D); the second value is (B, H, T, T) under eager softmax attention, else None."""
        projected = self._project(x, matrices.projections)
        query, key, value = (y.view(*x.shape[:-1], -1, self.head_dim) for y in projected)
        query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
        value = value.transpose(1, 2)
        if rotation is not None:
            query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        query, key = interventions.changed(self.kind, query, key, real, self.is_causal)
        name, dropout = self.config._attn_implementation, self.config.dropout if self.training else 0.0
        weights = None
        if self.kind == "sigmoid":
            mixed = interventions.sigmoid_attention(query, key, value, self.scaling, real, self.is_causal, dropout)
        elif self.training and name == "sdpa" and attention.applies(query, mask, dropout):
            mixed = attention.attend(query, key, value, self.is_causal, self.scaling)
        else:
            attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(name, _eager)
            options = {"dropout": dropout, "scaling": self.scaling, "is_causal": self.is_causal}
            mixed, weights = attend(self, query, key, value, mask, **options)
        return linear(self.o_proj, mixed.reshape(x.shape), matrices.output), weights

    def _project(self, x: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
        """Return queries, keys and values (B, T, D); in training by one product, which a device does faster."""
        maps = (self.q_proj, self.k_proj, self.v_proj)
        if weight is None:
            return tuple(project(x) for project in maps)
        bias = torch.cat([project.bias for project in maps]) if self.config.bias else None
        return nn.functional.linear(x, weight, bias).chunk(3, dim=-1)


def _eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **options: Any
) -> tuple[Tensor, Tensor]:
    logits = query @ key.transpose(-1, -2) * scaling
    weights = (logits if mask is None else logits + mask).softmax(dim=-1)
    weights = nn.functional.dropout(weights, options.get("dropout", 0.0), module.training)
    return (weights @ value).transpose(1, 2), weights


class Block(GradientCheckpointingLayer):
    """Attention and MLP, each on a residual branch, normalised before, after or not at all."""

    def __init__(self, config: CharTransformerConfig, layer_idx: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.pre, self.post = config.norm == "pre", config.norm == "post"
        self.attention_norm = _norm(config, width, config.norm != "none")
        self.attention = SelfAttention(config, layer_idx)
        self.mixes = config.attention != "none"
        if not self.mixes and self.pre:
            self.attention_norm.requires_grad_(False)
        self.mlp_norm = _norm(config, width, config.norm != "none")
        self.up = nn.Linear(width, 4 * width, bias=config.bias)
        self.down = ResidualLinear(4 * width, width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        matrices: Matrices = AS_THEY_ARE,
        real: Real = None,
    ) -> Tensor:
        """Map x (B, T, D) to the residual stream (B, T, D) after this block; `matrices` replace its own in training."""
        if self.mixes:
            inner = self.attention_norm(x) if self.pre else x
            x = x + self.dropout(self.attention(inner, mask, rotation, matrices, real)[0])
        x = self.attention_norm(x) if self.post else x
        hidden = linear(self.up, self.mlp_norm(x) if self.pre else x, matrices.up)
        x = x + self.dropout(linear(self.down, nn.functional.gelu(hidden), matrices.down))
        return self.mlp_norm(x) if self.post else x


class CharTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation and loading, shared by the trunk and the language model."""

    config: CharTransformerConfig
    config_class = CharTransformerConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012 (transformers' contract)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise like GPT-2: N(0, 0.02), residual projections scaled by 1/sqrt(2 L)."""
        super()._init_weights(module)
        if isinstance(module, ResidualLinear):
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            init.normal_(module.weight, std=std)


class CharTransformer(CharTransformerPreTrainedModel):
    """The trunk: token ids to the residual stream after the last block and its final norm."""

    def __init__(self, config: CharTransformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = _norm(config, config.hidden_size, config.norm == "pre")
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Shaped[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        output_hidden_states: bool = False,
        **_: object,
    ) -> BaseModelOutput:
        """Map token ids, or embeddings, to `last_hidden_state` (B, T, D), after the final norm.

        `attention_mask` is 0 at padding. `hidden_states`, on request, are layers 0..L before that norm.
        """
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        mask, real = self._mask(x, attention_mask), None if attention_mask is None else attention_mask.bool()
        if self.config.positions == "learned":
            if x.shape[1] > self.config.max_position_embeddings:
                raise InputError(
                    f"the input has {x.shape[1]} tokens, the model {self.config.max_position_embeddings} "
                    "learned positions: cut the input or train with a larger data.context."
                )
            table = self.embed_positions.weight
            x = x + (table if x.shape[1] == len(table) else table[: x.shape[1]])
        rotation = self._rotation(x) if self.config.positions == "rope" else None
        states = [x := self.dropout(x)]
        for layer, matrices in training_matrices(self.layers, x.device.type):
            x = layer(x, mask, rotation, matrices, real)
            if output_hidden_states:
                states.append(x)
        return BaseModelOutput(
            last_hidden_state=self.final_norm(x), hidden_states=tuple(states) if output_hidden_states else None
        )

    def _mask(self, x: Tensor, attention_mask: Tensor | None) -> Any:
        """Return the mask in the form that the attention function takes; None where `is_causal` says it all."""
        if attention_mask is None and self.config._attn_implementation in UNMASKED:
            return None  # a mask in full would cost the kernels that skip what is hidden: twice their time
        inputs: dict[str, Any] = {"config": self.config, "inputs_embeds": x, "attention_mask": attention_mask}
        causal = self.config.is_causal
        return create_causal_mask(**inputs, past_key_values=None) if causal else create_bidirectional_mask(**inputs)

    def _rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        width = self.config.hidden_size // self.config.num_attention_heads
        exponents = torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width
        positions = torch.arange(x.shape[1], device=x.device)
        angles = positions.float()[:, None] * self.config.rope_theta**-exponents
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class CharTransformerLM(CharTransformerPreTrainedModel):
    """The trunk with its tied output embedding; serves both objectives."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers' contract)

    def __init__(self, config: CharTransformerConfig) -> None:
        super().__init__(config)
        self.model = CharTransformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Int[Tensor, "B T"] | None = None, **inputs: Any) -> MaskedLMOutput:
        """Map token ids to `logits` (B, T, V); `inputs` are those of `CharTransformer.forward`."""
        output = self.model(input_ids, **inputs)
        return MaskedLMOutput(logits=self.lm_head(output.last_hidden_state), hidden_states=output.hidden_states)


transformers.AutoConfig.register("char_transformer", CharTransformerConfig)
transformers.AutoModel.register(CharTransformerConfig, CharTransformer)
transformers.AutoModelForCausalLM.register(CharTransformerConfig, CharTransformerLM)
transformers.AutoModelForMaskedLM.register(CharTransformerConfig, CharTransformerLM)
