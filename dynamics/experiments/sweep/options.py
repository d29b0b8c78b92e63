"""Options of `dynamics sweep`. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from dynamics.errors import InputError


@dataclass(frozen=True)
class SweepOptions:
    """What to run, under which name, and where.

    Args:
        config: the sweep, for example configs/ablation.yaml
        run: name of the sweep under checkpoints/ (the name of the file when missing)
        launcher: where to run: local, or slurm (a job array that goes on by itself)
        jobs: runs side by side, at most: 1 here, each with a share of cores and GPUs; as many as SLURM lets
        sbatch: options of sbatch, after an equals sign, for launcher slurm
        dry_run: say what would run, what is refused and how long the rest takes; run nothing
    """

    config: Path
    run: str | None = None
    launcher: str = "local"
    jobs: int | None = None
    sbatch: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"jobs must be at least 1 (got {self.jobs}).")

    @property
    def name(self) -> str:
        """The name of the sweep, and the beginning of those of its runs."""
        return self.run or self.config.stem
