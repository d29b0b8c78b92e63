"""Files of sentences, and of pairs of sentences with a score."""

import codecs
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dynamics.data.rows import parsed
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


def read(name: str, option: str, most: int | None = None, unreadable: dict[str, str] | None = None) -> list[str]:
    """Return the lines of a text file that are not blank, stripped; the first `most` of them.

    Lines that are no UTF-8 go to `unreadable`: why, by their place.
    """
    rows = islice(_lines(name, option), most)
    lines = parsed(rows, lambda _, line: str(line).strip(), {} if unreadable is None else unreadable)
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


def pairs(name: str, unreadable: dict[str, str] | None = None) -> Pairs:
    """Return pairs of sentences with a score, from a tab-separated file: no quoting, as STS-B is published.

    The columns are those of STS-B, or three (score first or last), or what a first line names that has
    `sentence1`, `sentence2` and `score`. Lines that lack columns, a sentence or a score go to `unreadable`: why, by
    their place.

    Raises:
        InputError: most lines are broken, all scores are equal, or there are fewer than three pairs.
    """
    lines = list(_lines(name, "--pairs"))
    first = next((line.split("\t") for _, line in lines if isinstance(line, str)), [""])
    has_header = set(HEADER) <= set(first)
    columns = [first.index(title) for title in HEADER] if has_header else _columns(name, first)
    numbers: dict[str, int] = {}

    def pair(place: str, line: str) -> tuple[int, int, float]:
        cells = line.split("\t")
        if len(cells) <= max(columns):
            raise InputError(f"{place} has {len(cells)} columns, not {max(columns) + 1} or more.")
        score, *both = (cells[column].strip() for column in columns)
        if not _is_number(score):
            raise InputError(f"{place}: the score is not a number ({score[:40]}).")
        if "" in both:
            raise InputError(f"{place} lacks a sentence.")
        one, other = (numbers.setdefault(sentence, len(numbers)) for sentence in both)
        return one, other, float(score)

    rows = parsed(lines[int(has_header) :], pair, {} if unreadable is None else unreadable)
    scores = [score for *_, score in rows]
    if len(scores) < FEWEST or len(set(scores)) == 1:
        what = f"{len(scores)} pairs" if len(scores) < FEWEST else "one score alone"
        raise InputError(f"--pairs {name} holds {what}, and a correlation needs {FEWEST} pairs and different scores.")
    return Pairs(list(numbers), [one for one, *_ in rows], [other for _, other, _ in rows], scores)


def _lines(name: str, option: str) -> Iterator[tuple[str, str | InputError]]:
    """Yield place and content of the lines that are not blank."""
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{option} {name}: there is no such file.")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise InputError(f"{option} {name} is empty.")
    # Not splitlines: it also cuts at form feeds and other separators inside a sentence.
    for number, line in enumerate(content.split(b"\n"), start=1):
        place = f"line {number} of {name}"
        try:
            if (text := line.decode()).strip():
                yield place, text
        except UnicodeDecodeError as error:
            yield place, InputError(f"{place} is not UTF-8 ({error.reason}): convert the file (iconv can).")


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
