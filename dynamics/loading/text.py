"""Texts: files, corpora and data sets, cut into windows of token ids or taken line by line."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamics.data import corpus as corpora
from dynamics.errors import InputError, in_words
from dynamics.loading.encoder import Encoder, encoder
from dynamics.loading.inputs import Batches, Counted, Encode, Facts, InputSource, chunks, digest, encoded
from dynamics.loading.models import Loaded
from dynamics.loading.options import InputOptions

CONTEXT = 512  # tokens in a window of running text, where the model takes as many
BLOCK = 1 << 16  # characters that are read and tokenised at a time
SORTED = 16  # batches of lines that are sorted by length together: less padding, the same tokens
CORPUS_TOKENS = 65_536  # tokens taken of a corpus or a data set without --tokens
HUB = "hub:"

Texts = Iterator[tuple[str, float]]
Windows = Iterator[tuple[list[int], float]]


def open_text(options: InputOptions) -> InputSource:
    """Return the text of `--text`: lines, records or blocks of running text."""
    name = options.text or "auto"
    synthetic = {"synthetic": "shuffled"} if options.shuffled else {}
    if name.startswith(HUB):
        return _open_data_set(name.removeprefix(HUB), synthetic)
    path = Path(name)
    if path.suffix == ".txt" or (path.is_file() and not path.suffixes):
        if not path.is_file():
            raise InputError(f"--text {name}: there is no such file.")
        facts = {"source": str(path), "sha256": digest([path]), "bytes": path.stat().st_size, **synthetic}
        file = InputSource(lambda: _lines(path, file) if options.lines else _blocks(path), facts)
        return file
    if options.lines:
        raise InputError(f"--lines needs a text file that ends with .txt (got --text {name}).")
    corpus = corpora.load(name)
    text = corpus.text("validation")
    facts = {
        "source": f"{corpus.source}, validation split",
        "sha256": corpus.sha256,
        "recipe": corpus.recipe,
        **synthetic,
    }
    starts = range(0, len(text), BLOCK)
    return InputSource(lambda: ((text[at : at + BLOCK], min(1.0, (at + BLOCK) / len(text))) for at in starts), facts)


def _lines(path: Path, source: InputSource) -> Texts:
    size = path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as error:
                source.skip(f"line {number} of {path.name}", error)
                continue
            if text:
                yield text, file.tell() / size


def _blocks(path: Path) -> Texts:
    """Yield running text in blocks that end with a line or, failing that, a space."""
    size, rest = path.stat().st_size, b""
    with path.open("rb") as file:
        while part := file.read(BLOCK):
            rest += part
            cut = (rest.rfind(b"\n") + 1 or rest.rfind(b" ") + 1) or (len(rest) if len(rest) >= 8 * BLOCK else 0)
            if cut:
                yield _decode(rest[:cut], path), file.tell() / size
            rest = rest[cut:]
    if rest.strip():
        yield _decode(rest, path), 1.0


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}): convert it (iconv can).") from error


def _open_data_set(name: str, synthetic: dict[str, str]) -> InputSource:
    """Open a data set of `datasets`, NAME[:CONFIG[:SPLIT[:COLUMN]]]; each record is one input."""
    import datasets

    title, config, split, column = [*name.split(":"), "", "", ""][:4]
    split, column = split or "train", column or "text"
    try:
        data = datasets.load_dataset(title, config or None, split=split, streaming=True)
        columns = data.column_names or list(next(iter(data)))
    except Exception as error:  # `datasets` raises whatever its many loaders do
        raise InputError(f"--text {HUB}{name} cannot be loaded ({in_words(error)}).") from error
    if column not in columns:
        raise InputError(f"--text {HUB}{name} has no column {column}: choose from {', '.join(columns)}.")
    facts = {"source": f"{title} {config} {split} {column}".replace("  ", " "), "sha256": None, **synthetic}

    def items() -> Texts:
        for number, row in enumerate(data):
            if isinstance(text := row[column], str):
                if text:
                    yield text, 0.0
            elif text is not None:
                source.skip(f"row {number} of {title}", TypeError(f"{column} holds {type(text).__name__}, not text"))

    source = InputSource(items, facts)
    return source


def text_batches(loaded: Loaded, options: InputOptions, source: InputSource) -> Batches:
    """Return batches of padded windows: `input_ids` and `attention_mask`, both (B, T)."""
    if loaded.encode is not None:
        return _batches_by_module(loaded.encode, options, source)
    code = encoder(loaded, options.tokenizer)
    by_line = options.lines or (options.text or "").startswith(HUB)
    longest = code.limit or CONTEXT
    context = min(options.context or (longest if by_line else min(longest, CONTEXT)), longest)
    budget = options.tokens or (None if Path(options.text or "").is_file() else CORPUS_TOKENS)
    for name, room in (("context", context), ("tokens", budget)):
        if room is not None and room <= code.specials:
            raise InputError(f"--{name} {room} leaves no room beside {code.specials} special tokens.")
    facts: Facts = {"tokenizer": code.name, "context": context}

    def windows() -> Windows:
        room = context - code.specials
        uncut = _by_line(source, code, room, facts) if by_line else _running(source, code, room)
        taken = 0
        for number, (ids, share) in enumerate(uncut):
            left = budget - taken - code.specials if budget else len(ids)
            if number == options.inputs or left <= 0:
                break
            ids = ids[:left]
            if options.shuffled:
                order = np.random.default_rng((options.seed, number)).permutation(len(ids))
                ids = [ids[i] for i in order]
            taken += len(ids) + code.specials
            yield code.window(ids), max(share, taken / budget if budget else 0.0)

    def make() -> Iterator[Counted]:
        if by_line:
            facts["truncated"] = 0
        for group in chunks(windows(), options.batch_size * (SORTED if by_line else 1)):
            share = max(share for _, share in group)
            ordered = sorted((ids for ids, _ in group), key=len, reverse=True)
            for part in chunks(iter(ordered), options.batch_size):
                yield pad(part, code.pad), len(part), share

    return Batches(make, source, facts)


def _by_line(source: InputSource, code: Encoder, room: int, facts: Facts) -> Windows:
    for text, share in source.items():
        ids = code.ids(text)
        facts["truncated"] += len(ids) > room
        if ids:
            yield ids[:room], share


def _running(source: InputSource, code: Encoder, room: int) -> Windows:
    waiting: list[int] = []
    share = 1.0
    for text, share in source.items():
        waiting += code.ids(text)
        for at in range(0, len(waiting) - room + 1, room):
            yield waiting[at : at + room], share
        waiting = waiting[len(waiting) - len(waiting) % room :]
    if waiting:
        yield waiting, share


def pad(windows: list[list[int]], value: int) -> dict[str, Tensor]:
    """Return windows of any lengths as a batch, padded at the end.

    >>> pad([[5, 6, 7], [8]], 0)["input_ids"].tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    width = max(map(len, windows))
    ids = torch.tensor([[*window, *[value] * (width - len(window))] for window in windows])
    lengths = torch.tensor([len(window) for window in windows])
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def _batches_by_module(encode: Encode, options: InputOptions, source: InputSource) -> Batches:
    """Return texts as the model's own function encodes them; without --lines cut after --context characters."""
    options.refuse_unused(("shuffled", "tokens", "tokenizer"), "on a module that encodes its texts itself")

    def make() -> Iterator[Counted]:
        texts = source.items()
        if not options.lines:
            width = options.context or CONTEXT
            texts = ((text[at : at + width], share) for text, share in texts for at in range(0, len(text), width))
        yield from encoded(chunks(islice(texts, options.inputs), options.batch_size), encode)

    return Batches(make, source, {"tokenizer": "the module's own"})
