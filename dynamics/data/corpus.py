"""A corpus by name or path: cleaned, encoded, cut into three splits, and cached. No torch here.

Everything derived is kept in the cache folder under the hash of the input and of the recipe: the second load opens a
memory map. A `.txt` is taken as it is, except for line ends (`\\n`), characters that do not print (dropped) and exotic
spaces (replaced by spaces): blank lines and indentation stay.
"""

import codecs
import hashlib
import io
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from typing_extensions import TypedDict

from dynamics.data.cache import Advance, bar, once, read_cached, writable_cache
from dynamics.data.sources import CorpusFile, Identity, locate
from dynamics.data.vocabulary import KINDS, Vocabulary
from dynamics.data.wiki import SEPARATOR, clean_dump
from dynamics.data.wikitext import RECIPE as WIKI_RECIPE
from dynamics.data.wikitext import plain
from dynamics.errors import InputError
from dynamics.files import is_damaged, write_atomically, write_text

log = logging.getLogger(__name__)

SPLITS = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}  # per cent of the characters, by position
PLAIN_RECIPE = f"plain text 1, Unicode {unicodedata.unidata_version}"
LAYOUT = "cache 1"  # changes with the format of the files in the cache
_CHARACTERS = 1 << 22  # characters of text that are processed at a time


class _Splits(TypedDict):
    train: tuple[int, int]
    validation: tuple[int, int]
    test: tuple[int, int]


class _Facts(TypedDict):
    """What `facts.json` says of a clean text: see `_survey`."""

    counts: dict[str, int]
    removed: dict[str, int]
    splits: dict[str, _Splits]
    alphabet: dict[int, int]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A clean text as token ids; `name` is never `auto`, and `notes` are sentences on how `auto` decided."""

    ids: np.ndarray  # (tokens,) of the whole text, unsigned, memory-mapped; positions are characters or bytes
    splits: dict[str, slice]  # train, validation, test in `ids`; every vocabulary cuts at the same character
    vocabulary: Vocabulary
    name: str
    source: str
    sha256: str  # of the raw input, decompressed
    recipe: str  # of the cleaning, with versions
    notes: tuple[str, ...]
    counts: dict[str, int]  # input bytes, characters, bytes; of a dump also pages, articles, redirects ...
    removed: dict[str, int]  # from the articles, by kind
    path: Path = field(repr=False)  # of the clean text, which `byte_splits` cuts
    byte_splits: dict[str, slice] = field(repr=False)

    @property
    def tokens_per_character(self) -> float:
        """Return 1 for a vocabulary of characters, more for bytes where the text is more than ASCII."""
        return len(self.ids) / self.counts["characters"]

    def text(self, split: str = "") -> str:
        """Return the clean text of one split, or all of it."""
        utf8 = np.memmap(self.path, dtype=np.uint8, mode="r")
        try:
            return utf8[self.byte_splits[split] if split else slice(None)].tobytes().decode()
        except UnicodeDecodeError as error:  # of an older version, without a digest
            raise InputError(f"{self.path} is damaged: delete {self.path.parent}, and it is made again.") from error


def load(
    name: str,
    vocabulary: str = "characters",
    vocabulary_size: int = 205,
    processes: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Find, clean and encode a corpus, or open it from the cache; raises `InputError` where that is impossible.

    `name` is `enwik8`, `sample`, `auto`, or a path. `vocabulary` is `characters` (the most frequent of the training
    split, `vocabulary_size` at most with `<unk>`) or `bytes`. `processes` clean, one for each core by default.
    """
    if vocabulary not in KINDS:
        raise InputError(f"vocabulary must be {' or '.join(KINDS)} (got {vocabulary}).")
    if vocabulary_size < 2:
        raise InputError(f"vocabulary_size must be at least 2, a character and <unk> (got {vocabulary_size}).")
    with writable_cache() as cache:
        source = locate(name, progress)
        raw = source.identify(progress)
        recipe = WIKI_RECIPE if raw.dump else PLAIN_RECIPE
        key = hashlib.sha256(f"{raw.sha256} {recipe} {LAYOUT}".encode()).hexdigest()[:24]
        path = cache / key / "text.txt"
        write = partial(_write_text, source, raw, path, processes, progress)
        facts = once(partial(_read_facts, path), write, path.parent)
        if vocabulary == "bytes":
            vocab, ids = Vocabulary.bytes(), cast(np.ndarray, np.memmap(path, dtype=np.uint8, mode="r"))
        else:
            vocab = Vocabulary.characters(facts["alphabet"], vocabulary_size)
            npy, characters = path.with_name(f"characters-{vocabulary_size}.npy"), facts["counts"]["characters"]
            write = partial(_write_ids, npy, characters, path, vocab, progress)
            ids = once(partial(_read_ids, npy, characters), write, path.parent)
    notes = source.notes
    if cut := facts["removed"].get("articles that are cut"):
        notes += (f"{cut} articles of {source.path} are cut: they open more than they close, and would take minutes",)
        log.warning(notes[-1])
    if facts["counts"].get("breaks off") and not source.official:  # enwik8 is the beginning of a dump
        notes += (f"{source.path} breaks off before its end: what follows its last page is missing",)
        log.warning(notes[-1])
    splits = {kind: {name: slice(*ends) for name, ends in facts["splits"][kind].items()} for kind in KINDS}
    return Corpus(
        ids=ids,
        splits=splits[vocabulary],
        vocabulary=vocab,
        name=source.name,
        source=f"{'the Wikipedia dump' if raw.dump else 'the text'} {source.path}",
        sha256=raw.sha256,
        recipe=recipe,
        notes=notes,
        counts={"input bytes": raw.size, **facts["counts"]},
        removed=facts["removed"],
        path=path,
        byte_splits=splits["bytes"],
    )


def _read_facts(path: Path) -> dict[str, Any] | None:
    facts = read_cached(path.with_name("facts.json"), _Facts)
    if not facts or not facts["counts"].keys() >= {"bytes", "characters"} or not facts["splits"].keys() >= set(KINDS):
        return None
    is_whole = path.is_file() and path.stat().st_size == facts["counts"]["bytes"]
    return None if not is_whole or _is_wrong(path) else facts


def _is_wrong(path: Path) -> bool:
    """Whether a file of the cache has another content than it was given; said, for it is made again."""
    if wrong := is_damaged(path):
        log.warning("%s is damaged: it is made again", path)
    return wrong


def _write_text(source: CorpusFile, raw: Identity, path: Path, processes: int | None, progress: bool) -> None:
    """Write the clean text, then the facts about it, without which it is not valid."""
    counts, removed = Counter[str](), Counter[str]()

    def write(file: IO[bytes]) -> None:
        blank = True
        with bar(f"cleaning {source.name}", raw.size, progress) as advance:
            articles = _articles(source, processes, counts, removed, advance)
            for text in articles if raw.dump else _plain_text(source, advance):
                blank = blank and not text.strip()
                file.write(text.encode())
        if blank:
            raise InputError(f"{source.path} contains no {'article' if raw.dump else 'text'}: choose another corpus.")

    write_atomically(path, write)
    facts = {"removed": +removed, **_survey(path, counts)}  # without the kinds that never occurred
    write_text(path.with_name("facts.json"), json.dumps(facts, indent=1))


def _articles(
    source: CorpusFile, processes: int | None, counts: Counter[str], removed: Counter[str], advance: Advance
) -> Iterator[str]:
    separator = ""
    for part in clean_dump(source.blocks(), processes):
        for article in part.articles:
            yield separator + article
            separator = SEPARATOR
        counts.update(part.counts)
        removed.update(part.removed)
        advance(part.size)


def _plain_text(source: CorpusFile, advance: Advance) -> Iterator[str]:
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    done = 0
    for block in chain(source.blocks(), [b""]):
        start = done - len(utf8.getstate()[0])
        try:
            yield plain(decoder.decode(block, final=not block))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{source.path} is not UTF-8 at byte {start + error.start}: convert it (for example by iconv)."
            ) from error
        done += len(block)
        advance(len(block))


def _blocks(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        while block := file.read(_CHARACTERS):
            yield block


def _survey(path: Path, counts: dict[str, int]) -> dict[str, Any]:
    """Return size and splits of a clean text in characters and bytes, and the code points of its training split."""
    characters = sum(map(len, _blocks(path)))
    splits = {name: [characters * end // 100 for end in per_cent] for name, per_cent in SPLITS.items()}
    in_bytes, points = {0: 0}, np.zeros(0x110000, dtype=np.int64)
    done = size = 0
    for block in _blocks(path):
        codes = np.frombuffer(block.encode("utf-32-le"), dtype=np.uint32)
        points += np.bincount(codes[: max(splits["train"][1] - done, 0)], minlength=len(points))
        for end in chain(*splits.values()):
            if done < end <= done + len(block):
                in_bytes[end] = size + len(block[: end - done].encode())
        done += len(block)
        size += len(block.encode())
    byte_splits = {name: [in_bytes[end] for end in ends] for name, ends in splits.items()}
    return {
        "counts": {**counts, "characters": characters, "bytes": size},
        "splits": {"characters": splits, "bytes": byte_splits},
        "alphabet": {int(point): int(points[point]) for point in np.flatnonzero(points)},
    }


def _read_ids(path: Path, characters: int) -> np.ndarray | None:
    try:
        ids = cast(np.ndarray, np.load(path, mmap_mode="r"))
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return None if ids.shape != (characters,) or _is_wrong(path) else ids


def _write_ids(path: Path, characters: int, text: Path, vocabulary: Vocabulary, progress: bool) -> None:
    descr = np.lib.format.dtype_to_descr(vocabulary.dtype)

    def write(file: IO[bytes]) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (characters,)})
        with bar("encoding", characters, progress) as advance:
            for block in _blocks(text):
                file.write(vocabulary.encode(block).tobytes())
                advance(len(block))

    write_atomically(path, write)
