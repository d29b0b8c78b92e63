"""Runs so small that a test can make several."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from dynamics.cli.main import main
from dynamics.files import DIGESTS

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = {
    "model.depth": 2,
    "model.width": 16,
    "model.heads": 2,
    "model.warmup_steps": 2,
    "data.context": 32,
    "data.batch_size": 4,
    "data.probe_tokens": 256,
    "data.validation_windows": 8,
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
    "trainer.logger": "false",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "checkpoints.every": 3,
    "metrics": "[anisotropy, drift, entropy]",
}


@contextmanager
def working_in(folder):
    """Work in a folder, with a cache of its own, where runs land in checkpoints/: for runs that several tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DYNAMICS_CACHE", str(folder / "cache"))
        patch.setenv("WANDB_MODE", "offline")
        yield folder


def forget_digests(folder):
    """Take away what tells a file that a test has changed from what was written: then it is as of an older version."""
    for path in [*folder.rglob(DIGESTS)]:
        path.unlink()


def arguments(settings):
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def fit(text_file, run, *words, config="decoder", **settings):
    """`dynamics fit` of a tiny model; `settings` use __ for the dot."""
    chosen = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    main(
        ["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--data.corpus", str(text_file)]
        + (["--run", run] if run else [])
        + [*arguments(chosen), *map(str, words)]
    )
