"""Sources of texts, images or clips, and batches of them that count what they hold."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dynamics.errors import InputError, in_words

log = logging.getLogger(__name__)

Facts = dict[str, Any]
Batch = Mapping[str, Tensor]  # the keyword arguments of a model's forward
Encode = Callable[[list[Any]], Batch]
Counted = tuple[Batch, int, float]  # a batch, its number of inputs, the share of the source that has been read by then
T = TypeVar("T")


@dataclass
class InputSource:
    """Where inputs come from.

    `items` returns a fresh iterator over the inputs (texts, images, waves) at each call; each comes with the share of
    the whole that has been read by then, for the progress bar.
    """

    items: Callable[[], Iterator[tuple[Any, float]]]
    facts: Facts  # for the record: `source`, `sha256`, and `synthetic` where the inputs are generated
    unreadable: dict[str, str] = field(default_factory=dict)  # the cause by the name of a file or row, as they are met

    def skip(self, name: str, error: Exception) -> None:
        """Note a file or row that cannot be read."""
        if name not in self.unreadable:
            self.unreadable[name] = in_words(error)
            log.warning("%s cannot be read and is left out (%s)", name, self.unreadable[name])


class Batches:
    """The batches of one measurement: an iterable that can be run again, and counts as it goes.

    `make` returns a fresh iterator at each call; `facts` are for the record, beside those of the source.
    """

    def __init__(self, make: Callable[[], Iterator[Counted]], source: InputSource, facts: Facts | None = None) -> None:
        self._make, self._source, self._facts = make, source, {} if facts is None else facts
        self.inputs, self.tokens = 0, 0
        self.on_share: Callable[[float], None] = lambda share: None  # called after each batch

    def __iter__(self) -> Iterator[Batch]:
        self.inputs = self.tokens = 0
        for batch, inputs, share in self._make():
            self.inputs += inputs
            if "input_ids" in batch:
                self.tokens += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
            yield batch
            self.on_share(share)
        if self.inputs == 0:
            raise InputError(f"{self._source.facts['source']} holds nothing to measure.")

    @property
    def first(self) -> Batch:
        """The first input alone, as a batch of one."""
        return {key: value[:1] for key, value in next(iter(self)).items()}

    @property
    def condition(self) -> dict[str, str]:
        """Settings for the `condition` column: whether the inputs are synthetic."""
        return {key: value for key, value in self._source.facts.items() if key == "synthetic"}

    @property
    def facts(self) -> Facts:
        """Facts for the record, complete once the batches have been read."""
        facts = {**self._source.facts, **self._facts, "inputs": self.inputs, "tokens": self.tokens}
        unreadable = self._source.unreadable
        return facts | ({"skipped": len(unreadable), "unreadable": dict(unreadable)} if unreadable else {})


def encoded(groups: Iterable[list[tuple[Any, float]]], encode: Encode) -> Iterator[Counted]:
    """Encode groups of inputs, each with its share, as batches."""
    for group in groups:
        yield encode([item for item, _ in group]), len(group), group[-1][1]


def chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter.

    >>> list(chunks(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while part := list(islice(items, size)):
        yield part


def digest(paths: list[Path]) -> str:
    """Return the SHA-256 of one file, or that of the digests of several with their names."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(paths) == 1:
        return digests[0]
    lines = (f"{sha256} {path.name}\n" for sha256, path in zip(digests, paths, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
