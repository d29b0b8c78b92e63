"""The windows that a run of ours was measured on while it trained: a scan takes them where --text does not say."""

from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig

from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.scan.options import SHAPE_OF_LEARNING, ScanOptions
from dynamics.loading.options import READING
from dynamics.loading.subjects import Subject
from dynamics.models import hub


def applies(subject: Subject, options: ScanOptions) -> bool:
    """Whether a model is measured on the windows of its own run.

    Raises:
        InputError: so it is, and an option asks for something else.
    """
    if subject.kind != "run" or options.text is not None:
        return False
    where = f"on {subject.model}, which is measured on the windows of its own run"
    options.refuse_unused((*READING, "tokenizer"), where, "remove it, or give --text")
    if options.protocol == SHAPE_OF_LEARNING:
        raise InputError(f"--protocol {SHAPE_OF_LEARNING} cuts its own windows; add the --text that it cuts.")
    return True


def windows(run: Path, config: PreTrainedConfig) -> list[dict[str, Tensor]]:
    """The windows themselves, made again for the model with this configuration.

    Raises:
        InputError: they cannot be made, or the data has changed.
    """
    path = run / "config.yaml"
    try:
        told = yaml.safe_load(path.read_text())["data"]
        package, _, name = told["class_path"].rpartition(".")
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(f"{path} does not tell what {run.name} was measured on: give --text.") from error
    data = getattr(import_module(package), name)(**told.get("init_args", {}))
    data.prepare_data()
    data.setup("fit")
    if hasattr(data, "encode"):  # the examples of a task
        tokenizer = hub.fetch(AutoTokenizer.from_pretrained, str(run), name=f"the tokenizer of {run.name}")
        reach = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        data.encode(tokenizer, min(tokenizer.model_max_length, reach))
    made = data.evaluation_batches()
    digest = sha256(b"".join(batch["input_ids"].numpy().tobytes() for batch in made)).hexdigest()
    if digest != runs.read(run).to_dict().get("probe", {}).get("sha256", digest):
        raise InputError(
            f"the data of {run.name} is not what it was in training, so its windows cannot be made again: give --text."
        )
    return made


def facts(batches: list[dict[str, Tensor]]) -> dict[str, Any]:
    """For the record; padding is no token."""
    ids = [batch["input_ids"] for batch in batches]
    masks = [batch.get("attention_mask", torch.ones_like(batch["input_ids"])) for batch in batches]
    return {
        "source": "the run's own probe windows",
        "inputs": sum(map(len, ids)),
        "tokens": sum(int(mask.sum()) for mask in masks),
    }
