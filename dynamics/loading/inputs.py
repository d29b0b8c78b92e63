"""Inputs of a scan: batches made as they are asked for, with a count of what went in and what could not."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamics.errors import InputError

log = logging.getLogger(__name__)

NOISE = "noise"
"""Stands for a folder of synthetic images or clips."""


@dataclass
class Source:
    """Where inputs come from.

    Args:
        items: a fresh iterator over the inputs (texts, images, waves) at each call; each comes with the share of
            the whole that has been read by then, for the progress bar.
        facts: for the record: `source`, `sha256`, and `synthetic` where the inputs are made up.
        skipped: files that could not be read, by name, with the cause; filled as they are met.
    """

    items: Callable[[], Iterator[tuple[Any, float]]]
    facts: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)

    def skip(self, path: Path, error: Exception | str) -> None:
        """Note a file that cannot be read."""
        if path.name not in self.skipped:
            self.skipped[path.name] = " ".join(str(error).split())[:200]
            log.warning("%s cannot be read and is left out (%s)", path, self.skipped[path.name])


class Batches:
    """The batches of one measurement: an iterable that can be run again, and counts as it goes.

    Args:
        make: a fresh iterator of (batch, inputs in it, share read) at each call.
        facts: for the record, beside those of the source.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[tuple[Mapping[str, Tensor], int, float]]],
        facts: Mapping[str, Any],
        source: Source,
    ) -> None:
        self._make, self._facts, self._source = make, dict(facts), source
        self.inputs, self.tokens, self.share = 0, 0, 0.0
        self.tick: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        self.inputs = self.tokens = 0
        for batch, inputs, share in self._make():
            self.inputs += inputs
            if "input_ids" in batch:
                self.tokens += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
            self.share = share
            yield batch
            self.tick()
        if self.inputs == 0:
            raise InputError(f"{self._source.facts['source']} holds nothing to measure.")

    @property
    def first(self) -> Mapping[str, Tensor]:
        """The first input alone, as a batch of one."""
        batch = next(iter(self))
        return {key: value[:1] for key, value in batch.items()}

    @property
    def condition(self) -> dict[str, str]:
        """What the `condition` column says: synthetic inputs are told there."""
        synthetic = self._source.facts.get("synthetic")
        return {"synthetic": synthetic} if synthetic else {}

    @property
    def facts(self) -> dict[str, Any]:
        """For the record, after a run."""
        skipped = {"skipped": len(self._source.skipped), "unreadable": dict(self._source.skipped)}
        known = {**self._source.facts, **self._facts, "inputs": self.inputs, "tokens": self.tokens}
        return known | (skipped if self._source.skipped else {})


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter.

    >>> list(chunks(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while part := list(islice(items, size)):
        yield part


def files(folder: str, suffixes: frozenset[str], what: str) -> list[Path]:
    """The files of a kind in a folder and below it, sorted.

    Raises:
        InputError: there is no such folder, or no such file in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"--{what} {folder}: there is no such folder.")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    if not found:
        raise InputError(f"--{what} {folder}: no file in it ends with {', '.join(sorted(suffixes))}.")
    return found


def digest(paths: list[Path]) -> str:
    """SHA-256 of files: of the one file, or of the digests of several with their names."""
    each = []
    for path in paths:
        with path.open("rb") as file:
            each.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(paths) == 1:
        return each[0]
    told = "".join(f"{one} {path.name}\n" for one, path in zip(each, paths, strict=True))
    return hashlib.sha256(told.encode()).hexdigest()
