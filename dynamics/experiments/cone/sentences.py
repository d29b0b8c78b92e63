"""Files of sentences, and of pairs of sentences with a score."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dynamics.errors import InputError

FEWEST = 3  # sentences that a cone needs, and pairs that a correlation does
MAIN = "sentences"  # the corpus of --sentences; its rows have an empty condition
PAIRS = "pairs"  # the corpus of the sentences of --pairs
STSB = (4, 5, 6)  # columns of STS-B: score and both sentences (Cer et al., arXiv 1708.00055)
HEADER = ("score", "sentence1", "sentence2")


class Pairs(NamedTuple):
    """Pairs as indices into their different sentences, and a score for each."""

    sentences: list[str]
    first: list[int]
    second: list[int]
    scores: list[float]


def label(corpus: str) -> str:
    """Return a corpus as conditions name it: empty for the main one."""
    return "" if corpus == MAIN else corpus


def read(name: str, option: str, most: int | None = None) -> list[str]:
    """Return the lines of a text file, stripped, none of them empty; the first `most` of them."""
    lines = [line.strip() for line in _lines(name, option)[:most]]
    if "" in lines:
        raise InputError(f"{option} {name}: line {lines.index('') + 1} is empty; give one sentence a line.")
    if len(lines) < FEWEST:
        raise InputError(f"{option} {name} holds {len(lines)} sentences, and a cone needs at least {FEWEST}.")
    return lines


def files(arguments: Sequence[str]) -> dict[str, str]:
    """Return the files of `--corpus NAME=FILE` by name."""
    paths: dict[str, str] = {}
    for argument in arguments:
        name, _, file = argument.partition("=")
        if not name or not file:
            raise InputError(f"--corpus {argument}: write it NAME=FILE, as in --corpus news=news.txt.")
        if name in (MAIN, PAIRS, *paths):
            raise InputError(f"--corpus {argument}: the name {name} is taken; choose another.")
        paths[name] = file
    return paths


def pairs(name: str) -> Pairs:
    """Return pairs of sentences with a score, from a tab-separated file: no quoting, as STS-B is published.

    The columns are those of STS-B, or three (score first or last), or what a first line names that has
    `sentence1`, `sentence2` and `score`.

    Raises:
        InputError: a line lacks columns or a sentence, a score is no number, or all scores are equal.
    """
    lines = [line.split("\t") for line in _lines(name, "--pairs")]
    has_header = set(HEADER) <= set(lines[0])
    columns = [lines[0].index(title) for title in HEADER] if has_header else _columns(name, lines[0])
    numbers: dict[str, int] = {}
    rows: list[tuple[int, int, float]] = []
    for number, cells in enumerate(lines[int(has_header) :], start=1 + has_header):
        if len(cells) <= max(columns):
            raise InputError(f"--pairs {name}: line {number} has {len(cells)} columns, not {max(columns) + 1} or more.")
        score, *both = (cells[column].strip() for column in columns)
        if not _is_number(score):
            raise InputError(f"--pairs {name}: the score of line {number} is not a number ({score[:40]}).")
        if "" in both:
            raise InputError(f"--pairs {name}: line {number} lacks a sentence.")
        first, second = (numbers.setdefault(sentence, len(numbers)) for sentence in both)
        rows.append((first, second, float(score)))
    scores = [score for *_, score in rows]
    if len(scores) < FEWEST or len(set(scores)) == 1:
        what = f"{len(scores)} pairs" if len(scores) < FEWEST else "one score alone"
        raise InputError(f"--pairs {name} holds {what}, and a correlation needs {FEWEST} pairs and different scores.")
    return Pairs(list(numbers), [first for first, *_ in rows], [second for _, second, _ in rows], scores)


def _lines(name: str, option: str) -> list[str]:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{option} {name}: there is no such file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {name} is not UTF-8 ({error.reason}): convert it (iconv can).") from error
    if not text:
        raise InputError(f"{option} {name} is empty.")
    # Not splitlines: it also cuts at form feeds and other separators inside a sentence.
    return text.removesuffix("\n").split("\n")


def _columns(name: str, cells: Sequence[str]) -> Sequence[int]:
    """Return the columns of the score and of both sentences in a file whose first line has these cells."""
    if len(cells) > max(STSB):
        return STSB
    if len(cells) == 3:
        return (2, 0, 1) if _is_number(cells[2]) and not _is_number(cells[0]) else (0, 1, 2)
    raise InputError(
        f"--pairs {name}: line 1 has {len(cells)} columns separated by tabs; give score and two sentences, or STS-B's."
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
