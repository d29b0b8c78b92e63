"""Forks: the exact state of a run, continued as another run with something changed."""

import os
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from dynamics import runs
from dynamics.config import RunOptions, read_config
from dynamics.errors import InputError
from dynamics.files import remember, sha256, write_atomically
from dynamics.lineage import fork_in, parent_of
from dynamics.run_info import FitInfo, ForkFacts
from dynamics.training.checkpoint import is_state, states, step_of
from dynamics.training.continuation import REPORTING, changes, spelled
from dynamics.training.lightning_cli import RunCLI

NETWORK = "the weights of the parent go on, in a network of the same shape"
FIXED = {  # keys that a fork keeps, and why
    **dict.fromkeys(("model.architecture", "model.depth", "model.width", "model.heads", "model.checkpoint"), NETWORK),
    "model.optimizer": "what an optimiser has accumulated says nothing to another one",
    "trainer.accumulate_grad_batches": "the state counts shares of a batch, not steps alone",
}
REPEATED = ("model.seed", "data.seed", "monitor.metrics*")  # they say again what seed_everything and metrics say


class Origin(NamedTuple):
    """Where a fork begins: the run that it continues, and the training state from which it goes on."""

    parent: Path
    state: Path

    @classmethod
    def find(cls, run: str, step: int | None) -> "Origin":
        """Return the state of a run after `step` updates; refuse a step without one, and name the nearest."""
        folder = runs.resolve(run)
        if not isinstance(runs.read(folder), FitInfo):
            raise InputError(f"{folder.name} is no training run: name one that `dynamics fit` has made.")
        if not (folder / "config.yaml").is_file():
            raise InputError(f"{folder / 'config.yaml'} is missing, which says what the fork continues: put it back.")
        kept = sorted(map(step_of, states(folder)))
        if not kept:
            raise InputError(f"the run {folder.name} has no training state to fork (nothing in {folder}/state/).")
        if step is None:
            raise InputError(f"--at is missing: give a step with a training state ({_listed(kept)}).")
        state = runs.state_path(folder, step)
        if not state.is_file():
            near = min(kept, key=lambda other: abs(other - step))
            raise InputError(
                f"the run {folder.name} has no training state at step {step}: the nearest is --at {near} (there are "
                f"{_listed(kept)}; checkpoints.keep says which a run keeps)."
            )
        if not is_state(state):
            raise InputError(f"{state} is damaged, or not a training state: choose another step ({_listed(kept)}).")
        return cls(folder, state)

    @property
    def step(self) -> int:
        """The updates that the parent had made."""
        return step_of(self.state)

    def options(self, given: RunOptions) -> RunOptions:
        """Return the options of `dynamics fit` that make the fork: the parent's configuration, then what is given."""
        for name, value in {"size": given.size, "resume": given.resume}.items():
            if value is not None:
                hint = "a network keeps its size" if name == "size" else "resume a fork with `dynamics fit --run NAME`"
                raise InputError(f"--{name} has no effect on a fork ({hint}); remove it.")
        run = given.run or runs.name_by_time(self.parent.name, f"at-{self.step}")
        return given._replace(run=run, configs=[str(self.parent / "config.yaml"), *given.configs])

    def refuse_settings(self, cli: RunCLI) -> None:
        """Refuse a configuration that cannot go on from the state."""
        for key, was, now in self._changes(cli):
            if key in FIXED:
                raise InputError(
                    f"{key} is {spelled(was)} in {self.parent.name} (now {spelled(now)}) and cannot change in a fork: "
                    f"{FIXED[key]}."
                )
        if cli.wandb_id and cli.wandb_id == getattr(runs.read(self.parent), "wandb_id", ""):
            raise InputError(
                f"W&B has {self.parent.name} under the id {cli.wandb_id}, which the fork would take over: give it "
                "another one (--trainer.logger.id), or null."
            )

    def refuse_vocabulary(self, cli: RunCLI) -> None:
        """Refuse other tokens than the parent's, in whose order the rows of its embedding stand."""
        if require := getattr(cli.datamodule, "require_vocabulary", None):
            require(self.parent)

    def facts(self, cli: RunCLI, now: FitInfo) -> ForkFacts:
        """Return what `run.json` says of the fork; refuse one without a step to make, or on a text changed unasked."""
        before = runs.read_begun(self.parent)
        changed = {key: [was, is_] for key, was, is_ in self._changes(cli)}
        if cli.trainer.max_steps <= self.step:
            raise InputError(
                f"trainer.max_steps {cli.trainer.max_steps} leaves nothing to do from step {self.step} on: give more."
            )
        texts = {info.to_dict().get("data", {}).get("sha256") for info in (before, now)}
        if len(texts) > 1 and not any(key.startswith("data.") for key in changed):
            raise InputError(
                f"the text of data.corpus {now.data.get('corpus')} is not the one that {self.parent.name} was trained "
                "on: restore it, or name another --data.corpus."
            )
        beside = self.parent.resolve().parent == cli.folder.resolve().parent
        name = self.parent.name if beside else str(self.parent.resolve())
        return {"parent": name, "parent_state": sha256(self.state), "step": self.step, "changed": changed}

    def bring(self, folder: Path) -> None:
        """Give the fork in `folder` the state, under a second name where the file system can: no byte is copied."""
        path = runs.state_path(folder, self.step)
        path.parent.mkdir(exist_ok=True)
        try:
            remember(path, self.state)
            try:
                os.link(self.state, path)
            except FileExistsError:
                pass
            except OSError:
                with self.state.open("rb") as content:
                    write_atomically(path, lambda file: shutil.copyfileobj(content, file))
        except FileNotFoundError as error:
            raise InputError(f"{self.state} has been deleted meanwhile: choose another step.") from error

    def _changes(self, cli: RunCLI) -> list[tuple[str, Any, Any]]:
        """Return the settings in which the fork differs from its parent, without where it reports."""
        pairs = changes(cli, read_config(self.parent / "config.yaml"))
        return [change for change in pairs if not any(fnmatch(change[0], name) for name in (*REPORTING, *REPEATED))]


def _listed(steps: Sequence[int], most: int = 8) -> str:
    """Return steps in words, the last ones where they are many."""
    return "... " * (len(steps) > most) + ", ".join(map(str, steps[-most:]))


def unbegun(folder: Path) -> Origin | None:
    """Return where the fork in `folder` begins, if it was stopped before it had brought its state; else None."""
    fork = fork_in(folder)
    if fork is None or states(folder):
        return None
    parent = parent_of(folder, fork)
    state = None if parent is None else runs.state_path(parent, fork["step"])
    if parent is None or state is None or not state.is_file():
        raise InputError(f"the fork {folder.name} has no state, and that of {fork['parent']} is gone: fork again.")
    return Origin(parent, state)
