"""LightningCLI for one run: model, data, trainer and callbacks from one configuration, refused in one sentence."""

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dynamics import runs
from dynamics.allowed import add_named, parsing, refuse_foreign, refuse_functions
from dynamics.config import flat, read_config
from dynamics.errors import InputError, in_words
from dynamics.files import write_text
from dynamics.lightning_compat import Unprofiled, count_batches_before_shares, leave_signals
from dynamics.parsing import OneSentenceErrors
from dynamics.training.background import Background
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.curves import Curves
from dynamics.training.health import Health
from dynamics.training.monitor import Monitor
from dynamics.training.nulls import refuse_nulls
from dynamics.training.progress import ProgressBar
from dynamics.training.signals import Interrupt
from dynamics.training.trainer_options import refuse_settings, refuse_trainer, refuse_words


class RunParser(OneSentenceErrors, LightningArgumentParser):
    """Lightning's parser, refusing in one sentence."""


def pick_precision(accelerator: str) -> str:
    """Return bf16 where the hardware that Lightning's `accelerator` names multiplies it faster than float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        uses_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available())
        is_fast = uses_cpu and torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if is_fast else "32-true"


class RunCLI(LightningCLI):
    """Model, data, trainer and callbacks of one run, from one configuration.

    Args:
        folder: the run's folder.
        args: words of the command line that Lightning and the classes of the configuration understand.
        allowed: packages, besides our own, that the configuration may name classes of; None where it is the user's own,
            which may name any.
    """

    def __init__(self, folder: Path, args: list[str], allowed: Sequence[str] | None = None) -> None:
        self.folder, self.allowed = folder, allowed
        if allowed is None:
            add_named("\n".join(args))
        with parsing(allowed):
            super().__init__(
                L.LightningModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                run=False,
                save_config_callback=None,
                auto_configure_optimizers=False,
                seed_everything_default=0,
                parser_class=RunParser,
                parser_kwargs={"allow_abbrev": False},
                args=args,
            )

    @property
    def monitor(self) -> Monitor:
        return self.config_init["monitor"]

    @property
    def checkpoints(self) -> Checkpoints:
        return self.config_init["checkpoints"]

    def save_config(self) -> None:
        """Save the configuration from which the run resumes, and with which another run can be made."""
        write_text(self.folder / "config.yaml", self.saved)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="decides weights, windows and masks")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        count_batches_before_shares(parser)
        metrics = dict[str, dict[str, Any] | None] | list[str] | None
        parser.add_argument("--metrics", type=metrics, help="what to measure: names, or names with options")
        parser.add_lightning_class_args(Monitor, "monitor")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_class_arguments(Health, "health")
        parser.link_arguments("metrics", "monitor.metrics")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args`, never the arguments of the process."""
        assert isinstance(args, list)
        refuse_words(args)
        self.config = parser.parse_args(args)
        if self.allowed is not None:
            self._refuse_foreign(self.allowed)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise InputError(f"seed_everything must lie between 0 and {2**32 - 1} (got {seed}).")

    def _refuse_foreign(self, allowed: Sequence[str]) -> None:
        """Refuse what the parser leaves to others: metrics by class path, and functions."""
        where = f"the configuration of {self.folder.name}"
        for name in (*(self.config.metrics or ()), *(self.config.monitor.metrics or ())):
            if "." in name:
                refuse_foreign(name, where, allowed)
        refuse_functions(self.config, where)

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot act, and fill in what depends on the machine and, unless it is saved, on the run."""
        if "plugins" not in self.config.trainer:
            raise InputError("trainer must be a mapping of settings (got null): leave it out, or give some.")
        trainer, plugins = self.config.trainer, self.config.trainer.plugins
        refuse_nulls(
            self.config, {"trainer": L.Trainer, "monitor": Monitor, "checkpoints": Checkpoints, "health": Health}
        )
        if trainer.default_root_dir is not None and is_run(trainer.default_root_dir):
            trainer.default_root_dir = None  # in the config.yaml of an older run
        refuse_settings(trainer)
        if not re.fullmatch(r"auto|-?\d+|\[?\d+(, ?\d+)*,?\]?", str(trainer.devices)):
            raise InputError(f"trainer.devices must be auto, a number or a list of numbers (got {trainer.devices}).")
        if trainer.precision is None and "Precision" not in str(plugins):
            before = read_config(path) if (path := self.folder / "config.yaml").is_file() else {}
            trainer.precision = flat(before).get("trainer.precision") or pick_precision(str(trainer.accelerator))
            why = "that of the run" if before else "picked for this machine; trainer.precision overrides it"
            print(f"precision {trainer.precision} ({why})")
        if isinstance(trainer.val_check_interval, float):
            trainer.check_val_every_n_epoch = 1  # the run is a single epoch, of which it is a share
        self.saved = self.parser.dump(self.config, skip_link_targets=False, skip_none=False)
        self.wandb_id = getattr(runs.read(self.folder), "wandb_id", "") if is_run(self.folder) else ""
        for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
            if isinstance(logger, Namespace):
                self._place(logger.init_args)

    def _place(self, logger: Namespace) -> None:
        """Give a logger the run's folder and name and, for W&B, the id under which a resumed run continues."""
        if "save_dir" in logger and (logger.save_dir is None or is_run(logger.save_dir)):
            logger.save_dir = str(self.folder)
        if "name" in logger and logger.name in (None, "", "lightning_logs"):  # the default of Lightning's own classes
            logger.name = self.folder.name
        if "id" in logger:
            given = logger.id or self.wandb_id or os.environ.get("WANDB_RUN_ID")  # of an agent of W&B's sweeps
            self.wandb_id = logger.id = given or secrets.token_hex(4)

    def instantiate_classes(self) -> None:
        """Build model, data and callbacks; an InputError of one of them comes through as it was raised."""
        try:
            super().instantiate_classes()
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, InputError):
                cause = cause.__cause__ or cause.__context__
            if cause is None and (match := re.search(r"Problem with given class_path '(\S+)':\s*(.+)", str(error))):
                cause = InputError(f"{match[1]}: {match[2].strip()}")  # a logger whose package is missing, for one
            if cause is None and (match := re.search(r"(\w+)\.__init__\(\) (got an unexpected .+)", str(error))):
                cause = InputError(f"{match[1]} {match[2]}: remove it.")
            if cause is None and isinstance(error, TypeError):
                cause = InputError(f"the configuration has a value of a wrong type ({in_words(error)}): correct it.")
            raise (cause or error) from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer with the user's callbacks first, then ours by descending priority."""
        config = {**self.config_init["trainer"], "default_root_dir": str(self.folder), **kwargs}
        if config["log_every_n_steps"] is None:
            config["log_every_n_steps"] = 1
        given = config["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        background, curves, checkpoints = Background(), Curves(self.config_init["health"]), self.checkpoints
        checkpoints.is_measured = self.monitor.is_due
        self.monitor.writer = checkpoints.writer = curves.writer = background.writer
        callbacks: list[Any] = [background, curves, self.monitor, checkpoints, Interrupt(checkpoints)]
        has_bar = any(isinstance(callback, LightningProgressBar) for callback in given)
        if config["enable_progress_bar"] is not False and not has_bar:
            callbacks.append(ProgressBar(curves, self.monitor))
        callbacks.sort(key=lambda callback: callback.priority, reverse=True)
        config["callbacks"] = [*given, *callbacks]
        trainer: Any = self._build({**config, "profiler": config["profiler"] or Unprofiled()})
        refuse_trainer(trainer, config["precision"])
        leave_signals(trainer)
        if config["profiler"] is not None and trainer.profiler.filename is None:
            # Else it would report to a logger that is silent.
            trainer.profiler.dirpath, trainer.profiler.filename = self.folder, "profile"
        return cast(L.Trainer, trainer)

    def _build(self, config: dict[str, Any]) -> L.Trainer:
        """Build the trainer; whatever it objects to is one of its options."""
        try:
            return self.trainer_class(**config)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            about = f".devices {config['devices']}" if "devices" in str(error) else ""
            raise InputError(f"trainer{about}: {' '.join(str(error).split())}") from error


def is_run(folder: str | Path) -> bool:
    """Return whether a folder is that of a run."""
    return (Path(folder) / "run.json").is_file()
