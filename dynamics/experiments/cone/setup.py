"""How a model makes vectors of sentences, as its own configuration says.

Sentence-transformers keeps `modules.json` (what follows the transformer), `1_Pooling/config.json`, perhaps
`2_Dense/`, `config_sentence_transformers.json` (prompts) and `sentence_bert_config.json` (length, case) beside the
weights. Older versions keep the transformer, with its length and case, in a folder of its own (`0_Transformer`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dynamics.errors import InputError
from dynamics.experiments.cone.pooling import MODES, Dense, dense
from dynamics.readers import read_json

_NAMES = {
    "mean_tokens": "mean",
    "cls_token": "cls",
    "lasttoken": "last",
    "max_tokens": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean_tokens": "weightedmean",
}
# Kinds of transformers in older versions, and how the files of their limits are called.
_TRANSFORMERS = ("Transformer", "BERT", "RoBERTa", "DistilBERT", "ALBERT", "XLNet", "CamemBERT", "XLMRoBERTa", "T5")
_LIMITS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
Find = Callable[[str], Path | None]


@dataclass(frozen=True)
class Setup:
    """How sentences become vectors."""

    mode: str = "mean"  # a key of `MODES`
    normalize: bool = False  # the model returns vectors of length one
    prompt: str = ""  # put before every sentence
    counts_prompt: bool = True  # its tokens are pooled as well
    length: int = 0  # tokens of a sentence at most; 0 where only the model says
    lower: bool = False  # sentences are put in lower case
    source: str = "default"  # `sentence-transformers` where the model brought a configuration
    guessed: str = ""  # why the mode is a guess; empty where it is an option, or the model has no files to read it from
    dense: tuple[Dense, ...] = ()  # layers that the pooled vectors go through
    left_out: tuple[str, ...] = ()  # modules after the pooling that are not applied

    def prepare(self, sentence: str) -> str:
        """Return a sentence as the tokenizer gets it."""
        text = self.prompt + sentence
        return text.lower() if self.lower else text

    def notes(self, model: str) -> Iterator[str]:
        """Yield warnings about the model of this name: a guessed pooling, modules that are left out."""
        if self.guessed:
            yield f"{model}: its pooling is guessed to be the mean ({self.guessed}); give --pooling if you know it"
        if self.left_out:
            yield f"{model}: vectors are taken before {', '.join(self.left_out)}, which is not applied"

    def facts(self) -> dict[str, Any]:
        """Return the setup for the record: layers in words."""
        return {**asdict(self), "dense": [str(layer) for layer in self.dense]}


def read_setup(
    source: str,
    revision: str = "main",
    pooling: str | None = None,
    prompt: str | None = None,
    normalize: bool | None = None,
) -> Setup:
    """Return the setup of a model; the arguments win over its own configuration.

    Args:
        source: a folder or a hub name; empty for a model without files.
        prompt: the name of one of the model's prompts, or the text itself.

    Raises:
        InputError: a mode does not exist, or a configuration cannot be read.
    """
    if pooling is not None and pooling not in MODES:
        raise InputError(f"--pooling must be one of {', '.join(MODES)} (got {pooling}).")
    find = partial(_find, source, revision)
    modules = _json(find("modules.json"))
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        modules = []
    kinds = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
    paths = dict(kinds)
    file = f"{paths['Pooling']}/config.json" if "Pooling" in paths else ""
    configured = _json(find(file)) if file else None
    guessed = ""
    if source and pooling is None and not isinstance(configured, dict):
        guessed = f"there is no {(file or 'pooling in its modules.json') if modules else 'modules.json'}"
    if not modules:
        return Setup(pooling or "mean", bool(normalize), prompt or "", guessed=guessed)
    configured, first = _mapping(configured), f"{kinds[0][1]}/" * bool(kinds[0][1])
    limits = _mapping(
        _json(next(filter(None, (find(f"{first}sentence_{kind}_config.json") for kind in _LIMITS)), None))
    )
    prompting = _mapping(_json(find("config_sentence_transformers.json")))
    prompts = _mapping(prompting.get("prompts"))
    wanted = prompting.get("default_prompt_name") or "" if prompt is None else prompt
    layers, left_out = _after_pooling(find, kinds)
    return Setup(
        mode=pooling or _mode(source, configured),
        normalize="Normalize" in paths if normalize is None else normalize,
        prompt=str(prompts.get(wanted, "" if prompt is None else prompt)),
        counts_prompt=bool(configured.get("include_prompt", True)),
        length=int(limits.get("max_seq_length") or 0),
        lower=bool(limits.get("do_lower_case")),
        source="sentence-transformers",
        guessed=guessed,
        dense=layers,
        left_out=left_out,
    )


def _after_pooling(find: Find, kinds: Sequence[tuple[str, str]]) -> tuple[tuple[Dense, ...], tuple[str, ...]]:
    """Return the dense layers between pooling and normalisation, and modules that are not applied.

    Where a chain cannot be followed to its end, the rest of it is left out.
    """
    layers: list[Dense] = []
    left_out: list[str] = []
    for place, (kind, path) in enumerate(kinds):
        if kind in (*_TRANSFORMERS, "Pooling", "Normalize"):
            continue
        layer = None
        if kind == "Dense" and not left_out and "Normalize" not in dict(kinds[:place]):
            layer = dense(_mapping(_json(find(f"{path}/config.json"))), find(f"{path}/model.safetensors"))
        if layer is None:
            left_out.append(kind)
        else:
            layers.append(layer)
    return tuple(layers), tuple(left_out)


def _mode(source: str, configured: Mapping[str, Any]) -> str:
    name = configured.get("pooling_mode")
    if isinstance(name, str):
        modes = [_NAMES.get(name, name)]
    else:
        modes = [mode for key, mode in _NAMES.items() if configured.get(f"pooling_mode_{key}")] or ["mean"]
    if len(modes) > 1 or modes[0] not in MODES:
        pools, choices = " and ".join(modes), ", ".join(MODES)
        raise InputError(f"{source} pools by {pools}, which is not implemented: choose a --pooling of {choices}.")
    return modes[0]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path | None) -> Any:
    """Return the content of a model's file; None where it has none."""
    return None if path is None else read_json(path, Any, "fix it, or delete it and give --pooling")


def _find(source: str, revision: str, name: str) -> Path | None:
    """Return a file of a folder or of the hub, fetched or from its cache; None where there is none."""
    if not source:
        return None
    from transformers.utils.hub import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        path = cached_file(source, name, revision=revision, **quiet)
    except (OSError, ValueError):
        return None
    return Path(path) if path else None
