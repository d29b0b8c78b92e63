"""Around the run of a foreign model: silence where it chats, a sentence where memory ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging as transformers_logging

from dynamics.errors import Refusal


def quiet() -> None:
    """No progress bars and no advice from the libraries that load models."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def out_of_memory(name: str, batch_size: int) -> Iterator[None]:
    """Running out of memory, told in a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = str(error).lower()
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in message:
            raise
        half = batch_size // 2
        hint = f"try --batch_size {half}" if half else "try a shorter --context or --dtype bf16"
        raise Refusal(f"{name}: out of memory with --batch_size {batch_size}: {hint}.") from error
