"""LightningCLI for one run: model, data, trainer and callbacks from one configuration, refused in one sentence."""

import re
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from dynamics.errors import InputError
from dynamics.files import write_text
from dynamics.parsing import OneSentenceErrors
from dynamics.training.checkpoint import Checkpoints
from dynamics.training.curves import Curves
from dynamics.training.monitor import Monitor
from dynamics.training.progress import ProgressBar
from dynamics.training.signals import Interrupt


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
    """

    def __init__(self, folder: Path, args: list[str]) -> None:
        self.folder = folder
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

    def save_config(self) -> None:
        write_text(self.folder / "config.yaml", yaml.safe_dump(self.config_dump, sort_keys=False))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        metrics = dict[str, dict[str, Any] | None] | list[str] | None
        parser.add_argument("--metrics", type=metrics, help="what to measure: names, or names with options")
        parser.add_lightning_class_args(Monitor, "monitor")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.link_arguments("metrics", "monitor.metrics")
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args`, never the arguments of the process."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        seed = self.config.seed_everything
        if not 0 <= seed < 2**32:
            raise InputError(f"seed_everything must lie between 0 and {2**32 - 1} (got {seed}).")

    def before_instantiate_classes(self) -> None:
        """Fill in what depends on the machine and on the run's name."""
        trainer = self.config.trainer
        if trainer.max_steps < 1 and not (trainer.max_steps == -1 and (trainer.max_epochs or 0) > 0):
            raise InputError(f"trainer.max_steps must be at least 1 (got {trainer.max_steps}).")
        if trainer.val_check_interval is not None and trainer.val_check_interval <= 0:
            raise InputError(f"trainer.val_check_interval must be positive (got {trainer.val_check_interval}).")
        if not re.fullmatch(r"auto|-?\d+|\[?\d+(, ?\d+)*,?\]?", str(trainer.devices)):
            raise InputError(f"trainer.devices must be auto, a number or a list of numbers (got {trainer.devices}).")
        trainer.default_root_dir = str(self.folder)
        if trainer.precision is None:
            trainer.precision = pick_precision(str(trainer.accelerator))
            print(f"precision {trainer.precision} (picked for this machine; trainer.precision overrides it)")
        for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
            if "class_path" in (logger or ()) and "save_dir" in logger.init_args:
                logger.init_args.save_dir = str(self.folder)
                logger.init_args.name = logger.init_args.name or self.folder.name

    def instantiate_classes(self) -> None:
        """Build model, data and callbacks; an InputError of one of them comes through as it was raised."""
        try:
            super().instantiate_classes()
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, InputError):
                cause = cause.__cause__ or cause.__context__
            raise (cause or error) from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer with the user's callbacks first, then ours by descending priority."""
        config = {**self.config_init["trainer"], **kwargs}
        curves, checkpoints = Curves(), self.config_init["checkpoints"]
        callbacks = [curves, self.monitor, checkpoints, Interrupt(checkpoints)]
        if config.get("enable_progress_bar") is not False:
            callbacks.append(ProgressBar(curves, self.monitor))
        callbacks.sort(key=lambda callback: callback.priority, reverse=True)
        config["callbacks"] = [*(config.get("callbacks") or []), *callbacks]
        try:
            return self.trainer_class(**config)
        except TypeError as error:  # of devices that the accelerator does not have
            if "devices" not in str(error):
                raise
            raise InputError(f"trainer.devices {config['devices']}: {error}") from error
