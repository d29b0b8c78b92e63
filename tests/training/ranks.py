"""One of two ranks under gloo, as `python -m tests.training.ranks SCENARIO RANK FILE`."""

import os
import sys
import time
from datetime import timedelta

import torch.distributed as dist

from dynamics.errors import InputError
from dynamics.training.ranks import on_first_rank


def outlast():
    """Take longer than any other wait of the group may."""
    time.sleep(4)
    return "done"


def refuse():
    raise InputError("it does not work: leave it out.")


def refuses_at_last():
    on_first_rank(lambda: None)  # both are there
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)
    print(on_first_rank(outlast))
    on_first_rank(refuse)


def dies():
    on_first_rank(lambda: os._exit(7))


if __name__ == "__main__":
    scenario, rank, file = sys.argv[1:]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=int(rank), world_size=2)
    try:
        globals()[scenario]()
    except Exception as error:
        print(type(error).__name__, error)
