"""What the first rank does alone, while the others wait for it."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch.distributed as dist

from dynamics.errors import Failure, InputError, in_words

PATIENCE = timedelta(days=365)  # the watchdog of the other group ends a run after 30 minutes; measuring may take longer
T = TypeVar("T")


def on_first_rank(work: Callable[[], T]) -> T:
    """Return what `work` returns on the first rank, where alone it runs; the others wait on the host, however long.

    Raises:
        InputError, Failure: the work has failed on the first rank: every rank ends, with its message.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    group, outcome = _patient_group(dist.group.WORLD), list[Any]([None, None])
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except BaseException as error:
            ours = isinstance(error, InputError | Failure)
            outcome[1] = error if ours else Failure(f"the first rank has failed ({in_words(error)}).")
            raise
        finally:
            dist.broadcast_object_list(outcome, src=0, group=group)
        return outcome[0]
    try:
        dist.broadcast_object_list(outcome, src=0, group=group)
    except RuntimeError as error:
        raise Failure("the first rank has ended; see what it reports.") from error
    if outcome[1] is not None:
        with suppress(
            RuntimeError
        ):  # Lightning kills the first rank, and what it reports, where another ends before it
            dist.barrier(group)
        raise outcome[1]
    return outcome[0]


@lru_cache(maxsize=1)
def _patient_group(world: Any) -> Any:
    """Return a group of all ranks that waits on the host: a connection that breaks ends the wait at once."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
