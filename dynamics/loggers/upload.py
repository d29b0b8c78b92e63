"""What is sent to W&B, by a thread of its own: the rows of a journal, each once, whatever W&B has of them already."""

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import wandb

from dynamics.errors import in_words
from dynamics.loggers.journal import Journal, LoggedRow
from dynamics.loggers.names import OF_LAYER, STEP
from dynamics.loggers.profiles import Profiles

PATIENCE = 600  # seconds that W&B's own process may take to start, or to write what it holds
INIT_SECONDS, FINISH_SECONDS = 15, 30  # seconds that a server may take to begin a run, and to take what is left


class Upload:
    """A W&B run, fed by its own thread: nothing that W&B does keeps a training step waiting.

    Online, the server says up to which step it has the run: earlier rows are left out and later ones sent, also those
    from before this process. Offline, nobody knows what earlier processes have left: the journal is written anew, as
    one log that replaces theirs. Where W&B fails, one sentence says so, and the run goes on.

    Args:
        journal: what has been logged.
        options: of `wandb.init`, without the mode.
        mode: `online` (then offline where there is no key, or no server) or `offline`.
        pictured: quantities that are drawn as pictures.
    """

    def __init__(self, journal: Journal, options: Mapping[str, Any], mode: str, pictured: Iterable[str]) -> None:
        self.run: Any = None
        self._journal, self._options, self._mode, self._pictured = journal, dict(options), mode, tuple(pictured)
        self._has_failed, self._sent = False, -1  # the newest step whose row is sent
        self._open: dict[int, LoggedRow] = {}  # rows that may still get values, by step
        self._reset()
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def _reset(self) -> None:
        self._profiles, self._summary = Profiles(self._pictured), dict[str, Any]()
        self._defined: set[str] = set()

    def begin(self, entries: list[LoggedRow], config: Mapping[str, Any]) -> None:
        """Begin the run and send what the journal holds; its last row may still get values."""
        self._tasks.put(lambda: self._begin(entries, config))

    def add(self, step: int, time: float, values: Mapping[str, Any]) -> None:
        self._tasks.put(lambda: self._add(LoggedRow(step, time, dict(values))))

    def complete(self, step: float) -> None:
        self._tasks.put(lambda: self._complete(step))

    def end(self, exit_code: int, artifact: Callable[[], Any]) -> None:
        """Send what is left and close the run; returns when that is done. `artifact` makes what is attached to it."""
        self._tasks.put(lambda: self._end(exit_code, artifact))
        self._tasks.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            print(f"W&B does not end within {PATIENCE} seconds: what is missing is sent on resume")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._has_failed:
                self._try(task)

    def _try(self, task: Callable[[], None]) -> None:
        """Do a task; where W&B's own process has died, or whatever else fails, do it once more with a new one."""
        try:
            try:
                task()
            except Exception:  # W&B's are of many kinds, and none may end a run
                if self.run is None:
                    raise
                _end_process()
                self._reset()
                self._start([entry for entry in self._journal.read() if entry.step <= self._sent])
                task()
        except Exception as error:
            self._has_failed = True
            _end_process()
            print(f"W&B failed ({in_words(error)}): the run goes on without it; what is missing is sent on resume")

    def _begin(self, entries: list[LoggedRow], config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._start(entries[:-1])
        for entry in entries[-1:]:
            self._add(entry)

    def _start(self, entries: list[LoggedRow]) -> None:
        """Begin or resume the W&B run, and send what it does not have."""
        if self._mode == "online" and (why := self._start_online()):
            print(f"W&B is logged offline ({why})")
            self._mode = "offline"
        if self._mode == "offline":
            self._init("offline", init_timeout=PATIENCE, x_transaction_log_flush_interval=1)
        self.run.config.update(self._config, allow_val_change=True)
        self.run.define_metric(STEP)
        for entry in entries:
            self._send(entry)
        if self._journal.is_whole:
            self._discard_earlier()

    def _start_online(self) -> str:
        """Begin the run, or resume it, on the server; returns why that is not possible."""
        try:
            self._set_up(silent=True)  # else the server would be asked for the name of the user
            if not wandb.login(prompt=False, verify=False):
                return "there is no key: wandb login"
            self._init("online", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True)
            print(f"W&B: {self.run.url}")
        except Exception as error:
            _end_process()  # else W&B's process takes the id for one that is in use
            return in_words(error)
        return ""

    def _init(self, mode: Literal["online", "offline"], **settings: Any) -> None:
        self._set_up()
        quiet = wandb.Settings(quiet=True, console="off", show_info=False, **settings)
        # The sync of a log that resumes would put it behind what the server has, with other steps.
        resume: Literal["allow"] | None = "allow" if mode == "online" else None
        self.run = wandb.init(**self._options, mode=mode, resume=resume, settings=quiet)

    @staticmethod
    def _set_up(silent: bool = False) -> None:
        wandb.setup(wandb.Settings(show_info=False, silent=silent, x_service_wait=PATIENCE))

    def _add(self, entry: LoggedRow) -> None:
        """Add values to the row of their step; where that is sent already, W&B warns that it ignores them."""
        self._open.setdefault(entry.step, LoggedRow(entry.step, entry.time, {})).values.update(entry.values)

    def _complete(self, step: float) -> None:
        for due in sorted(number for number in self._open if number <= step):
            self._send(self._open[due])
            del self._open[due]

    def _send(self, entry: LoggedRow) -> None:
        """Send a whole row, unless W&B has it."""
        new = self._profiles.add(entry.step, entry.values)
        self._summary |= new
        for key in entry.values.keys() - self._defined:
            self._define(key)
        if entry.step >= self.run.starting_step:
            self.run.log(self._row(entry), step=entry.step, commit=True)
            if any(map(OF_LAYER.fullmatch, entry.values)):
                self._summarise()
        elif (before := self._journal.forgotten.get(entry.step)) and (key := _differing(before.values, entry.values)):
            print(
                f"W&B keeps the values of before the resume up to step {self.run.starting_step - 1}: at step "
                f"{entry.step} its {key} is {before.values[key]:.6g}, in the record {entry.values[key]:.6g}"
            )
            self._journal.forgotten.clear()
        self._sent = max(self._sent, entry.step)

    def _row(self, entry: LoggedRow) -> dict[str, Any]:
        """Return what is logged at a step: its values, and pictures of what was measured there."""
        row = {STEP: entry.step, "_timestamp": entry.time, **entry.values}
        for key, value in entry.values.items():
            if isinstance(value, dict):
                row[key] = wandb.Histogram(np_histogram=(np.array(value["counts"]), np.array(value["edges"])))
        for name, picture in self._profiles.pictures(entry.step):
            key = f"layer_by_step/{name}"
            if key not in self._defined:
                self._define(key)
            row[key] = wandb.Image(picture)
        return row

    def _define(self, key: str) -> None:
        self.run.define_metric(key, step_metric=STEP)
        self._defined.add(key)

    def _summarise(self) -> None:
        self.run.summary.update(self._summary)
        self._summary = {}

    def _discard_earlier(self) -> None:
        """Delete the logs of earlier processes: this one holds all that they do, and a sync would repeat it."""
        current = Path(self.run.dir).parent
        for path in current.parent.glob(f"*run-*-{self._options['id']}"):
            if path.name != current.name and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)

    def _end(self, exit_code: int, artifact: Callable[[], Any]) -> None:
        self._complete(math.inf)
        self._summarise()
        if exit_code == 0:
            self._attach(artifact)
        folder = Path(self.run.dir).parent
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:
            print(f"W&B did not take everything within {FINISH_SECONDS} seconds", end="; ")
            _end_process()
            if not self._journal.is_whole:
                print("what is missing is sent when the run resumes")
                return
            print("all of it is logged offline")
            self._mode = "offline"
            self._reset()
            self._start(self._journal.read())
            self._end(exit_code, artifact)
            return
        if self._mode == "offline":
            print(f"W&B was logged offline; send it: wandb sync {os.path.relpath(folder)}")

    def _attach(self, artifact: Callable[[], Any]) -> None:
        try:
            if (made := artifact()) is not None:
                self.run.log_artifact(made)
        except Exception as error:  # it is no reason to leave the run open
            print(f"W&B gets no artifact of the record ({in_words(error)})")


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a key whose values differ by more than rounding does, but not what depends on a clock; empty for none."""
    for key, a in now.items():
        b: Any = before.get(key)
        are_numbers = isinstance(a, float) and isinstance(b, float) and not key.startswith("cost/")
        if are_numbers and abs(a - b) > 1e-3 * max(abs(a), abs(b)):
            return key
    return ""


def _end_process() -> None:
    """End W&B's own process, alive or not: the next run begins another one."""
    with suppress(Exception):
        wandb.teardown()
    wandb.run = None  # it stays where the process had died, and `login` then looks for no key
