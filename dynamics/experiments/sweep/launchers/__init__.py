"""The launchers of a sweep, by name. No torch here."""

from collections.abc import Callable

from dynamics.errors import InputError
from dynamics.experiments.sweep.launchers.base import Launcher, Place
from dynamics.experiments.sweep.launchers.local import Local
from dynamics.experiments.sweep.launchers.slurm import Slurm

LAUNCHERS: dict[str, Callable[[Place], Launcher]] = {"local": Local, "slurm": Slurm}


def launcher_at(name: str, place: Place) -> Launcher:
    """Return the launcher of that name; refuse one that does not exist."""
    if name not in LAUNCHERS:
        raise InputError(f"launcher must be {' or '.join(LAUNCHERS)} (got {name}).")
    if place.sbatch and name != "slurm":
        raise InputError(f"sbatch has no effect with launcher {name}: leave it out, or use launcher slurm.")
    return LAUNCHERS[name](place)
