"""`dynamics fit`, `validate` and `test`: runs with names, sizes and resuming."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from transformers.utils import logging as transformers_logging

from dynamics import runs
from dynamics.allowed import is_of_a_run
from dynamics.config import RunOptions, flat, gather_config, read_config, split_options
from dynamics.errors import Failure, InputError
from dynamics.lightning_compat import (
    come_from_callbacks,
    count_steps,
    end_other_ranks,
    is_first_rank,
    leave_group,
    quiet,
    watch_other_ranks,
)
from dynamics.lineage import fork_in, forked
from dynamics.lock import locked
from dynamics.record import Record, Row, require_intact
from dynamics.run_info import FitInfo
from dynamics.runs import Run
from dynamics.training import continuation
from dynamics.training.checkpoint import read_state, resolve_resume, states
from dynamics.training.describe import announce, describe, require_room
from dynamics.training.forking import Origin, unbegun
from dynamics.training.lightning_cli import RunCLI
from dynamics.training.ranks import agree_on, ended
from dynamics.training.trainer_options import refuse_training_options


def main(verb: str, argv: Sequence[str], fork: tuple[str, int | None] | None = None) -> None:
    """Run a verb; with `fork`, a run and a step, `fit` continues that run from there as another one."""
    quiet()
    watch_other_ranks()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    options = split_options(argv)
    try:
        if verb == "fit":
            fit(options, Origin.find(*fork) if fork else None)
        else:
            evaluate(verb, options)
    except MisconfigurationException as error:
        raise InputError(" ".join(str(error).split())) from error


class PreparedRun(NamedTuple):
    """A run that is set up, of which nothing is written yet."""

    cli: RunCLI
    info: FitInfo
    state: Path | None  # from which it goes on
    origin: Origin | None  # of a fork that begins
    newest: list[Path]  # state of the run when it was chosen, if there was one

    def train(self) -> None:
        """Train, without the `run.json` that the first rank writes."""
        _train(self.cli, self.state)


def set_up(options: RunOptions, origin: Origin | None = None, folder: Path | None = None) -> PreparedRun:
    """Set up the run that `fit` trains (in `folder`, if it is none of `checkpoints/`); refuse all that it refuses."""
    options = options if origin is None else origin.options(options)
    if options.run is None and options.resume == "auto":
        raise InputError("--resume auto needs the name of the run to resume: add --run NAME.")
    stem = Path(options.configs[0]).stem if options.configs else "run"
    folder = folder or runs.new(options.run or agree_on(runs.name_by_time(stem, options.size)))
    # The other ranks run the same command and meet the folder that the first one has begun.
    if is_first_rank():
        runs.refuse_existing(folder) if options.resume is None else require_intact(folder)
    cli = _configure(folder, options)
    if options.resume is not None:
        continuation.refuse_configuration(cli)
    newest = states(folder)[:1]
    origin = origin or (unbegun(folder) if options.resume == "auto" else None)
    state = origin.state if origin else resolve_resume(options.resume, folder) if options.resume else None
    info = _prepare(cli, state, origin)
    if options.resume is not None:
        continuation.refuse_shorter(cli)
    return PreparedRun(cli, info, state, origin, newest)


def fit(options: RunOptions, origin: Origin | None = None) -> None:
    """Train one run, from its beginning, from where it stopped or, as a fork, from the state of another run."""
    setup = set_up(options, origin)
    folder = setup.cli.folder

    def check() -> None:
        """Refuse the state that was chosen where a process that held the lock until now has written a newer one."""
        if options.resume == "auto" and states(folder)[:1] != setup.newest:
            raise InputError(f"the run {folder.name} has gone on meanwhile: resume it again.")

    if is_first_rank():
        _train_in_folder(setup, options.resume, check)
    else:
        setup.train()


def evaluate(verb: str, options: RunOptions) -> None:
    """Write the results of a run's newest state on the validation windows, or on the whole test split.

    They are printed but not recorded where they are not comparable with the run's other rows: results of a part of a
    split, or of other validation windows.
    """
    if options.run is None:
        raise InputError(f"dynamics {verb} needs a run: add --run NAME.")
    refuse_training_options(verb, options.rest)
    folder = runs.resolve(options.run)
    state = resolve_resume(options.resume or "auto", folder)
    if state is None:
        raise InputError(f"the run {folder.name} has no training state to {verb} (nothing in {folder}/state/).")
    cli = _configure(folder, options, "--trainer.logger", "false")
    _prepare(cli, state)
    trainer = cli.trainer
    with _interruptible(), ended("another rank"):
        getattr(trainer, verb)(cli.model, datamodule=cli.datamodule, ckpt_path=state, weights_only=True, verbose=False)
    leave_group()
    if not is_first_rank():
        return
    site, record = "test" if verb == "test" else "validation", Record(folder)
    step = read_state(state, cli.model.network)["global_step"]
    note = _incomparable(cli, verb)
    for name, value in trainer.callback_metrics.items():
        print(f"{name} at step {step}: {value:.4f}{note}")
    if not note:
        values = ((name.split("/")[1], float(value)) for name, value in trainer.callback_metrics.items())
        with locked(folder):  # the run may be training: it would write over these rows, or they over its own
            record.add_curves(Row(folder.name, "", "", step, site, -1, -1, metric, value) for metric, value in values)
            record.flush()


def _incomparable(cli: RunCLI, verb: str) -> str:
    """Return why results are not recorded; empty where they are those of the whole split, as the run was set up."""
    counts = cli.trainer.num_test_batches if verb == "test" else cli.trainer.num_val_batches
    loader: Any = cli.trainer.test_dataloaders if verb == "test" else cli.trainer.val_dataloaders
    if loader is None:
        raise InputError(
            f"there is nothing to {verb}: trainer.limit_{'test' if verb == 'test' else 'val'}_batches is 0; remove it."
        )
    if sum(counts) < len(loader):
        return f" (not recorded: {sum(counts)} of {len(loader)} batches)"
    windows = cli.datamodule.hparams.get("validation_windows")
    saved = cli.folder / "config.yaml"
    before = flat(read_config(saved)).get("data.init_args.validation_windows") if saved.is_file() else windows
    if verb == "validate" and windows != before:
        return f" (not recorded: {windows} validation windows, {before} in the run)"
    return ""


def _configure(folder: Path, options: RunOptions, *words: str) -> RunCLI:
    """Parse the configuration named on the command line, or else that of the run, and build what it describes."""
    is_own = options.configs and not any(is_of_a_run(Path(path)) for path in options.configs)
    if not options.configs and (folder / "config.yaml").is_file():
        options = options._replace(configs=[str(folder / "config.yaml")])
    args = ["--config", yaml.safe_dump(gather_config(options)), *options.rest, *words]
    return RunCLI(folder, args, None if is_own else options.allowed)


def _prepare(cli: RunCLI, state: Path | None, origin: Origin | None = None) -> FitInfo:
    """Set data and model up, and refuse all that can be refused before anything is written."""
    if origin is not None:
        origin.refuse_settings(cli)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    if origin is not None:
        origin.refuse_vocabulary(cli)
    cli.model.build(cli.datamodule)
    if state is not None:
        read_state(state, cli.model.network)
    count_steps(cli.trainer, getattr(cli.datamodule, "steps_per_epoch", None))
    info = describe(cli)
    if state is not None:
        continuation.refuse_contents(cli, info)
    if fork := origin.facts(cli, info) if origin else fork_in(cli.folder):
        info = forked(info, fork)
        cli.monitor.begins = fork["step"]
    return info


def _train_in_folder(setup: PreparedRun, resume: str | None, check: Callable[[], None]) -> None:
    """Train as the rank that owns the run's folder."""
    cli, info, state, origin, _ = setup
    folder = cli.folder
    require_room(cli, state)
    try:
        with runs.start(info, resume, update=True, check=check) as run:
            announce(cli, info, state)
            cli.save_config()
            if origin is not None:
                origin.bring(folder)
            cli.datamodule.save(folder)
            _train_and_explain(cli, state, run)
            run.ends_as = "done" if cli.trainer.global_step >= cli.trainer.max_steps else "stopped"
    except KeyboardInterrupt:
        if folder.exists():
            newest = next((path.name for path in states(folder)), "none yet")
            print(f"run {folder.name} resumes from its newest state ({newest}) with --resume auto")
        raise
    print(f"run {folder.name} is in {folder}/; draw it with: dynamics report {folder.name}")


def _train_and_explain(cli: RunCLI, state: Path | None, run: Run[FitInfo]) -> None:
    """Train, and turn what ends it early into what the run and the command line report."""
    try:
        _train(cli, state)
    except (InputError, MisconfigurationException):
        run.is_discarded = cli.trainer.global_step == cli.monitor.begins
        raise
    except RuntimeError as error:
        if not come_from_callbacks(error):
            raise
        raise Failure(f"trainer.callbacks: {' '.join(str(error).split())}") from error
    except Failure as failure:
        # The weights of the step that failed may be what is not finite.
        intact = (path for path in states(cli.folder) if path != runs.state_path(cli.folder, cli.trainer.global_step))
        raise Failure(f"{failure} The newest state from before: {next(intact, 'none')}.") from failure


def _train(cli: RunCLI, state: Path | None) -> None:
    try:
        with _interruptible(), ended("another rank"):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=state, weights_only=True)
    except BaseException:
        end_other_ranks(cli.trainer)
        raise
    leave_group()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the exit by which Lightning answers to a `KeyboardInterrupt`, and to nothing else, back into that."""
    try:
        yield
    except SystemExit as exit_:
        asked = exit_.__context__
        raise (asked if isinstance(asked, KeyboardInterrupt) else KeyboardInterrupt()) from None
