"""Cells as processes of this machine, some side by side. No torch here."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from dynamics.errors import Interrupted
from dynamics.experiments.sweep.cells import Cell
from dynamics.experiments.sweep.launchers.base import Board, Place, last_line
from dynamics.parent import variables

POLL_SECONDS = 0.2


class Local:
    """Runs `place.jobs` cells at a time (1 if it is not set), each as a process with a share of the cores and GPUs.

    They end with this process, even if it is killed. A cell that is open in another process waits for that.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._jobs = place, place.jobs or 1

    def launch(self, cells: Sequence[Cell], board: Board) -> None:
        waiting, running = list(cells), dict[int, _Process]()
        if names := [cell.name for cell in waiting if cell.is_open]:
            print(f"other processes are at work on these runs, which wait for them: {', '.join(names)}", flush=True)
        try:
            while waiting or running:
                for slot in range(self._jobs):
                    if slot not in running and (cell := next((one for one in waiting if not one.is_open), None)):
                        board.begin(cell)
                        running[slot] = _Process(cell, self._place, self._environment(slot))
                        waiting.remove(cell)
                for slot, process in list(running.items()):
                    if process.has_ended():
                        del running[slot]
                        process.raise_if_interrupted()
                        board.end(process.cell, process.failure)
                board.tick()
                if waiting or running:
                    time.sleep(POLL_SECONDS)
        except BaseException as error:
            _stop(list(running.values()), error)
            raise

    def _environment(self, slot: int) -> dict[str, str]:
        """Return the variables by which a cell keeps to its share, which is all that the machine has of one job."""
        jobs = self._jobs
        if jobs == 1:
            return {}
        shares = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}
        if devices := gpus():
            count = len(devices)
            own = (
                devices[slot * count // jobs : (slot + 1) * count // jobs] if jobs <= count else [devices[slot % count]]
            )
            shares["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return shares


class _Process:
    """A cell that runs; what it prints goes to its log."""

    def __init__(self, cell: Cell, place: Place, environment: dict[str, str]) -> None:
        self.cell, self._log = cell, place.log(cell)
        self._file: BinaryIO = self._log.open("ab")
        self._start = self._file.tell()
        # In a group of its own: Ctrl-C in a terminal reaches the sweep alone, which tells its cells.
        self._process = subprocess.Popen(
            cell.command,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | variables() | environment,
            process_group=0,
        )

    def has_ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self._file.close()
        return True

    def raise_if_interrupted(self) -> None:
        """Raise as the cell was ended, if somebody asked it to stop: nobody meant the others to begin then."""
        number = self._process.returncode - 128
        if number > 0 and self.cell.status == "interrupted":
            raise Interrupted(number)

    @property
    def failure(self) -> str:
        """Why the cell failed; empty if it did not."""
        code = self._process.returncode
        if code < 0:
            return f"killed by signal {-code}"
        return (last_line(self._log, self._start) or f"exit code {code}") if code else ""

    def ask_to_stop(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self) -> None:
        self._process.wait()
        self._file.close()


def _stop(processes: Sequence[_Process], error: BaseException) -> None:
    """Have processes save themselves and end; a second Ctrl-C has them end at once."""
    number = error.number if isinstance(error, Interrupted) else signal.SIGINT
    while processes:
        try:
            for process in processes:
                process.ask_to_stop(number)
            for process in processes:
                process.wait()
            return
        except KeyboardInterrupt:
            number = signal.SIGINT


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
