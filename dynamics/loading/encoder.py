"""Text to token ids: a model's tokenizer, or bytes where it has none."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer

from dynamics.loading.models import Loaded
from dynamics.models import hub

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("*token*", "vocab*", "*.model")


@dataclass(frozen=True)
class Encoder:
    """Text to ids."""

    ids: Callable[[str], list[int]]  # of a text, without special tokens
    prefix: tuple[int, ...]  # special tokens that a window begins with
    suffix: tuple[int, ...]  # and ends with
    pad: int  # id for padding
    limit: int  # longest window in tokens that the model takes; 0 for no limit
    name: str  # of the tokenizer, for the record
    token: Callable[[int], str] = str  # the text of an id
    pads: bool = True  # whether the tokenizer has a padding token

    def window(self, ids: list[int]) -> list[int]:
        """Return ids with the special tokens around them."""
        return [*self.prefix, *ids, *self.suffix]

    @property
    def specials(self) -> int:
        """Number of special tokens in a window."""
        return len(self.prefix) + len(self.suffix)


def encoder(loaded: Loaded, name: str | None) -> Encoder:
    """Return the tokenizer of that name, or the model's own; bytes where it has none, with a warning."""
    limit = _longest(loaded.model)
    source = "" if name == "bytes" else name or loaded.source
    if source and (name or not Path(source).is_dir() or any(any(Path(source).glob(kind)) for kind in TOKENIZER_FILES)):
        load, label = AutoTokenizer.from_pretrained, f"the tokenizer of {source}"
        return _from_tokenizer(hub.fetch(load, source, name=label, trust_remote_code=loaded.trusted), limit)
    if getattr(loaded.config, "model_type", "") == "canine":
        return Encoder(lambda text: list(map(ord, text)), (0xE000,), (0xE001,), 0, limit, "code points", chr)
    if source:
        log.warning("%s brings no tokenizer, so it is given bytes: name its own with --tokenizer", source)
    span = min(256, max((getattr(loaded.config, "vocab_size", None) or 259) - 3, 1))
    label = "UTF-8 bytes + 3" if span == 256 else f"UTF-8 bytes + 3, folded into {span} ids"
    return Encoder(lambda text: [3 + byte % span for byte in text.encode()], (), (), 0, limit, label)


def _from_tokenizer(tokenizer: Any, longest: int) -> Encoder:
    bare, full = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), None)
    prefix, suffix = ((), ()) if at is None else (full[:at], full[at + len(bare) :])
    stated = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 0
    pads = tokenizer.pad_token_id is not None
    return Encoder(
        ids=lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
        prefix=tuple(prefix),
        suffix=tuple(suffix),
        pad=tokenizer.pad_token_id if pads else 0,
        limit=min(filter(None, (stated, longest)), default=0),
        name=type(tokenizer).__name__,
        token=lambda number: str(tokenizer.convert_ids_to_tokens(number)),
        pads=pads,
    )


def _longest(model: nn.Module) -> int:
    """Return how many tokens a model takes; 0 where its configuration does not say."""
    config = getattr(model, "config", None)
    keys = ("max_position_embeddings", "n_positions", "max_seq_len")
    longest = next((limit for key in keys if (limit := int(getattr(config, key, 0) or 0))), 0)
    for name, module in model.named_modules():
        if re.search(r"(?<!relative_)position_embeddings$", name) and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from its padding index.
            rows = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            longest = min(longest or rows, rows)
    return max(longest, 0)
