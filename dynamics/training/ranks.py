"""What the first rank does alone, while the others wait for it; the name that all ranks give their run."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dynamics.errors import Failure, InputError, in_words
from dynamics.lightning_compat import is_first_rank

PATIENCE = timedelta(days=365)  # the watchdog of the other group ends a run after 30 minutes; measuring may take longer
NAME = "DYNAMICS_RUN"  # the environment variable that tells the ranks that Lightning starts how their run is called
SIZES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # how many ranks others have started
T = TypeVar("T")


def agree_on(name: str) -> str:
    """Return the name of a run that all of its ranks agree on; each has made one up.

    Raises:
        InputError: the ranks were started from outside, and cannot talk to one another yet.
    """
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun: the first to say it decides
        address = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=False)  # type: ignore[attr-defined]
        return store.compare_set(f"{NAME}/{environment.get('TORCHELASTIC_RESTART_COUNT')}", "", name).decode()
    is_among_others = not is_first_rank() or any(int(environment.get(size, 1)) > 1 for size in SIZES)
    if is_among_others and NAME not in environment:
        raise InputError("ranks that are started from outside need a name that all of them know: add --run NAME.")
    if is_first_rank():
        environment[NAME] = name
    return environment[NAME]


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


class Agreement:
    """What any rank asks for, known to all of them at the same step: the next one, so that no device has to wait."""

    def __init__(self) -> None:
        self._sent: tuple[Any, torch.Tensor] | None = None

    def on(self, asked: int) -> int:
        """Tell the others what this rank asks for (0: nothing); return the greatest that any asked for a call ago.

        Of a single rank: what it asks for.

        Raises:
            Failure: a rank has ended.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return asked
        before = self.finish()
        mine, group = torch.tensor([asked]), _patient_group(dist.group.WORLD)
        self._sent = dist.all_reduce(mine, dist.ReduceOp.MAX, group=group, async_op=True), mine
        return before

    def finish(self) -> int:
        """Wait for what is on its way, on the host; return what any rank asked for with it."""
        if self._sent is None:
            return 0
        (work, greatest), self._sent = self._sent, None
        try:
            work.wait()
        except RuntimeError as error:
            raise Failure("another rank has ended; see what it reports.") from error
        return int(greatest)


@lru_cache(maxsize=1)
def _patient_group(world: Any) -> Any:
    """Return a group of all ranks that waits on the host: a connection that breaks ends the wait at once."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
