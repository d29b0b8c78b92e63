"""Windows of a corpus for training, evaluation and measuring, as a LightningDataModule.

Offsets travel, and the corpus stays in one array on the device: (seed, step) alone decides the windows of an optimiser
step, so that twins see the same windows in the same order.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor

from dynamics.data import corpus as corpora
from dynamics.data.corpus import Corpus
from dynamics.data.shares import TRAIN_STREAM, Shares, pinned, require_positive, steps_together, training_shares
from dynamics.data.summary import bits_per_character
from dynamics.data.vocabulary import Vocabulary
from dynamics.errors import InputError

MOST_PASSES = 10  # over the text, in one step
COMPRESSED = 1_000_000  # characters of the test split that the compressors are tried on, for the record


class WindowBatch(NamedTuple):
    """Windows of one share of a step.

    `windows` is (B, T + 1) token ids: an input of T characters and the character that follows each.
    """

    windows: Tensor
    step: int  # index of the optimiser step, 0 before the first update, or of the evaluation batch
    first: int  # the share's first row among the `total` rows of the step
    total: int


def training_offsets(seed: int, step: int, count: int, high: int) -> np.ndarray:
    """Return the starts of the `count` windows of an optimiser step: (count,) in [0, high), from (seed, step) alone."""
    return np.random.default_rng((seed, TRAIN_STREAM, step)).integers(high, size=count)


def spread_offsets(start: int, stop: int, span: int, count: int | None = None) -> np.ndarray:
    """Return the starts of `count` (None: all that fit) non-overlapping windows, evenly spread over [start, stop).

    >>> spread_offsets(100, 200, 10, 4).tolist()
    [100, 130, 160, 190]
    """
    fit = (stop - start) // span
    count = fit if count is None else min(count, fit)
    return start + np.linspace(0, fit - 1, count).round().astype(np.int64) * span


def _slices(rows: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """Cut rows into at most `count` slices of about equal length; yield each with the number of its first row."""
    first = 0
    for piece in rows.tensor_split(min(count, len(rows))):
        yield first, piece
        first += len(piece)


class CharData(L.LightningDataModule):
    """Windows of characters from one corpus.

    Args:
        corpus: `enwik8`, `sample`, `auto`, or a path (see `dynamics data --help`).
        context: characters in a window, T.
        batch_size: windows in an optimiser step, over all ranks and accumulated shares.
        vocabulary: `characters` (the most frequent of the training split, and `<unk>`) or `bytes`.
        vocabulary_size: rows of the table for text, `<unk>` included.
        validation_windows: windows of each validation pass, evenly spread over the split.
        probe_tokens: evaluation tokens (held-out, never corrupted) that the geometry is measured on, at least.
        seed: decides the training windows, together with the step.
    """

    hparams: Any
    trainer: L.Trainer
    text: Corpus  # after `setup`

    def __init__(
        self,
        corpus: str = "auto",
        context: int = 256,
        batch_size: int = 32,
        vocabulary: str = "characters",
        vocabulary_size: int = 205,
        validation_windows: int = 256,
        probe_tokens: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive(self.hparams, "context", "batch_size", "validation_windows", "probe_tokens")
        for name in ("corpus", "context", "batch_size", "probe_tokens"):
            if self.hparams[name] is None:
                raise InputError(f"data.{name} must be given (got null).")

    def prepare_data(self) -> None:
        """Fetch, clean and encode the corpus once; every rank reads it from the cache."""
        self._load()

    def setup(self, stage: str | None = None) -> None:
        """Open the encoded corpus; raises `InputError` where a split is shorter than one window."""
        if hasattr(self, "text"):
            return
        text = self._load()
        for name, split in text.splits.items():
            if (size := split.stop - split.start) <= self.hparams.context:
                raise InputError(
                    f"the {name} split of {text.name} has {size} characters, less than one window "
                    f"of data.context + 1 = {self.hparams.context + 1}: give more text or a shorter context."
                )
        train, size = text.splits["train"], self.hparams.batch_size
        if size * self.hparams.context > MOST_PASSES * (train.stop - train.start):
            raise InputError(
                f"data.batch_size {size} windows of {self.hparams.context} are more than {MOST_PASSES} times the "
                f"{train.stop - train.start} characters to train on, in one step: give fewer."
            )
        # Copied: torch wants memory that it may write to. One byte a character.
        ids = torch.from_numpy(np.array(text.ids))
        self._tokens, self.text = ids if ids.dtype == torch.uint8 else ids.to(torch.int32), text

    def _load(self) -> Corpus:
        return corpora.load(self.hparams.corpus, self.hparams.vocabulary, self.hparams.vocabulary_size)

    def train_dataloader(self) -> Shares[WindowBatch]:
        """Return shares of the steps that are left: each (seed, step)'s windows split over the ranks."""
        split, total = self.text.splits["train"], self.hparams.batch_size
        high = split.stop - split.start - self.hparams.context

        def share(step: int, rows: slice) -> WindowBatch:
            offsets = split.start + training_offsets(self.hparams.seed, step, total, high)
            return WindowBatch(torch.from_numpy(offsets[rows]), step, rows.start, total)

        shares = training_shares(self.trainer, total, share)
        rows = total // (self.trainer.world_size * self.trainer.accumulate_grad_batches)
        together = steps_together(rows * (self.hparams.context + 1), self.trainer.strategy.root_device)
        return Shares(len(shares), lambda: self._on_device(shares, together))

    def val_dataloader(self) -> Shares[WindowBatch]:
        """Return the same windows at every pass, evenly spread over the validation split."""
        return self._evaluation("validation", self.hparams.validation_windows)

    def test_dataloader(self) -> Shares[WindowBatch]:
        """Return every window of the test split, side by side."""
        return self._evaluation("test", None)

    def _evaluation(self, name: str, count: int | None) -> Shares[WindowBatch]:
        whole, ranks = self._offsets(name, count), self.trainer.world_size
        # Each rank takes batches in turn, or slices of them where there are fewer batches than ranks, for Lightning
        # refuses a rank without any. None is repeated; the sums are weighted.
        pieces = next((n for n in range(1, ranks + 1) if sum(min(n, len(part)) for part in whole) >= ranks), 0)
        if not pieces:
            raise InputError(
                f"{sum(map(len, whole))} windows of the {name} split cannot be shared by {ranks} ranks: set "
                f"data.validation_windows {ranks} or more, or give more text."
            )
        batches = [
            WindowBatch(rows, step, first, len(part))
            for step, part in enumerate(whole)
            for first, rows in _slices(part, pieces)
        ]
        ours = batches[self.trainer.global_rank :: ranks]
        return Shares(len(ours), lambda: self._on_device(ours, 1))

    def _offsets(self, name: str, count: int | None) -> tuple[Tensor, ...]:
        """Return the starts of evenly spread windows of a split, batch by batch."""
        split = self.text.splits[name]
        offsets = spread_offsets(split.start, split.stop, self.hparams.context + 1, count)
        return torch.from_numpy(offsets).split(self.hparams.batch_size)

    def evaluation_batches(self) -> list[dict[str, Tensor]]:
        """Return the evaluation tokens: `input_ids` (B, T) of the validation split, on the CPU.

        The first T characters of evenly spread windows, clean, at least `probe_tokens` of them where the split
        is that long: the same for every twin, objective and step.
        """
        count = -(-self.hparams.probe_tokens // self.hparams.context)
        cpu = torch.device("cpu")
        return [{"input_ids": self._gather(part, cpu)[:, :-1]} for part in self._offsets("validation", count)]

    def describe(self) -> dict[str, Any]:
        """Return what `run.json` says of the data."""
        text, compressors = self.text, bits_per_character(self.text.text("test")[:COMPRESSED])
        return {
            "context": self.hparams.context,
            "batch_size": self.hparams.batch_size,
            "data": {
                "corpus": self.hparams.corpus,
                **{key: getattr(text, key) for key in ("source", "sha256", "recipe", "notes")},
                "characters": text.counts["characters"],
                "vocabulary": text.vocabulary.size,
                **{name: split.stop - split.start for name, split in text.splits.items()},
                "compressors": compressors,
                "gzip_bits_per_character": compressors["gzip -9"],
            },
        }

    def headline(self) -> str:
        """Return the data in a line."""
        size, vocabulary = self.text.counts["characters"], self.text.vocabulary
        text = f"{size:,} characters, vocabulary of {vocabulary.size} {vocabulary.kind}"
        return f"corpus {self.text.source}: {text}"

    def save(self, folder: Path) -> None:
        """Save the vocabulary beside the run."""
        self.text.vocabulary.save(folder)

    def require_vocabulary(self, folder: Path) -> None:
        """Refuse another vocabulary than the one that `save` has written into the folder of a run."""
        if Vocabulary.load(folder) != self.text.vocabulary:
            raise InputError(
                f"data.corpus {self.hparams.corpus} has another vocabulary of {self.text.vocabulary.kind} than "
                f"{folder.name}: choose a text with the same one (with data.vocabulary bytes all texts share it)."
            )

    def _on_device(self, shares: Iterable[WindowBatch], together: int) -> Iterator[WindowBatch]:
        """Replace the offsets (B,) of shares by the windows themselves, of some shares at once."""
        device, rest = self.trainer.strategy.root_device, iter(shares)
        if self._tokens.device != device and self._fits(device):
            self._tokens = self._tokens.to(device)
        while some := list(islice(rest, together)):
            windows = self._gather(torch.stack([share.windows for share in some]), device)
            yield from (share._replace(windows=part) for share, part in zip(some, windows, strict=True))

    def _fits(self, device: torch.device) -> bool:
        return device.type != "cuda" or self._tokens.nbytes < torch.cuda.mem_get_info(device)[0] / 4

    def _gather(self, offsets: Tensor, device: torch.device) -> Tensor:
        """Return the windows (..., T + 1) at offsets (...) of the host, int64, on a device."""
        windows = self._tokens.unfold(0, self.hparams.context + 1, 1)
        cut = windows[pinned(offsets).to(self._tokens.device, non_blocking=True)]
        return pinned(cut).to(device, non_blocking=device.type == "cuda").long()
