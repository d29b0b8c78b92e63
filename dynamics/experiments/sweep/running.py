"""A sweep as a run of its own: what has not been run yet is launched, and `run.json` says what became of each cell."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.sweep.board import SweepBoard
from dynamics.experiments.sweep.cells import Cell, read_cells
from dynamics.experiments.sweep.launchers import launcher_at
from dynamics.experiments.sweep.launchers.base import Launcher, Place
from dynamics.experiments.sweep.options import SweepOptions
from dynamics.experiments.sweep.planning import Plan
from dynamics.run_info import SweepInfo


def sweep(options: SweepOptions, more: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Run the cells that have not been run yet (see `read_cells`); with `dry_run`, say what would be run.

    What a cell prints goes to `checkpoints/<name>/<cell>.log`. A cell that was interrupted is resumed. One that fails
    does not keep the others from running, and is tried once more at the end.

    Returns:
        The names of the cells that are complete, and the last line that each one which failed printed, by its name.

    Raises:
        InputError: as `read_cells`; or `dynamics fit` would refuse a cell; or a cell was made with other words before,
            or is another run; or the name is that of another kind of run.
    """
    folder = runs.new(options.name)
    launcher = launcher_at(options.launcher, Place(folder, options.jobs, _sbatch_words(options.sbatch)))
    cells = read_cells(options.config, options.name, more)
    words = _words(folder, cells)
    if options.dry_run:
        _show(cells, options.jobs or 1)
        return [], {}
    if options.launcher == "local":  # elsewhere there may be other devices than here
        Plan([cell for cell in cells if not cell.status]).refuse()
    from dynamics.provenance import provenance  # loads torch

    info = SweepInfo(run=options.name, runs=words, **provenance())
    with runs.start(info, "auto", update=True, check=lambda: words.update(_words(folder, cells))) as current:
        failed = _launch(launcher, cells, current)
        current.ends_as = "failed" if failed else "done"
    return [cell.name for cell in cells if cell.status == "done"], failed


def _sbatch_words(options: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(options))
    except ValueError as error:  # a quotation mark without its second one
        raise InputError(f"sbatch must be the options of sbatch as a shell reads them ({error}): mend it.") from error


def _waiting(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.status != "done"]


def _show(cells: Sequence[Cell], jobs: int) -> None:
    """Print the commands of the cells that are not done, which of them are refused, and how long the others take."""
    waiting = _waiting(cells)
    for cell in waiting:
        print(shlex.join(["dynamics", "fit", "--run", cell.name, *cell.words]))
    plan = Plan(waiting)
    for name, why in plan.refused.items():
        print(f"{name} is refused: {why}")
    print(f"{len(cells)} runs, {len(cells) - len(waiting)} of them complete", flush=True)
    plan.refuse()
    if estimate := plan.estimate(jobs):
        print(estimate)


def _launch(launcher: Launcher, cells: Sequence[Cell], current: runs.Run[SweepInfo]) -> dict[str, str]:
    """Run the cells that are not done, those that fail once more; return why those failed that did twice, by name."""
    waiting = _waiting(cells)
    board = SweepBoard(current, cells)
    with board:
        launcher.launch(waiting, board)
        if again := [cell for cell in waiting if cell.name in board.failed]:
            board.repeat(again)
            launcher.launch(again, board)
    return board.failed


def _words(folder: Path, cells: Sequence[Cell] = ()) -> dict[str, list[str]]:
    """Return the words of every cell that the sweep has begun; refuse cells with others, and those it did not begin."""
    info = runs.read(folder) if (folder / "run.json").is_file() else None
    words = info.runs if isinstance(info, SweepInfo) else {}
    instead = f"give this sweep another name with --run, or remove {folder} and its runs."
    for cell in cells:
        if words.get(cell.name, list(cell.words)) != list(cell.words):
            raise InputError(f"the run {cell.name} was made with other options: {instead}")
        if cell.name not in words and runs.exists(runs.CHECKPOINTS / cell.name):
            raise InputError(f"the run {cell.name} exists and is none of this sweep: {instead}")
    return words
