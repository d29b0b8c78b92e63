"""`LanguageModel`: character-level training with either objective, as a LightningModule.

The mask (`is_causal`) and the objective (`clm` or `mlm`) are two switches. Causal + clm is the decoder,
bidirectional + mlm the encoder, causal + mlm separates the effect of the mask from that of the objective.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import AutoConfig, PreTrainedModel

from dynamics import lightning_compat
from dynamics.data.shares import steps_together
from dynamics.data.windows import CharData, WindowBatch
from dynamics.errors import InputError
from dynamics.models import architectures, optimizers
from dynamics.models.checkpointing import checkpoint_activations
from dynamics.models.cross_entropy import cross_entropy, ends_in_head, is_large, left_out
from dynamics.models.masking import MASKED_SHARE, Masks, choose, corrupt, draws
from dynamics.models.regularized import RegularizedModule
from dynamics.models.regularizers import Regularizer
from dynamics.models.transformer import CHOICES, CharTransformerConfig, CharTransformerLM
from dynamics.sharded import is_sharded

OBJECTIVES = ("clm", "mlm")
# Options that `CharTransformer` alone has, with their defaults.
OURS_ALONE = {"norm": "pre", "positions": "learned", "attention": "softmax", "qk_norm": False, "bias": False}
WEIGHT_DECAY = 0.1
MASK_STREAM, EVALUATION_STREAM = 1, 2  # keep these draws apart from those of the windows under the same (seed, step)


class Tokens(NamedTuple):
    """What the loss needs of the vocabulary."""

    mask_id: int
    characters: int  # ids of text
    per_character: float  # tokens that a character has on average


class LanguageModel(RegularizedModule):
    """Trains one language model from scratch: `CharTransformer`, or any text architecture of transformers.

    Args:
        architecture: `char_transformer`, or a model type of transformers (`llama`, `gpt_neox`, `bert`, ...).
        objective: `clm` predicts the next character, `mlm` the masked ones.
        is_causal: whether a position sees only its past.
        depth: blocks, L.
        width: width of the residual stream, D.
        heads: attention heads, H.
        overrides: further keys of the architecture's configuration, for example `{intermediate_size: 512}`.
        norm: `pre`, `post` or `none` (`char_transformer` alone, as the next four).
        positions: `learned`, `rope` or `none`.
        attention: `softmax`, `uniform`, `centered`, `cosine`, `sigmoid` or `none`; docs/arms.md says what each is.
        qk_norm: whether queries and keys are normalised.
        bias: whether linear maps and norms have biases (a key bias drifts by rounding noise: see the docs).
        dropout: dropout probability.
        optimizer: `adamw`; `adam`, the same without decay; `sgd`, with momentum; `muon`, on matrices of hidden layers,
            with adamw on the rest.
        learning_rate: peak learning rate; one serves all but sgd, which needs some hundred times as much.
        final_learning_rate: where the cosine ends, as a share of the peak.
        warmup_steps: optimiser steps of linear warm-up.
        weight_decay: of adamw and muon, on matrices only; the others have none.
        betas: Adam's; the first is the momentum of sgd.
        compile: whether training runs through torch.compile (measuring never does); by default on CUDA, for our own
            architecture.
        activation_checkpointing: whether layers are computed twice, for less memory, instead of kept whole for their
            gradients.
        regularizers: terms of the loss that change the residual stream (`dynamics.models.regularizers`).
        seed: decides the initial weights and the MLM masks; twins share it.
    """

    def __init__(
        self,
        architecture: str = "char_transformer",
        objective: str = "clm",
        is_causal: bool = True,
        depth: int = 6,
        width: int = 256,
        heads: int = 8,
        overrides: dict[str, Any] | None = None,
        norm: str = "pre",
        positions: str = "learned",
        attention: str = "softmax",
        qk_norm: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        final_learning_rate: float = 0.1,
        warmup_steps: int = 100,
        weight_decay: float = WEIGHT_DECAY,
        betas: tuple[float, float] = (0.9, 0.95),
        compile: bool | None = None,
        activation_checkpointing: bool = False,
        regularizers: list[Regularizer] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(regularizers)
        optimizers.refuse(optimizer, weight_decay, WEIGHT_DECAY)
        if objective not in OBJECTIVES:
            raise InputError(f"model.objective must be clm or mlm (got {objective}).")
        for name, value in {"depth": depth, "width": width, "heads": heads}.items():
            if value < 1:
                raise InputError(f"model.{name} must be at least 1 (got {value}).")
        for name, choice in {"norm": norm, "positions": positions, "attention": attention}.items():
            if choice not in CHOICES[name]:
                raise InputError(f"model.{name} must be one of {', '.join(CHOICES[name])} (got {choice}).")
        if width % heads:
            raise InputError(f"model.width {width} cannot be shared by {heads} heads: choose a number that divides it.")
        if warmup_steps < 0:
            raise InputError(f"model.warmup_steps must be at least 0 (got {warmup_steps}).")
        if not 0 <= dropout < 1:
            raise InputError(f"model.dropout must be at least 0 and less than 1 (got {dropout}).")
        if not 0 <= final_learning_rate <= 1:
            raise InputError(
                f"model.final_learning_rate must be a share of the peak, 0 to 1 (got {final_learning_rate})."
            )
        if objective == "clm" and not is_causal:
            raise InputError(
                "a bidirectional model with objective clm sees the character that it must predict: "
                "set model.objective mlm or model.is_causal true."
            )
        self.save_hyperparameters(ignore=["regularizers"])
        if architecture != architectures.DEFAULT:
            architectures.find(architecture)
            for key, default in OURS_ALONE.items():
                if self.hparams[key] != default:
                    raise InputError(f"model.{key} has no effect on architecture {architecture}; remove it.")
        self._mean = MeanMetric(nan_strategy="disable")  # which would ask the device at every batch

    def build(self, data: CharData) -> None:
        """Build the network for the data module's vocabulary and context, from `seed` alone."""
        vocabulary, hparams = data.text.vocabulary, self.hparams
        self.refuse_layers(hparams.depth)
        if hparams.objective == "mlm" and not round(MASKED_SHARE * data.hparams.context):
            raise InputError(
                f"of data.context {data.hparams.context} characters, {MASKED_SHARE:.0%} are none to mask: "
                "choose a longer context."
            )
        common = {
            "vocab_size": 1 + max(vocabulary.mask_id, vocabulary.pad_id),
            "hidden_size": hparams.width,
            "num_hidden_layers": hparams.depth,
            "num_attention_heads": hparams.heads,
            "max_position_embeddings": data.hparams.context,
            "is_causal": hparams.is_causal,
            "pad_token_id": vocabulary.pad_id,
        }
        overrides = hparams.overrides or {}
        if hparams.architecture == architectures.DEFAULT:
            settings = {**common, **{key: hparams[key] for key in (*OURS_ALONE, "dropout")}}
            architectures.refuse_overrides(overrides, CharTransformerConfig(), settings)
            network = architectures.draw(CharTransformerConfig(**settings, **overrides), hparams.seed)
        else:
            network = architectures.build(hparams.architecture, common, hparams.dropout, overrides, hparams.seed)
        self._take(network, Tokens(vocabulary.mask_id, vocabulary.size, data.text.tokens_per_character))

    def _take(self, network: PreTrainedModel, tokens: Tokens) -> None:
        self.network, self._tokens = network.train(), tokens
        if self.hparams.activation_checkpointing:
            checkpoint_activations(network)
        self._ends_in_head = not isinstance(network, CharTransformerLM) and ends_in_head(network)
        self._compiled: Callable[..., Tensor] | None = None
        self._masks: dict[int, tuple[Any, Masks]] = {}  # by the share's first row: what they were drawn for, and they

    def _training_entropy(self, ids: Tensor, targets: Tensor, positions: Tensor | None) -> Tensor:
        """Return `_cross_entropy`, compiled where asked for: one graph of trunk, head and loss."""
        ours, compile = isinstance(self.network, CharTransformerLM), self.hparams.compile
        if is_sharded(self.network) or not (ids.is_cuda and ours if compile is None else compile):
            return self._cross_entropy(ids, targets, positions)
        # Small models wait for launches more than for arithmetic: a CUDA graph launches a pass at once. It keeps its
        # results in place until it runs again, so they are for one pass an update, and the loss is copied.
        shares = self.trainer.accumulate_grad_batches if lightning_compat.has_trainer(self) else 1
        is_graph = ids.is_cuda and shares == 1 and not self.regularizers and not dist.is_initialized()
        if self._compiled is None:
            mode = "reduce-overhead" if is_graph else None
            self._compiled = torch.compile(self._cross_entropy, dynamic=False, mode=mode)
        if is_graph:
            torch.compiler.cudagraph_mark_step_begin()
        loss = self._compiled(ids, targets, positions)
        return loss.clone() if is_graph else loss

    def describe(self) -> dict[str, Any]:
        hparams, config = self.hparams, self.network.config
        mask = "causal" if hparams.is_causal else "bidirectional"
        architecture = [] if hparams.architecture == architectures.DEFAULT else [hparams.architecture]
        return {
            "label": ", ".join([*architecture, mask, hparams.objective]),
            **{key: hparams[key] for key in ("architecture", "objective", "is_causal")},
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": getattr(config, "num_attention_heads", 0),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `load_from_checkpoint` needs to build the network without data."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["network"] = {"config": self.network.config.to_diff_dict(), "tokens": self._tokens._asdict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not hasattr(self, "network"):
            config, tokens = (checkpoint["network"][key] for key in ("config", "tokens"))
            self._take(architectures.draw(AutoConfig.for_model(**config), self.hparams.seed), Tokens(**tokens))
        super().on_load_checkpoint(checkpoint)

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor of linear warm-up, then of a cosine to `final_learning_rate`."""
        warmup, final = self.hparams.warmup_steps, self.hparams.final_learning_rate
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.trainer.max_steps - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def _loss(self, batch: WindowBatch, stream: int, cross_entropy: Callable[..., Tensor]) -> Tensor:
        """Return the mean cross-entropy in nats a predicted character, over this share of the batch."""
        ids = batch.windows[:, :-1]
        if self.hparams.objective == "clm":
            return cross_entropy(ids, batch.windows[:, 1:], None)
        corrupted, positions, kept = self._corrupt(ids, batch, stream)
        return cross_entropy(corrupted, kept, positions)

    def _cross_entropy(self, ids: Tensor, targets: Tensor, positions: Tensor | None) -> Tensor:
        """Return the mean cross-entropy of `targets` at `positions` (None: all), where alone our own head runs."""
        network, head = self.network, None
        if isinstance(network, CharTransformerLM) and not is_sharded(network):
            head, states = network.lm_head, network.model(ids).last_hidden_state
        elif self._can_leave_head_out(ids):
            with left_out(head := network.get_output_embeddings()):
                states = network(input_ids=ids).logits
        else:
            states = network(input_ids=ids).logits
        if positions is not None:
            states = states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
        return cross_entropy(head, states, targets)

    def _can_leave_head_out(self, ids: Tensor) -> bool:
        """Return whether the logits of another's network, which are too many, can be made in parts."""
        if is_sharded(self.network) and isinstance(self.network, CharTransformerLM):
            return True  # its pass gathers the weights
        is_left_out = self._ends_in_head and not torch.compiler.is_compiling()
        return is_left_out and is_large(ids.numel(), self.network.get_output_embeddings())

    def _corrupt(self, ids: Tensor, batch: WindowBatch, stream: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mask a share of a step; a device draws the masks of some steps of training at once and keeps them so long."""
        together = steps_together(ids.numel(), ids.device) if stream == MASK_STREAM else 1
        first = batch.step - batch.step % together
        key, drawn = (stream, first, ids.shape, ids.device), self._masks.get(batch.first)
        if drawn is None or drawn[0] != key:
            # Places are those in the whole step, so that ranks and accumulation do not matter.
            place = batch.first * ids.shape[1]
            places = torch.arange(place, place + ids.numel(), device=ids.device).view(ids.shape)
            bits = draws(self.hparams.seed, stream, range(first, first + together), places)
            drawn = key, choose(bits, self._tokens.mask_id, self._tokens.characters)
        if stream == MASK_STREAM:
            self._masks[batch.first] = drawn
        return corrupt(ids, Masks(*(x[batch.step - first] for x in drawn[1])))

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        return self.training_loss(lambda: self._loss(batch, MASK_STREAM, self._training_entropy), self.network, None)

    def train_values(self, values: dict[str, float]) -> dict[str, float]:
        """Add bits per character to the nats: the task's, whatever a regulariser adds."""
        return {**values, **self._bits(values.get("task_loss", values["loss"]))}

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        loss = self._loss(batch, EVALUATION_STREAM, self._cross_entropy)
        self._mean.update(loss, weight=torch.full((), float(len(batch.windows)), device=loss.device))

    test_step = validation_step

    def evaluation(self, name: str) -> dict[str, float | Tensor]:
        loss = self._mean.compute()
        self._mean.reset()
        return {"loss": loss, **self._bits(loss)}

    def _bits(self, loss: Any) -> dict[str, Any]:
        """Return bits a character, of which one may be several bytes, from nats a token; masked ones by their name."""
        covered = "masked_" if self.hparams.objective == "mlm" else ""
        return {f"bits_per_{covered}character": loss / math.log(2) * self._tokens.per_character}
