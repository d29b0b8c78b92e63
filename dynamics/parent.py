"""Processes that end with the one that has started them, which cannot tell them if it is killed. No torch here."""

import os
import signal
import threading
import time
from collections.abc import Callable

VARIABLE = "DYNAMICS_PARENT"  # of the environment: the number of the process with which a command ends
POLL_SECONDS = 1.0


def variables() -> dict[str, str]:
    """Return what the environment of a command holds that is to end with this process."""
    return {VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """Have this process end as by SIGTERM after its parent, if that asked for it; its own children are not asked."""
    if parent := os.environ.pop(VARIABLE, ""):
        watch(int(parent), lambda: os.kill(os.getpid(), signal.SIGTERM))


def watch(parent: int, end: Callable[[], None]) -> None:
    """Call `end`, in a thread, as soon as the process `parent` is no longer that of this one."""

    def run() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        end()

    threading.Thread(target=run, daemon=True, name="parent").start()
