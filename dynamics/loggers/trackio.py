"""trackio as a view of the record, through Lightning's interface for loggers: local, without an account."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from dynamics.errors import InputError


class TrackioLogger(Logger):
    """Passes every row to trackio under its key and step; `trackio show` draws them.

    Args:
        project: trackio project.
        name: the run's name; the command line fills it in. A run that resumes goes on under it.
    """

    def __init__(self, project: str = "dynamics", name: str | None = None) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError as error:
            raise InputError("trainer.logger TrackioLogger needs the package trackio: pip install trackio.") from error
        self._trackio, self._project, self._name = trackio, project, name
        self._run: Any = None
        self._config: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._name

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Keep the settings for the beginning of the run, where trackio takes them."""
        settings = vars(params) if isinstance(params, Namespace) else params
        plain = bool | int | float | str | None
        self._config |= {
            key: value if isinstance(value, plain) else str(value)
            for key, value in settings.items()
            if not key.startswith("_")  # which trackio keeps for itself, and Lightning for how it makes a class again
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._run is None:
            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            self._run = self._trackio.init(self._project, self._name, config=self._config, resume="allow", **quiet)
        self._run.log(dict(metrics), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, once all of its rows are written."""
        if self._run is not None:
            self._run.finish()
            self._run = None
