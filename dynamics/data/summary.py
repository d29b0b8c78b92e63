"""The summary of a clean corpus that `dynamics data CORPUS` prints. No torch here."""

import bz2
import gzip
import lzma
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pyppmd
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dynamics.data.corpus import Corpus
from dynamics.data.wikitext import residue

COMPRESSORS = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "bzip2 -9": lambda data: bz2.compress(data, 9),
    "xz -9": lambda data: lzma.compress(data, preset=9),
    "ppmd, order 8": lambda data: pyppmd.compress(data, max_order=8, mem_size=64 << 20),
}
EXCERPT = 600  # characters of the text that are shown


def describe(corpus: Corpus) -> RenderableType:
    """Return counts, what was removed and what is left of it, the vocabulary's coverage, compressors, an excerpt."""
    facts = (f"{corpus.name}: {corpus.source}", *corpus.notes, f"sha256 {corpus.sha256}", f"recipe: {corpus.recipe}")
    share = f"{corpus.counts['bytes'] / corpus.counts['input bytes']:.3f}"
    tables = [_table("counts", [*corpus.counts.items(), ("bytes / input bytes", share)])]
    if corpus.removed:
        by_count = sorted(corpus.removed.items(), key=lambda kind: -kind[1])
        tables.append(_table("removed from the articles", by_count))
    left = {name: f"{rate:.1f}" for name, rate in residue(corpus.text()).items()}
    bits = {name: f"{value:.3f}" for name, value in bits_per_character(corpus.text("test")).items()}
    tables += [_table("markup left, per MB", left.items()), _splits(corpus)]
    tables.append(_table("test split alone, bits per character", bits.items()))
    excerpt = Text(corpus.text("validation")[:EXCERPT])
    return Group(*map(Text, facts), *tables, Panel(excerpt, title="validation split begins", box=box.SQUARE))


@lru_cache(maxsize=1)  # a sweep sets up many runs on one text
def bits_per_character(text: str) -> dict[str, float]:
    """Return the size of a text under each compressor, in bits per character; NaN for an empty text.

    Each starts from nothing, where a trained model has seen the training split.
    """
    data, characters = text.encode(), len(text) or float("nan")
    return {name: 8 * len(compress(data)) / characters for name, compress in COMPRESSORS.items()}


def coverage(corpus: Corpus) -> dict[str, float]:
    """Return the share of each split's tokens that are in the vocabulary; NaN for an empty split."""
    unknown = {name: corpus.ids[split] == corpus.vocabulary.unk_id for name, split in corpus.splits.items()}
    return {name: 1.0 - float(np.mean(hits)) if len(hits) else float("nan") for name, hits in unknown.items()}


def _splits(corpus: Corpus) -> Table:
    vocabulary = corpus.vocabulary
    table = Table(title=f"splits, {vocabulary.size} {vocabulary.kind}", title_justify="left", box=box.SIMPLE)
    for column in ("", "tokens", "known", "unknown"):
        table.add_column(column, justify="right" if column else "left")
    for name, share in coverage(corpus).items():
        tokens = corpus.splits[name].stop - corpus.splits[name].start
        table.add_row(name, f"{tokens:,}", f"{share:.4%}", f"{round(tokens * (1 - share)) if tokens else 0:,}")
    return table


def _table(title: str, rows: Iterable[tuple[str, int | str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(Text(name), f"{value:,}" if isinstance(value, int) else value)
    return table
