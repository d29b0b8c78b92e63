"""Guards around foreign models: quiet libraries, and one sentence where memory runs out."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dynamics.errors import InputError


def quiet() -> None:
    """Turn off the progress bars and the advice of the libraries that load models."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def out_of_memory(
    name: str, size: int, option: str = "--batch_size", otherwise: str = "shorter inputs or --dtype bf16"
) -> Iterator[None]:
    """Refuse what does not fit into memory: propose half of `size`, or `otherwise` where it is 1."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "memory" not in str(error).lower():
            raise
        hint = f"{option} {size // 2}" if size > 1 else otherwise
        raise InputError(f"{name}: out of memory with {option} {size}: try {hint}.") from error
