"""The states of a measurement that is under way, kept in a file: one that was stopped goes on from there.

They are saved between two batches, just as they are: neither when nor being stopped changes a bit of a row.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint
from torch.utils._pytree import tree_leaves

from dynamics.errors import InputError, in_words
from dynamics.files import is_intact, write_atomically
from dynamics.measure.identity import content
from dynamics.measure.meter import Meter

log = logging.getLogger(__name__)

LEAST = 60.0  # seconds between two savings, at least
REST = 50  # times what a saving takes: at most 2 % of the time goes into it
SPEED = 3e8  # bytes a second that the first one, whose time is not known, is expected to read and write

Batch = dict[str, Any]


class Unfinished:
    """The file of a measurement; whoever asked for that deletes it.

    `name` is that of what is measured. `identity` returns a hash of all but the batches that decides the states of the
    `meter`; it reads `size` bytes of weights, and raises `InputError` where it cannot.
    """

    def __init__(self, path: Path, name: str, meter: Meter, size: int, identity: Callable[[], str]) -> None:
        self._path, self._name, self._meter, self._size, self._identify = path, name, meter, size, identity
        self._inputs, self._batches = blake2b(), 0  # all batches so far: a hash, and their number
        self._started = time.monotonic()
        self._due, self._identity = self._started + LEAST, ""
        self.before = 0.0  # seconds that were spent on the measurement before it was stopped

    def left(self, read: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        """Yield the first batch, on which a model is learnt, and those that no saved states hold.

        `read` returns a fresh iterator over all batches.
        """
        for temporary in self._path.parent.glob(f".{self._path.name}.*"):  # of a process that was killed
            temporary.unlink()
        batches = read()
        for batch in islice(batches, 1):
            self._note(batch)
            yield batch
        if self._path.is_file() and not self._goes_on(batches):
            batches = islice(read(), 1, None)
        for batch in batches:
            if time.monotonic() >= self._due:
                self._save()
            self._note(batch)
            yield batch

    def _note(self, batch: Batch) -> None:
        self._batches += 1
        for name, value in batch.items():
            is_tensor = isinstance(value, Tensor)
            self._inputs.update(repr((name, value.dtype, value.shape) if is_tensor else (name, value)).encode())
            self._inputs.update(content(value) if is_tensor else b"")

    def _goes_on(self, batches: Iterator[Batch]) -> bool:
        """Take the states that were saved and the batches that they hold; where they cannot be used, say so."""
        inputs, number = self._inputs.copy(), self._batches
        try:
            if not is_intact(self._path):
                raise InputError("the file is damaged")
            saved = torch.load(self._path, weights_only=True)
            self._identity = self._identify()
            if saved["identity"] != self._identity:
                raise InputError("the model, the metrics or the versions have changed")
            for batch in islice(batches, saved["batches"] - number):
                self._note(batch)
            if self._inputs.hexdigest() != saved["inputs"]:
                raise InputError("the inputs have changed")
            self._meter.load(saved["states"])
            self.before = saved["seconds"]
        except Exception as error:  # torch raises whatever the content makes it trip over
            self._inputs, self._batches = inputs, number
            log.warning("%s: what was measured before cannot be used (%s): it starts anew", self._name, in_words(error))
            return False
        print(f"{self._name}: goes on after {self._batches} batches")
        return True

    def _save(self) -> None:
        """Save the states, unless that would take too large a share of the time so far."""
        started = time.monotonic()
        try:
            states = self._meter.states()
            size = sum(x.nbytes for x in tree_leaves(states) if isinstance(x, Tensor))
            if not self._identity:
                self._due = self._started + REST * (size + self._size) / SPEED
                if started < self._due:
                    return
                self._identity = self._identify()
            saved = {"identity": self._identity, "inputs": self._inputs.hexdigest(), "batches": self._batches}
            saved |= {"seconds": self.before + started - self._started, "states": states}
            write_atomically(self._path, lambda file: torch.save(saved, file), digest=False, size=2 * size)
            if code := get_unsafe_globals_in_checkpoint(self._path):
                self._path.unlink()
                raise InputError(f"a metric keeps {', '.join(sorted(code))}, which is not read from a file")
        except Exception as error:  # measuring needs no file
            log.warning("%s: if it is stopped it starts anew (%s)", self._name, in_words(error))
            self._due = math.inf
        else:
            now = time.monotonic()
            self._due = now + max(LEAST, REST * (now - started))
