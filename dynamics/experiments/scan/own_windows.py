"""The windows that a run was measured on in training: a scan of it takes them where --text is not given."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning as L
from transformers import AutoTokenizer

from dynamics import runs
from dynamics.allowed import import_class
from dynamics.config import read_config
from dynamics.errors import InputError
from dynamics.experiments.scan.options import SHAPE_OF_LEARNING, ScanOptions
from dynamics.loading.inputs import Batches, InputSource
from dynamics.loading.models import Loaded
from dynamics.loading.options import READING
from dynamics.loading.subjects import Subject
from dynamics.models import hub


def applies(subject: Subject, options: ScanOptions) -> bool:
    """Whether a model is measured on the windows of its own run; then options for other windows are refused."""
    if subject.origin.kind != "run" or options.text is not None:
        return False
    where = f"on {subject.model}, which is measured on the windows of its own run"
    options.refuse_unused((*READING, "tokenizer"), where, "remove it, or give --text")
    if options.protocol == SHAPE_OF_LEARNING:
        raise InputError(f"--protocol {SHAPE_OF_LEARNING} cuts its own windows; add the --text that it cuts.")
    return True


def batches(run: Path, loaded: Loaded, allowed: Sequence[str] = ()) -> Batches:
    """Return the windows of a run, built again from its data for one of its models; refuse data that has changed.

    Args:
        allowed: packages, besides our own, that the data may be of.
    """
    path = run / "config.yaml"
    content = read_config(path)
    try:
        config = content["data"]
        name, settings = str(config["class_path"]), dict(config.get("init_args") or {})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not say what {run.name} was measured on: give --text.") from error
    kind: Any = import_class(name, L.LightningDataModule, f"{path} (data)", allowed)
    try:
        data = kind(**settings)
    except TypeError as error:
        raise InputError(f"{path} (data): {name} does not take its settings ({error}): give --text.") from error
    if not hasattr(data, "evaluation_batches"):
        raise InputError(f"{path} (data): {name} has no windows to measure on: give --text.")
    data.prepare_data()
    data.setup("fit")
    if hasattr(data, "encode"):  # the examples of a task
        tokenizer = hub.fetch(AutoTokenizer.from_pretrained, str(run), name=f"the tokenizer of {run.name}")
        longest = getattr(loaded.config, "max_position_embeddings", None) or tokenizer.model_max_length
        data.encode(tokenizer, min(tokenizer.model_max_length, longest))
    windows = data.evaluation_batches()
    digest = sha256(b"".join(batch["input_ids"].numpy().tobytes() for batch in windows)).hexdigest()
    if digest != runs.read(run).to_dict().get("probe", {}).get("sha256", digest):
        raise InputError(
            f"the data of {run.name} is not what it was in training, so its windows cannot be built again: give --text."
        )
    counted = [(batch, len(batch["input_ids"]), number / len(windows)) for number, batch in enumerate(windows, start=1)]
    return Batches(lambda: iter(counted), InputSource(lambda: iter(()), {"source": "the run's own evaluation windows"}))
