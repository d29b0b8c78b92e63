"""Examples of a task as token ids, and batches of similar length.

Shapes: n rows, B rows of a batch, T tokens. A row is an example or, of a long context, one of its windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamics.data.examples import Example
from dynamics.data.task_table import Task
from dynamics.errors import InputError

GROUP = 50  # batches whose rows are sorted by length together: enough for little padding, few enough to mix


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, concatenated."""

    ids: np.ndarray
    types: np.ndarray | None
    starts: np.ndarray  # (n + 1,) of the rows
    labels: np.ndarray  # (n,) classes or scores, or (n, 2) first and last token of the answer, 0 where there is none
    owners: np.ndarray  # (n,) numbers of the examples
    spans: np.ndarray | None = None  # for answers: [start, end) of each token in the context, in characters; else -1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row: (n,)."""
        return np.diff(self.starts)

    def inputs(self, rows: np.ndarray, pad: int) -> dict[str, Tensor]:
        """Return the model's inputs: `input_ids` and the like (B, T), int64, padded at the end."""
        ids, mask = self._padded(self.ids, rows, pad)
        types = {} if self.types is None else {"token_type_ids": self._padded(self.types, rows, 0)[0]}
        return {"input_ids": ids, "attention_mask": mask, **types}

    def covered(self, rows: np.ndarray) -> Tensor | None:
        """Return `spans` of some rows: (B, T, 2), -1 at padding."""
        if self.spans is None:
            return None
        return torch.stack([self._padded(self.spans[:, end], rows, -1)[0] for end in (0, 1)], dim=-1)

    def _padded(self, values: np.ndarray, rows: np.ndarray, pad: int) -> tuple[Tensor, Tensor]:
        lengths = self.lengths[rows]
        places = np.arange(lengths.max())
        mask = places < lengths[:, None]
        at = np.where(mask, self.starts[rows][:, None] + places, 0)
        return torch.from_numpy(np.where(mask, values[at], pad).astype(np.int64)), torch.from_numpy(mask).long()


def encode(task: Task, examples: Sequence[Example], tokenizer: Any, length: int, stride: int) -> Rows:
    """Tokenize examples, at least one, with a fast tokenizer of transformers.

    A row has at most `length` tokens: longer examples are cut, contexts of questions continue in another row, which
    shares `stride` tokens with the one before.
    """
    texts = list(zip(*(example.texts for example in examples), strict=True))
    if not task.is_span:
        coded = tokenizer(*map(list, texts), truncation=True, max_length=length)
        labels = np.array([e.label for e in examples], dtype=np.int64 if task.labels else np.float32)
        return _rows(coded, labels, np.arange(len(examples)))
    options = {"truncation": "only_second", "max_length": length, "stride": stride}
    options |= {"return_overflowing_tokens": True, "return_offsets_mapping": True}
    try:
        coded = tokenizer([text.strip() for text in texts[0]], list(texts[1]), **options)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the tokenizers is no Exception
        raise InputError(
            f"data.max_length {length} has no room for the longest question and more of its context than "
            f"data.stride {stride}: raise data.max_length or lower data.stride."
        ) from error
    owners = np.array(coded["overflow_to_sample_mapping"])
    spans, ends = [], []
    for row, owner in enumerate(owners):
        in_context = np.array([part == 1 for part in coded.sequence_ids(row)])
        span = np.where(in_context[:, None], coded["offset_mapping"][row], -1)
        answer = examples[owner].answers[0]
        spans.append(span)
        ends.append(_tokens_of(span, answer.start, answer.start + len(answer.text)))
    return _rows(coded, np.array(ends), owners, np.concatenate(spans).astype(np.int32))


def _tokens_of(span: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Return first and last token of the characters [start, end); (0, 0) where the row lacks some of them."""
    inside = np.flatnonzero(span[:, 0] >= 0)
    if not len(inside) or span[inside[0], 0] > start or span[inside[-1], 1] < end:
        return 0, 0
    first = inside[np.flatnonzero(span[inside, 0] <= start)[-1]]
    last = inside[np.flatnonzero(span[inside, 1] >= end)[0]]
    return int(first), int(last)


def _rows(coded: Any, labels: np.ndarray, owners: np.ndarray, spans: np.ndarray | None = None) -> Rows:
    starts = np.cumsum([0, *map(len, coded["input_ids"])])
    ids = np.fromiter(chain.from_iterable(coded["input_ids"]), np.int32)
    types = np.fromiter(chain.from_iterable(coded["token_type_ids"]), np.uint8) if "token_type_ids" in coded else None
    return Rows(ids, types, starts, labels, owners, spans)


def grouped(lengths: np.ndarray, batch: int, draws: np.random.Generator) -> np.ndarray:
    """Return one epoch as (n // batch, batch) row numbers, each at most once, rows of a batch about equally long.

    >>> grouped(np.array([1, 9, 2, 8]), 2, np.random.default_rng(0)).tolist()
    [[3, 1], [0, 2]]
    """
    steps = len(lengths) // batch
    order = draws.permutation(len(lengths))[: steps * batch]
    for start in range(0, len(order), GROUP * batch):
        part = order[start : start + GROUP * batch]
        part[:] = part[np.argsort(lengths[part], kind="stable")]
    return draws.permutation(order.reshape(steps, batch))
