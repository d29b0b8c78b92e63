"""A small run whose files are damaged on purpose, and what reads each of them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from dynamics import record, runs
from dynamics.config import read_config
from dynamics.data.corpus import load as load_corpus
from dynamics.data.vocabulary import Vocabulary
from dynamics.errors import InputError
from dynamics.files import DIGESTS, write_atomically, write_text
from dynamics.models import hub
from dynamics.models.transformer import CharTransformerLM
from dynamics.record import Array, Record, Row
from dynamics.training.checkpoint import resolve_resume
from dynamics.training.monitor import read_plan
from tests.runs import fit

COUNT = int(os.environ.get("DYNAMICS_FAULTS", "80"))
"""Faults of each kind of test; `make faults` sets more."""

NOTICED, HARMLESS, SILENT = "noticed", "harmless", "silent"


@dataclass(frozen=True)
class Kind:
    """A kind of file: its path, and what the reader makes of it, in a form that can be compared."""

    path: Path
    read: Callable[[], Any]
    is_made_again: bool = False  # what is in the cache

    def outcome(self, before: Any) -> str:
        """Read the damaged file: anything but an `InputError` or a value comes through."""
        try:
            after = self.read()
        except InputError as error:
            return NOTICED if "\n" not in str(error) else str(error)
        return HARMLESS if after == before else SILENT


def make_run(text: Path) -> Path:
    """Train a tiny run in the current folder, with a part of every kind; return its folder."""
    fit(text, "a", metrics="[anisotropy]", trainer__max_steps=2, checkpoints__every=1, trainer__val_check_interval=2)
    folder = runs.CHECKPOINTS / "a"
    arrays = [Array("a", "", "", 3, "residual", 0, -1, "anisotropy", np.arange(6.0).reshape(2, 3))]
    Record(folder).write(
        3, [Row("a", "", "", 3, "residual", layer, -1, "anisotropy", 0.1 * layer) for layer in range(3)], arrays
    )
    write_text(folder / "plan.json", json.dumps({"anisotropy": [0, 1, 2]}))
    write_atomically(folder / "vectors" / "a.npz", lambda file: np.savez(file, x=np.arange(9.0)))
    return folder


def kinds(folder: Path, text: Path) -> dict[str, Kind]:
    """Return every kind of file that a run and the cache hold."""
    weights = sorted((folder / "weights").iterdir())[-1]
    cached = load_corpus(str(text), progress=False).path.parent
    memory = next((Path(os.environ["DYNAMICS_CACHE"]) / "inputs").glob("*.json"))

    def corpus() -> Any:
        loaded = load_corpus(str(text), progress=False)
        return loaded.ids.tobytes(), loaded.text(), loaded.splits, loaded.vocabulary, loaded.sha256

    def model() -> Any:
        network = hub.fetch(CharTransformerLM.from_pretrained, str(weights))
        return [(name, tensor.tolist()) for name, tensor in network.state_dict().items()]

    def state() -> Any:
        path = resolve_resume(str(newest), folder)
        content = torch.load(path, weights_only=True)
        return (
            content["global_step"],
            [x.tolist() for x in content["state_dict"].values()],
            content["pytorch-lightning_version"],
        )

    def config() -> Any:
        return hub.fetch(AutoConfig.from_pretrained, str(weights)).to_dict()

    newest = max((folder / "state").glob("*.ckpt"))
    parts = {path.name.split("-")[0]: path for path in sorted((folder / "record").glob("*.parquet"))}
    rows = lambda: record.read(folder).to_dict("list").__repr__()  # noqa: E731
    return {
        "geometry": Kind(parts["geometry"], rows),
        "curves": Kind(parts["curves"], rows),
        "arrays": Kind(parts["arrays"], lambda: repr(record.read_arrays(folder))),
        "run.json": Kind(folder / "run.json", lambda: runs.read(folder).to_dict()),
        "config.yaml": Kind(folder / "config.yaml", lambda: read_config(folder / "config.yaml")),
        "plan.json": Kind(folder / "plan.json", lambda: read_plan(folder / "plan.json")),
        "tokenizer.json": Kind(folder / "tokenizer.json", lambda: Vocabulary.load(folder)),
        "state": Kind(newest, state),
        "weights": Kind(weights / "model.safetensors", model),
        "config.json": Kind(weights / "config.json", config),
        "text.txt": Kind(cached / "text.txt", corpus, True),
        "facts.json": Kind(cached / "facts.json", corpus, True),
        "ids": Kind(next(cached.glob("*.npy")), corpus, True),
        "inputs": Kind(memory, corpus, True),
        "digests of a record": Kind(folder / "record" / DIGESTS, rows),
        "digests of weights": Kind(weights / DIGESTS, model),
        "digests of a cache": Kind(cached / DIGESTS, corpus),
    }


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Put a folder's files back afterwards."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        copy.rename(folder)
