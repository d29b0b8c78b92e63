"""The data of fine-tuning, as a LightningDataModule: (seed, step) decides the examples of an optimiser step."""

import logging
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from dynamics.data.examples import Splits, load
from dynamics.data.rows import in_short
from dynamics.data.shares import TRAIN_STREAM, Shares, pinned, require_positive, training_shares
from dynamics.data.task_table import find
from dynamics.data.tokens import Rows, encode, grouped
from dynamics.errors import InputError

log = logging.getLogger(__name__)

EVALUATION_STREAM = 3  # separates the choice of the evaluation tokens from other draws; without the seed of a run


class TaskBatch(NamedTuple):
    """Rows of one share of a step."""

    inputs: dict[str, Tensor]  # of the model, (B, T)
    labels: Tensor  # (B,), or (B, 2) for answers
    owners: Tensor  # (B,) numbers of the examples in their split
    covered: Tensor | None = None  # (B, T, 2), for answers: the characters of the context that each token covers
    is_padded: bool = True  # whether any row is shorter than another


class TaskData(L.LightningDataModule):
    """Examples of one task.

    Args:
        task: sst2, sst5, qnli, rte, mrpc, qqp, cola, stsb or squad.
        path: folder with train and dev (and test) as published: .tsv, .csv, .json, .jsonl, .parquet; the hub when None.
        batch_size: rows in an optimiser step, over all ranks and accumulated shares.
        max_length: most tokens of a row; 128, and 384 for squad, when None.
        stride: tokens that two rows of one context share (squad).
        pad_token: token to pad with, of a tokenizer that has none for it.
        probe_tokens: evaluation tokens (held out, the same for every run) that the geometry is measured on, at least.
        seed: decides the training examples, together with the step.
    """

    hparams: Any
    trainer: L.Trainer

    def __init__(
        self,
        task: str,
        path: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
        stride: int = 128,
        pad_token: str | None = None,
        probe_tokens: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive(self.hparams, "batch_size", "max_length", "probe_tokens")
        self.task = find(task)
        self._source = path or " ".join(filter(None, self.task.hub))
        self.examples: Splits = {}
        self.unreadable: dict[str, str] = {}  # rows that are left out, and why
        self._rows: dict[str, Rows] = {}
        self._order = lru_cache(maxsize=1)(self._shuffled)

    def setup(self, stage: str | None = None) -> None:
        """Read the examples; raises `InputError` where they are missing, empty, or not the task's."""
        path = self.hparams.path
        if not self.examples:
            self.examples = load(self.task, None if path is None else Path(path), self.unreadable)
            if self.unreadable:
                log.warning("data.task %s: %s", self.task.name, in_short(self.unreadable))

    def encode(self, tokenizer: Any, reach: int) -> None:
        """Tokenize the examples for a model; `reach` is the longest input that it takes."""
        self.tokenizer = self._with_padding(tokenizer)
        length = min(self.hparams.max_length or (384 if self.task.is_span else 128), reach)
        for split, examples in self.examples.items():
            self._rows[split] = encode(self.task, examples, tokenizer, length, self.hparams.stride)
        self._order.cache_clear()
        if self.steps_per_epoch < 1:
            raise InputError(
                f"data.batch_size {self.hparams.batch_size} is more than there is to train on "
                f"({len(self._rows['train'].labels)} rows): choose a smaller one."
            )

    def _with_padding(self, tokenizer: Any) -> Any:
        if (token := self.hparams.pad_token) is not None:
            if token not in tokenizer.get_vocab():
                raise InputError(f"data.pad_token {token} is no token of the tokenizer: name one that is.")
            tokenizer.pad_token = token
        if tokenizer.pad_token_id is None:
            example = f", for example --data.pad_token '{tokenizer.eos_token}'" if tokenizer.eos_token else ""
            raise InputError(f"the tokenizer has no token for padding: name one of its tokens{example}.")
        return tokenizer

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in which every row is seen once; rows that fill no batch wait for another epoch."""
        return len(self._rows["train"].labels) // self.hparams.batch_size

    @property
    def highest_id(self) -> int:
        """The highest token id of all rows."""
        return max(int(rows.ids.max()) for rows in self._rows.values())

    def _shuffled(self, epoch: int) -> np.ndarray:
        draws = np.random.default_rng((self.hparams.seed, TRAIN_STREAM, epoch))
        return grouped(self._rows["train"].lengths, self.hparams.batch_size, draws)

    def train_dataloader(self) -> Shares[TaskBatch]:
        """Return shares of the steps that are left: each (seed, step)'s rows split over the ranks."""

        def share(step: int, rows: slice) -> TaskBatch:
            epoch, place = divmod(step, self.steps_per_epoch)
            return self._batch("train", self._order(epoch)[place][rows])

        return training_shares(self.trainer, self.hparams.batch_size, share)

    def val_dataloader(self) -> Shares[TaskBatch]:
        """Return the whole validation split, from short to long."""
        return self._evaluation("validation")

    def test_dataloader(self) -> Shares[TaskBatch]:
        """Return the whole test split, where it has labels."""
        if "test" not in self._rows:
            raise InputError(f"data.task {self.task.name} has no test split with labels here.")
        return self._evaluation("test")

    def _evaluation(self, split: str) -> Shares[TaskBatch]:
        rows = self._rows[split]
        # All rows of an example go to one rank, which picks the best answer among them.
        ours = np.flatnonzero(rows.owners % self.trainer.world_size == self.trainer.global_rank)
        parts = self._by_length(rows, ours)
        return Shares(len(parts), lambda: (self._batch(split, part, with_spans=True) for part in parts))

    def _by_length(self, rows: Rows, chosen: np.ndarray) -> list[np.ndarray]:
        """Return the numbers of some rows in batches, from short to long."""
        ordered = chosen[np.argsort(rows.lengths[chosen], kind="stable")]
        return [ordered[at : at + self.hparams.batch_size] for at in range(0, len(ordered), self.hparams.batch_size)]

    def _batch(self, split: str, rows: np.ndarray, with_spans: bool = False) -> TaskBatch:
        data = self._rows[split]
        inputs = {name: pinned(x) for name, x in data.inputs(rows, self.tokenizer.pad_token_id).items()}
        labels, owners = (pinned(torch.from_numpy(values[rows])) for values in (data.labels, data.owners))
        is_padded = len(np.unique(data.lengths[rows])) > 1
        return TaskBatch(inputs, labels, owners, data.covered(rows) if with_spans else None, is_padded)

    def evaluation_batches(self) -> list[dict[str, Tensor]]:
        """Return the evaluation tokens on the CPU: whole rows of the validation split, the same for every run.

        At least `probe_tokens` tokens, padding not counted, where the split has so many.
        """
        rows = self._rows["validation"]
        order = np.random.default_rng(EVALUATION_STREAM).permutation(len(rows.labels))
        enough = int(np.searchsorted(np.cumsum(rows.lengths[order]), self.hparams.probe_tokens)) + 1
        return [rows.inputs(part, self.tokenizer.pad_token_id) for part in self._by_length(rows, order[:enough])]

    def describe(self) -> dict[str, Any]:
        """Return what `run.json` says of the data."""
        digest = sha256()
        for example in chain.from_iterable(self.examples.values()):
            digest.update(repr(example).encode())
        return {
            "task": self.task.name,
            "batch_size": self.hparams.batch_size,
            "epoch_steps": self.steps_per_epoch,
            "data": {
                "source": self._source,
                "sha256": digest.hexdigest(),
                "notes": [in_short(self.unreadable)] if self.unreadable else [],
                "longest_row": int(max(rows.lengths.max() for rows in self._rows.values())),
                **{split: len(examples) for split, examples in self.examples.items()},
            },
        }

    def headline(self) -> str:
        """Return the data in a line."""
        counts = ", ".join(f"{len(examples):,} {split}" for split, examples in self.examples.items())
        return f"task {self.task.name} from {self._source}: {counts}; an epoch is {self.steps_per_epoch} steps"

    def save(self, folder: Path) -> None:
        """Save the tokenizer beside the run."""
        self.tokenizer.save_pretrained(folder)
