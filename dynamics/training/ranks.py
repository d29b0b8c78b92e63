"""What all ranks do together or the first one alone, however long the others wait; the name they give their run."""

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from dynamics.errors import Failure, InputError, in_words
from dynamics.lightning_compat import is_first_rank
from dynamics.metrics.streaming.ranks import are_several

PATIENCE = timedelta(days=365)  # the watchdog of the other group ends a run after 30 minutes; measuring may take longer
NAME = "DYNAMICS_RUN"  # the environment variable that tells the ranks that Lightning starts how their run is called
PARENT = os.getppid()  # of a rank that Lightning has started, the first rank
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
    if not are_several():
        return work()
    group, outcome = _patient_group(dist.group.WORLD), list[Any]([None, None])
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except BaseException as error:
            outcome[1] = _told("the first rank", error)
            raise
        finally:
            dist.broadcast_object_list(outcome, src=0, group=group)
        return outcome[0]
    with ended("the first rank"):
        dist.broadcast_object_list(outcome, src=0, group=group)
    if outcome[1] is not None:
        raise _quiet(outcome[1], group)
    return outcome[0]


def on_every_rank(work: Callable[[], T], is_joint: bool = False) -> list[T]:
    """Return what `work` returns on each rank to the first of them, to another what it returns there.

    `is_joint` says that the ranks wait for one another at work: one that fails then ends at once, and the others with
    it; else all of them end with its message.

    Raises:
        InputError, Failure: the work has failed on a rank.
    """
    if not are_several():
        return [work()]
    group, result, failure = _patient_group(dist.group.WORLD), None, None
    try:
        result = work()
    except BaseException as error:
        if is_joint:
            raise
        if not isinstance(error, InputError | Failure) and dist.get_rank() > 0:
            traceback.print_exc()  # now: the first rank ends this one as soon as it knows
        failure = error
    errors = list[Any]([None] * dist.get_world_size())
    with ended("another rank"):
        dist.all_gather_object(errors, failure and _told(f"rank {dist.get_rank()}", failure), group)
    first = next((error for error in errors if error is not None), None)
    if failure is not None and dist.get_rank() == 0:
        raise failure
    if first is not None:
        raise _quiet(first, group)
    results = list[Any]([None] * dist.get_world_size()) if dist.get_rank() == 0 else None
    with ended("another rank"):
        dist.gather_object(result, results, group=group)
    return [cast(T, result)] if results is None else results


@contextmanager
def ended(who: str) -> Iterator[None]:
    """Turn the error of a connection that breaks into what has happened: a rank has ended, of itself or by a signal.

    Raises:
        Failure: a rank has ended. The first rank says so, the second where it has lost the first, its parent.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        failure = Failure(f"{who} has ended; see what it reports.")
        failure.is_told = not is_first_rank() and (dist.get_rank() > 1 or os.getppid() == PARENT)
        raise failure from error


def _told(who: str, error: BaseException) -> InputError | Failure:
    """Return the error with which the other ranks end: of ours the same one."""
    return error if isinstance(error, InputError | Failure) else Failure(f"{who} has failed ({in_words(error)}).")


def _quiet(error: InputError | Failure, group: Any) -> InputError | Failure:
    """Return an error of all ranks as it ends this one: the first rank reports it, once.

    Lightning kills the first rank, and what it reports, where another ends before it: that waits for its end.
    """
    if dist.get_rank() > 0:
        error.is_told = True
        with suppress(RuntimeError):
            dist.barrier(group)
    return error


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
        if not are_several():
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
        with ended("another rank"):
            work.wait()
        return int(greatest)


@lru_cache(maxsize=1)
def _patient_group(world: Any) -> Any:
    """Return a group of all ranks that waits on the host: a connection that breaks ends the wait at once."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
