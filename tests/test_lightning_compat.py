"""The private names of Lightning that this package relies on: still there, and still doing what they did."""

import signal
import subprocess
import sys

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities import rank_zero_only

from dynamics import lightning_compat as compat
from dynamics.errors import InputError

PLACES = {
    "Trainer.should_stop": lambda: trainer().should_stop,
    "Trainer.datamodule (after fit)": lambda: fitted().datamodule,
    "Trainer.fit_loop.epoch_loop.max_steps": lambda: trainer().fit_loop.epoch_loop.max_steps,
    "Trainer.fit_loop.epoch_loop.min_steps": lambda: trainer().fit_loop.epoch_loop.min_steps,
    "Trainer.fit_loop.min_epochs": lambda: trainer().fit_loop.min_epochs,
    "DDPStrategy._start_method": lambda: trainer(strategy="ddp").strategy._start_method,
    "Trainer.fit_loop._data_fetcher": lambda: trainer().fit_loop._data_fetcher,
    "Trainer.fit_loop.epoch_loop._should_check_val_fx": lambda: trainer().fit_loop.epoch_loop._should_check_val_fx,
    "Trainer._checkpoint_connector.dump_checkpoint": lambda: trainer()._checkpoint_connector.dump_checkpoint,
    "Trainer._accelerator_connector.cluster_environment": lambda: trainer()._accelerator_connector.cluster_environment,
    "DDPStrategy.launcher.procs": lambda: trainer(strategy="ddp").strategy.launcher.procs,
    "subprocess_script._launch_process_observer": lambda: subprocess_script._launch_process_observer,
    "ModelParallelStrategy._data_parallel_size": lambda: ModelParallelStrategy()._data_parallel_size,
    "ModelParallelStrategy.lightning_restore_optimizer": lambda: ModelParallelStrategy().lightning_restore_optimizer,
    "LightningModule._trainer": lambda: BoringModel()._trainer,
    "MixedPrecision.scaler": lambda: trainer(precision="bf16-mixed").precision_plugin.scaler,
    "rank_zero_only.rank": lambda: rank_zero_only.rank,
}


def trainer(*callbacks, **settings):
    return L.Trainer(
        **{"max_steps": 6, "val_check_interval": 3, "check_val_every_n_epoch": None, "accelerator": "cpu"} | settings,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def fitted(*callbacks, **settings):
    fitting = trainer(*callbacks, **settings)
    with torch.random.fork_rng():
        fitting.fit(BoringModel())
    return fitting


@pytest.mark.parametrize("name", PLACES)
def test_private_names_are_still_there(name):
    try:
        PLACES[name]()
    except AttributeError as error:
        pytest.fail(
            f"Lightning {L.__version__} has no {name} ({error}); dynamics/lightning_compat.py was tried with "
            f"{compat.TRIED_WITH}: find what replaces it there."
        )


class Log(L.Callback):
    """Notes at every step whether a validation is said to follow, and which steps are validated."""

    def __init__(self, end_at=None):
        self.expected, self.validated, self.end_at = [], [], end_at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.end_at:
            trainer.should_stop = True
        if compat.validation_follows(trainer):
            self.expected.append(trainer.global_step)

    def on_validation_end(self, trainer, *_):
        assert trainer.should_stop == (trainer.global_step == self.end_at)
        self.validated.append(trainer.global_step)


def test_it_is_known_whether_a_validation_follows():
    log = Log()
    assert fitted(log, max_steps=7).global_step == 7
    assert log.expected == log.validated == [3, 6]


def test_a_run_ends_where_it_is_asked_to_with_a_validation():
    log = Log(end_at=5)
    assert fitted(log).global_step == 5
    assert log.expected == log.validated == [3, 5]


def test_epochs_become_steps():
    counted = trainer(max_steps=-1, max_epochs=2)
    compat.count_steps(counted, 4)
    assert counted.max_steps == 8
    counted.fit(BoringModel())
    assert counted.global_step == 8


def test_epochs_that_must_be_trained_become_steps():
    class Impatient(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = True

    counted = trainer(Impatient(), max_steps=8, min_epochs=1, min_steps=2)
    compat.count_steps(counted, 5)
    assert counted.min_steps == 5
    counted.fit(BoringModel())
    assert counted.global_step == 5


@pytest.mark.parametrize("settings", [{"max_epochs": 2, "max_steps": -1}, {"max_epochs": 2}, {"min_epochs": 2}])
def test_data_without_epochs_needs_steps(settings):
    with pytest.raises(InputError, match=r"set trainer\.m.._steps, not m.._epochs"):
        compat.count_steps(trainer(**settings), None)


def test_more_steps_than_the_run_has_cannot_be_required():
    with pytest.raises(InputError, match=r"min_steps 10 is more than the 6 steps"):
        compat.count_steps(trainer(min_epochs=2), 5)


def test_it_is_known_how_the_other_ranks_are_started():
    strategies = [trainer(strategy=name).strategy for name in ("auto", "ddp", "ddp_spawn")]
    assert [compat.starts_processes_by_command(strategy) for strategy in strategies] == [True, True, False]


def test_an_error_of_lightnings_own_callbacks_is_told_from_others():
    def error(function):
        with pytest.raises(RuntimeError) as caught:
            function()
        return caught.value

    stopping = L.pytorch.callbacks.EarlyStopping(monitor="nothing")
    assert compat.come_from_callbacks(error(lambda: fitted(stopping)))
    assert not compat.come_from_callbacks(error(lambda: torch.ones(2) @ torch.ones(3)))


@pytest.mark.parametrize(
    ("interval", "shares", "batches"),
    [(0.5, 1, 3), (1.0, 1, 6), (0.01, 1, 1), (0.5, 2, 6), (4, 1, 4), (100, 1, 6), (100, 2, 12), (1, 2, 2)],
)
def test_the_validation_interval_fits_into_the_run(interval, shares, batches):
    counted = trainer(val_check_interval=interval, accumulate_grad_batches=shares, check_val_every_n_epoch=1)
    compat.count_steps(counted, None)
    assert counted.val_check_interval == batches


def test_an_interval_over_all_epochs_stays():
    counted = trainer(val_check_interval=100)
    compat.count_steps(counted, None)
    assert counted.val_check_interval == 100


def test_a_data_module_is_found_where_there_is_one():
    assert compat.get_datamodule(trainer()) is None


def test_the_only_process_is_the_first_rank(monkeypatch):
    assert compat.is_first_rank()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert not compat.is_first_rank()


def test_a_module_may_have_no_trainer():
    assert not compat.has_trainer(BoringModel())
    assert compat.has_trainer(fitted().lightning_module)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_not_scaled_where_the_exponent_is_that_of_float32(precision):
    assert not compat.scales_gradients(trainer(precision=precision))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_of_a_fused_optimizer_are_clipped_by_value(precision):
    class Clipped(BoringModel):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.1, fused=True)

        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            compat.clip_by_value(self, optimizer, gradient_clip_val)
            greatest.extend(p.grad.abs().max() for p in self.parameters())

    greatest = []
    with torch.random.fork_rng():
        trainer(precision=precision, max_steps=2, gradient_clip_val=1e-3, gradient_clip_algorithm="value").fit(
            Clipped()
        )
    assert len(greatest) == 4
    assert all(value <= 1.001e-3 for value in greatest)


def test_lightning_answers_no_signal_of_slurm(monkeypatch):
    for name, value in {"JOB_NAME": "a", "JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    seen = []
    for leave in (lambda trainer: None, compat.leave_signals):
        chosen = trainer()
        leave(chosen)
        connector = chosen._signal_connector
        try:
            connector.register_signal_handlers()
            seen.append(signal.getsignal(signal.SIGUSR1) == handlers[signal.SIGUSR1])
        finally:
            connector.teardown()
    assert seen == [False, True]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize("kind", ["child", "parent"])
def test_a_rank_that_waits_for_ever_is_ended_with_another(kind):
    """As under NCCL, where nothing tells it that a connection is closed."""
    code = """
import os, subprocess, sys, time
from dynamics import lightning_compat as compat
compat.GRACE = 0.1
compat.watch_other_ranks()
if sys.argv[1] == "parent" and "LOCAL_RANK" not in os.environ:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": "1"})
    os._exit(9)
if sys.argv[1] == "child":
    compat.subprocess_script._launch_process_observer([subprocess.Popen([sys.executable, "-c", "raise SystemExit(9)"])])
time.sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", code, kind], capture_output=True, text=True, timeout=300)
    assert done.returncode == {"child": 1, "parent": 9}[kind]
    assert done.stderr == "dynamics: another rank has ended; see what it reports.\n"
