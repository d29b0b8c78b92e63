"""Token states to sentence vectors, as a sentence encoder's own configuration says.

Sentence-transformers keeps `modules.json` (what follows the transformer), `1_Pooling/config.json`,
`config_sentence_transformers.json` (prompts) and `sentence_bert_config.json` (length, case) beside the weights.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.errors import Refusal

log = logging.getLogger(__name__)

Pool = Callable[[Tensor, Tensor], Tensor]


def mean(x: Tensor, kept: Tensor) -> Tensor:
    """Mean of the kept tokens: x (B, T, d), kept (B, T) boolean -> (B, d)."""
    return (x * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)


def cls(x: Tensor, kept: Tensor) -> Tensor:
    """The first kept token."""
    return x[torch.arange(len(x), device=x.device), kept.int().argmax(1)]


def last(x: Tensor, kept: Tensor) -> Tensor:
    """The last kept token."""
    return x[torch.arange(len(x), device=x.device), kept.shape[1] - 1 - kept.int().flip(1).argmax(1)]


def largest(x: Tensor, kept: Tensor) -> Tensor:
    """The largest value of each coordinate over the kept tokens."""
    return x.masked_fill(~kept[..., None], -torch.inf).amax(1)


MODES: dict[str, Pool] = {"mean": mean, "cls": cls, "last": last, "max": largest}
_KEYS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_NAMES = {"lasttoken": "last", "mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}


@dataclass(frozen=True)
class Setup:
    """How sentences become vectors.

    Args:
        mode: a key of `MODES`.
        normalize: vectors have length one where the model hands them out.
        prompt: put before every sentence.
        counts_prompt: its tokens are pooled as well.
        length: tokens of a sentence at most; 0 where only the model says.
        lower: sentences are put in lower case.
        source: `sentence-transformers` where the model brought a configuration, else `default`.
        left_out: modules that follow the pooling and are not applied.
    """

    mode: str = "mean"
    normalize: bool = False
    prompt: str = ""
    counts_prompt: bool = True
    length: int = 0
    lower: bool = False
    source: str = "default"
    left_out: tuple[str, ...] = field(default=())

    def prepare(self, sentence: str) -> str:
        """A sentence as the tokenizer gets it."""
        text = self.prompt + sentence
        return text.lower() if self.lower else text


def setup(
    source: str,
    revision: str = "main",
    pooling: str | None = None,
    prompt: str | None = None,
    normalize: bool | None = None,
) -> Setup:
    """The setup of a model that lies at `source` (a folder or a hub name), with what was asked for instead.

    Args:
        source: empty for a model without files.
        revision: of a hub repository.
        pooling: a key of `MODES`.
        prompt: the name of one of the model's prompts, or the text itself.
        normalize: whether vectors are to have length one.

    Raises:
        Refusal: a mode is not known, or a configuration cannot be read.
    """
    if pooling is not None and pooling not in MODES:
        raise Refusal(f"there is no --pooling {pooling}: choose {', '.join(MODES)}.")

    def told(name: str) -> Any:
        return _json(source, revision, name)

    modules = told("modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        modules = []
    kinds = {str(module.get("type", "")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    configured = _mapping(told(f"{kinds['Pooling']}/config.json")) if "Pooling" in kinds else {}
    if not modules:
        return Setup(pooling or "mean", bool(normalize), prompt or "")
    prompts = _mapping(told("config_sentence_transformers.json"))
    limits = _mapping(told("sentence_bert_config.json"))
    left_out = tuple(kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize"))
    if left_out:
        log.warning("%s: vectors are taken before %s, which is not applied", source, ", ".join(left_out))
    return Setup(
        pooling or _mode(source, configured),
        "Normalize" in kinds if normalize is None else normalize,
        _prompt(prompts, prompt),
        bool(configured.get("include_prompt", True)),
        int(limits.get("max_seq_length") or 0),
        bool(limits.get("do_lower_case")),
        "sentence-transformers",
        left_out,
    )


def _mode(source: str, configured: Mapping[str, Any]) -> str:
    named = configured.get("pooling_mode")
    if isinstance(named, str):
        modes = [_NAMES.get(named, named)]
    else:
        modes = [mode for key, mode in _KEYS.items() if configured.get(key)] or ["mean"]
    if len(modes) > 1 or modes[0] not in MODES:
        raise Refusal(
            f"{source} pools by {' and '.join(modes)}, which is not offered: choose with --pooling {', '.join(MODES)}."
        )
    return modes[0]


def _prompt(configured: Mapping[str, Any], asked: str | None) -> str:
    prompts = _mapping(configured.get("prompts"))
    if asked is not None:
        return str(prompts.get(asked, asked))
    return str(prompts.get(configured.get("default_prompt_name") or "", ""))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(source: str, revision: str, name: str) -> Any:
    """A file of a model as JSON; None where it has none."""
    path = Path(source) / name if Path(source).is_dir() else _cached(source, revision, name)
    if not source or path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise Refusal(f"{path} is no JSON ({error}): mend it, or name --pooling and leave it out.") from error


def _cached(source: str, revision: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(
            source,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
    return Path(found) if found else None
