"""Text to token ids: files, corpora and data sets, cut into windows or taken line by line."""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamics.data import corpus as corpora
from dynamics.errors import InputError
from dynamics.loading.inputs import Batches, Source, chunks, digest
from dynamics.loading.models import Loaded
from dynamics.loading.options import InputOptions
from dynamics.models import hub

log = logging.getLogger(__name__)

CONTEXT = 512
"""Tokens in a window of running text, where the model reaches that far."""
BLOCK = 1 << 16
"""Characters that are read and tokenised at a time."""
SORTED = 16
"""Batches of lines that are put in order of length together: less padding, the same tokens."""
CORPUS_TOKENS = 65_536
"""Tokens taken of a corpus or a data set where --tokens does not say."""
HUB = "hub:"
VOCABULARIES = ("*token*", "vocab*", "*.model")
"""Files that tell of a tokenizer in a folder."""


@dataclass(frozen=True)
class Encoder:
    """Text to ids: `ids` without special tokens, and what a window begins and ends with.

    `limit` is the longest window in tokens that the model takes; 0 for no limit. `token` gives the text of an id;
    `pads` tells whether the tokenizer knows a padding token.
    """

    ids: Callable[[str], list[int]]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    limit: int
    name: str
    token: Callable[[int], str] = str
    pads: bool = True

    def window(self, ids: list[int]) -> list[int]:
        """Ids with the special tokens around them."""
        return [*self.prefix, *ids, *self.suffix]

    @property
    def specials(self) -> int:
        return len(self.prefix) + len(self.suffix)


def encoder(loaded: Loaded, named: str | None) -> Encoder:
    """The tokenizer of a model, or the one named; bytes where there is none (told where weights were trained).

    Raises:
        InputError: it cannot be loaded.
    """
    reach = _reach(loaded.model)
    source = "" if named == "bytes" else named or loaded.source
    if (named and source) or _has_tokenizer(source):
        return _wrap(_tokenizer(source, loaded), reach)
    kind = getattr(loaded.config, "model_type", "")
    size = getattr(loaded.config, "vocab_size", None) or 259
    if kind == "canine":
        return Encoder(
            lambda text: [ord(letter) for letter in text], (0xE000,), (0xE001,), 0, reach, "code points", chr
        )
    if source:
        log.warning("%s brings no tokenizer, so it is given bytes: name its own with --tokenizer", source)
    span = min(256, max(size - 3, 1))
    name = "UTF-8 bytes + 3" if span == 256 else f"UTF-8 bytes + 3, folded into {span} ids"
    return Encoder(lambda text: [3 + byte % span for byte in text.encode()], (), (), 0, reach, name)


def _has_tokenizer(source: str) -> bool:
    path = Path(source)
    return bool(source) and (not path.is_dir() or any(any(path.glob(kind)) for kind in VOCABULARIES))


def _tokenizer(source: str, loaded: Loaded) -> Any:
    from transformers import AutoTokenizer

    load, name = AutoTokenizer.from_pretrained, f"the tokenizer of {source}"
    return hub.fetch(load, source, name=name, trust_remote_code=loaded.trusted)


def _wrap(tokenizer: Any, reach: int) -> Encoder:
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), None)
    prefix, suffix = ((), ()) if at is None else (full[:at], full[at + len(bare) :])
    told = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 0
    limit = min((bound for bound in (told, reach) if bound), default=0)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def token(number: int) -> str:
        return str(tokenizer.convert_ids_to_tokens(number))

    name, pads = type(tokenizer).__name__, tokenizer.pad_token_id is not None
    return Encoder(ids, tuple(prefix), tuple(suffix), pad, limit, name, token, pads)


def _reach(model: nn.Module) -> int:
    """How many tokens a model takes; 0 where its configuration does not say."""
    config = getattr(model, "config", None)
    reach = 0
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        reach = reach or int(getattr(config, key, 0) or 0)
    for name, module in model.named_modules():
        if re.search(r"(?<!relative_)position_embeddings$", name) and isinstance(module, nn.Embedding):
            # RoBERTa counts on from its padding.
            rows = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            reach = min(reach or rows, rows)
    return max(reach, 0)


def source(options: InputOptions) -> Source:
    """The text that a scan reads: lines or blocks of running text."""
    name = options.text or "auto"
    synthetic = {"synthetic": "shuffled"} if options.shuffled else {}
    if name.startswith(HUB):
        return _hub(name.removeprefix(HUB), synthetic)
    path = Path(name)
    if path.suffix == ".txt" or (path.is_file() and not path.suffixes):
        if not path.is_file():
            raise InputError(f"--text {name}: there is no such file.")
        facts = {"source": str(path), "sha256": digest([path]), "bytes": path.stat().st_size, **synthetic}
        return Source(lambda: _lines(path) if options.lines else _blocks(path), facts)
    if options.lines:
        raise InputError(f"--lines needs a text file ending with .txt (got --text {name}).")
    found = corpora.load(name)
    text = found.text("validation")
    facts = {
        "source": f"{found.source}, validation split",
        "sha256": found.sha256,
        "recipe": found.recipe,
        **synthetic,
    }
    parts = range(0, len(text), BLOCK)
    return Source(lambda: ((text[at : at + BLOCK], min(1.0, (at + BLOCK) / len(text))) for at in parts), facts)


def _lines(path: Path) -> Iterator[tuple[str, float]]:
    size, read = path.stat().st_size or 1, 0
    with path.open("rb") as file:
        for line in file:
            read += len(line)
            if text := _decode(line, path).strip():
                yield text, read / size


def _blocks(path: Path) -> Iterator[tuple[str, float]]:
    """Running text in blocks that end with a line or, failing that, a space."""
    size, read, rest = path.stat().st_size or 1, 0, b""
    with path.open("rb") as file:
        while part := file.read(BLOCK):
            read += len(part)
            part = rest + part
            cut = max(part.rfind(b"\n"), part.rfind(b" ") if b"\n" not in part else -1) + 1
            if cut == 0 and len(part) < 8 * BLOCK:
                rest = part
                continue
            cut = cut or len(part)
            yield _decode(part[:cut], path), read / size
            rest = part[cut:]
    if rest.strip():
        yield _decode(rest, path), 1.0


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}): convert it (iconv can).") from error


def _hub(name: str, synthetic: dict[str, str]) -> Source:
    """A data set by `datasets`: NAME[:CONFIG[:SPLIT[:COLUMN]]]; each record is one input."""
    import datasets

    title, config, split, column = [*name.split(":"), "", "", "", ""][:4]
    split, column = split or "train", column or "text"
    try:
        data = datasets.load_dataset(title, config or None, split=split, streaming=True)
        columns = data.column_names or list(next(iter(data)))
    except Exception as error:  # `datasets` raises whatever its many loaders do
        message = " ".join(str(error).split())[:200]
        raise InputError(f"--text {HUB}{name} cannot be loaded ({type(error).__name__}: {message}).") from error
    if column not in columns:
        raise InputError(f"--text {HUB}{name} has no column {column}: choose from {', '.join(columns)}.")
    facts = {"source": f"{title} {config} {split} {column}".replace("  ", " "), "sha256": None, **synthetic}
    return Source(lambda: ((str(row[column]), 0.0) for row in data if row[column]), facts)


def batches(loaded: Loaded, options: InputOptions, given: Source, by_line: bool) -> Batches:
    """Batches of padded windows: `input_ids` and `attention_mask`, both (B, T)."""
    if loaded.encode is not None:
        return _encoded(loaded, options, given)
    code = encoder(loaded, options.tokenizer)
    longest = code.limit or CONTEXT
    length = min(options.context or (longest if by_line else min(longest, CONTEXT)), longest)
    budget = options.tokens or (None if Path(options.text or "").is_file() else CORPUS_TOKENS)
    for name, room in (("context", length), ("tokens", budget)):
        if room is not None and room <= code.specials:
            raise InputError(f"--{name} {room} leaves no room beside {code.specials} special tokens.")
    facts: dict[str, Any] = {"tokenizer": code.name, "context": length}

    def windows() -> Iterator[tuple[list[int], float]]:
        room = length - code.specials
        made = _by_line(given, code, room, facts) if by_line else _running(given, code, room)
        taken = 0
        for number, (ids, share) in enumerate(made):
            left = budget - taken - code.specials if budget else len(ids)
            if (options.inputs and number >= options.inputs) or left <= 0:
                break
            ids = ids[:left]
            if options.shuffled:
                order = np.random.default_rng((options.seed, number)).permutation(len(ids))
                ids = [ids[i] for i in order]
            window = code.window(ids)
            taken += len(window)
            yield window, max(share, taken / budget if budget else 0.0)

    def make() -> Iterator[tuple[dict[str, Tensor], int, float]]:
        facts["truncated"] = 0
        for group in chunks(windows(), options.batch_size * (SORTED if by_line else 1)):
            share = max(part for _, part in group)
            ordered = sorted((ids for ids, _ in group), key=len, reverse=True)
            for part in chunks(iter(ordered), options.batch_size):
                yield pad(part, code.pad), len(part), share

    return Batches(make, facts, given)


def _by_line(given: Source, code: Encoder, room: int, facts: dict[str, Any]) -> Iterator[tuple[list[int], float]]:
    for text, share in given.items():
        ids = code.ids(text)
        facts["truncated"] += len(ids) > room
        if ids:
            yield ids[:room], share


def _running(given: Source, code: Encoder, room: int) -> Iterator[tuple[list[int], float]]:
    waiting: list[int] = []
    share = 1.0
    for text, share in given.items():
        waiting += code.ids(text)
        for at in range(0, len(waiting) - room + 1, room):
            yield waiting[at : at + room], share
        waiting = waiting[len(waiting) - len(waiting) % room :]
    if waiting:
        yield waiting, share


def pad(windows: list[list[int]], value: int) -> dict[str, Tensor]:
    """Windows of any lengths as a batch, padded at the end.

    >>> pad([[5, 6, 7], [8]], 0)["input_ids"].tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    width = max(map(len, windows))
    ids = torch.tensor([[*window, *[value] * (width - len(window))] for window in windows])
    lengths = torch.tensor([len(window) for window in windows])
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def _encoded(loaded: Loaded, options: InputOptions, given: Source) -> Batches:
    """Texts through the encoder that a model brings itself: its batches are its own business.

    Without `lines` a text is cut into windows of `context` characters.
    """
    options.refuse_unused(("shuffled", "tokens", "tokenizer"), "on a module that encodes its texts itself")

    def make() -> Iterator[tuple[dict[str, Tensor], int, float]]:
        texts = given.items()
        if not options.lines:
            width = options.context or CONTEXT
            texts = ((text[at : at + width], share) for text, share in texts for at in range(0, len(text), width))
        for part in chunks(islice(texts, options.inputs), options.batch_size):
            assert loaded.encode is not None
            yield dict(loaded.encode([text for text, _ in part])), len(part), part[-1][1]

    return Batches(make, {"tokenizer": "the module's own"}, given)
