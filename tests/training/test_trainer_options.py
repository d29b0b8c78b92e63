"""Every option of Lightning's Trainer and LightningCLI acts, or is refused by name."""

import inspect
import json

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.models.language import LanguageModel
from dynamics.training.lightning_cli import RunCLI
from dynamics.training.trainer_options import IDLE, INSTEAD
from tests.runs import CONFIGS, TINY, arguments, fit, forget_digests
from tests.training.test_fit import refusal, weights

ENVIRONMENT = "lightning.pytorch.plugins.environments.LightningEnvironment"
CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "csv", "version": 0}}
IDLE_VALUES = {  # a value that would do something, of every option that cannot
    **{"fast_dev_run": 3, "limit_train_batches": 2, "limit_predict_batches": 0.5, "overfit_batches": 1},
    **{"check_val_every_n_epoch": 2, "use_distributed_sampler": "false", "barebones": "true"},
    **{"sync_batchnorm": "true", "reload_dataloaders_every_n_epochs": 1},
    **{"default_root_dir": "elsewhere", "model_registry": "name"},
}


def callback(name, **settings):
    return json.dumps([{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": settings}])


class Tries:
    """Runs with one option each; what an option does is what differs from the run without it."""

    def __init__(self, text_file, capsys):
        self.text_file, self.capsys = text_file, capsys

    def build(self, **settings):
        """The trainer alone."""
        chosen = TINY | {f"trainer.{key}": value for key, value in settings.items()}
        return RunCLI(runs.CHECKPOINTS / "a", ["--config", str(CONFIGS / "decoder.yaml"), *arguments(chosen)]).trainer

    def fit(self, run, **settings):
        """A run; what it printed."""
        fit(self.text_file, run, **{f"trainer__{key}": value for key, value in settings.items()})
        return self.capsys.readouterr().out

    def refused(self, **settings):
        chosen = {f"trainer__{key}": value for key, value in settings.items()}
        return refusal(self.capsys, self.text_file, "bad", **chosen)

    def steps(self, run, site="train"):
        frame = record.read(run)
        return frame[(frame.site == site) & (frame.metric == "loss")].step.tolist()

    def losses(self, run, site="train"):
        return record.read(run).query("site == @site and metric == 'loss'").value.tolist()


@pytest.fixture
def tries(workplace, text_file, capsys):
    was, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield Tries(text_file, capsys)
    torch.use_deterministic_algorithms(was)
    torch.backends.cudnn.benchmark = benchmark


class Acts:
    """What every option that acts does, by its name."""

    def accelerator(tries):
        assert tries.build(accelerator="cpu").accelerator.name() == "cpu"
        assert "nothing" in tries.refused(accelerator="nothing")

    def strategy(tries):
        assert isinstance(tries.build(strategy="ddp").strategy, DDPStrategy)
        for name in ("fsdp", "deepspeed", "ddp_spawn", "nothing"):
            assert "trategy" in tries.refused(strategy=name)

    def devices(tries):
        assert tries.build(devices=2, strategy="ddp").world_size == 2

    def num_nodes(tries):
        assert tries.build(num_nodes=3, strategy="ddp").world_size == 3
        assert "trainer.num_nodes" in tries.refused(num_nodes=0)

    def precision(tries):
        assert tries.build(precision="32-true").precision == "32-true"
        for name in ("64-true", "bf16-true", "16-true", "16-mixed", "transformer-engine"):
            assert "trainer" in tries.refused(precision=name)

    def logger(tries):
        tries.fit("a", logger="true")
        (path,) = (runs.CHECKPOINTS / "a").rglob("events.out*")  # TensorBoard; files where that is not installed
        assert b"anisotropy/layer_01" in path.read_bytes()
        tries.fit("b", logger="null")
        assert list((runs.CHECKPOINTS / "b").rglob("events.out*"))
        tries.fit("c", logger=json.dumps([CSV]))
        assert "train/loss" in pd.read_csv("csv/c/version_0/metrics.csv").columns
        assert not list((runs.CHECKPOINTS / "c").rglob("events.out*"))
        missing = {"class_path": "lightning.pytorch.loggers.MLFlowLogger"}
        assert "MLFlowLogger: " in tries.refused(logger=json.dumps(missing))

    def callbacks(tries):
        stop = {"monitor": "validation/loss", "mode": "max", "patience": 1}
        tries.fit("a", callbacks=callback("EarlyStopping", **stop), val_check_interval=1)
        assert runs.read("a").status == "stopped"
        assert tries.steps("a") == [1, 2]
        one = json.loads(callback("TQDMProgressBar", refresh_rate=1))[0]
        assert "Epoch 0" in tries.fit("b", callbacks=json.dumps(one), enable_progress_bar="true")
        with pytest.raises(SystemExit) as exit_:
            tries.fit("c", callbacks=callback("EarlyStopping", monitor="nothing"))
        assert exit_.value.code == 1
        assert "trainer.callbacks: Early stopping" in tries.capsys.readouterr().err

    def max_epochs(tries):  # of data with epochs: tests/test_lightning_compat.py
        assert "have no epochs: set trainer.max_steps" in tries.refused(max_epochs=1)
        assert "trainer.max_epochs must be at least 1" in tries.refused(max_epochs=0)

    def min_epochs(tries):
        assert "have no epochs: set trainer.min_steps" in tries.refused(min_epochs=1)

    def max_steps(tries):
        tries.fit("a", max_steps=2)
        assert tries.steps("a") == [1, 2]

    def min_steps(tries):
        stop = callback("EarlyStopping", monitor="validation/loss", mode="max", patience=1)
        tries.fit("a", callbacks=stop, val_check_interval=1, min_steps=4)
        assert tries.steps("a") == [1, 2, 3, 4]
        assert tries.steps("a", "validation")[-1] == 4
        tries.fit("b", max_steps=5, min_steps=2)
        assert tries.steps("b", "validation") == [0, 3, 5]
        assert "min_steps 7 is more than the 6" in tries.refused(min_steps=7)

    def max_time(tries):
        tries.fit("a", max_time="00:00:00:00")
        assert runs.read("a").status == "stopped"
        assert (tries.steps("a"), tries.steps("a", "validation")) == ([], [0])
        assert "duration" in tries.refused(max_time="soon")

    def limit_val_batches(tries):
        tries.fit("whole")
        tries.fit("half", limit_val_batches=0.5)
        tries.fit("one", limit_val_batches=1)
        tries.fit("none", limit_val_batches=0)
        whole, half, one = (tries.losses(run, "validation") for run in ("whole", "half", "one"))
        assert half == one != whole
        assert tries.steps("one", "validation") == [0, 3, 6]
        assert tries.steps("none", "validation") == []
        assert "limit_val_batches" in tries.refused(limit_val_batches=0.01)

    def limit_test_batches(tries):
        tries.fit("a")
        main(["test", "--run", "a", "--trainer.limit_test_batches", "1"])
        assert "(not recorded: 1 of 10 batches)" in tries.capsys.readouterr().out
        assert not tries.steps("a", "test")

    def val_check_interval(tries):
        tries.fit("a", val_check_interval=2)
        assert tries.steps("a", "validation") == [0, 2, 4, 6]
        tries.fit("b", val_check_interval=0.34)
        assert tries.steps("b", "validation") == [0, 2, 4, 6]
        for wrong in ("00:00:00:01", "often", "true", "{seconds: 2}", 0, -1, 1.5, ".nan", ".inf"):
            assert "val_check_interval" in tries.refused(val_check_interval=wrong)

    def num_sanity_val_steps(tries):
        for steps in (0, 1):  # none, and a part of the pass, which does not compare with the others
            tries.fit(f"r{steps}", num_sanity_val_steps=steps)
            assert tries.steps(f"r{steps}", "validation") == [3, 6]
        assert "trainer.num_sanity_val_steps" in tries.refused(num_sanity_val_steps=-2)

    def log_every_n_steps(tries):
        for every, logged in ((None, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (0, [])):
            settings = {} if every is None else {"log_every_n_steps": every}
            logger = {**CSV, "init_args": {"save_dir": f"csv{every}", "version": 0}}
            tries.fit(f"r{every}", logger=json.dumps(logger), **settings)
            frame = pd.read_csv(f"csv{every}/r{every}/version_0/metrics.csv")
            assert tries.steps(f"r{every}") == [1, 2, 3, 4, 5, 6]
            assert ([] if "train/loss" not in frame else frame.dropna(subset="train/loss").step.tolist()) == logged

    def enable_checkpointing(tries):
        tries.fit("a", enable_checkpointing="true")
        assert [path.parent.name for path in runs.CHECKPOINTS.rglob("epoch=*.ckpt")] == ["checkpoints"]

    def enable_progress_bar(tries):
        assert "100%" in tries.fit("a", enable_progress_bar="true")
        assert "100%" not in tries.fit("b", enable_progress_bar="false")

    def enable_model_summary(tries):
        assert "CharTransformerLM" in tries.fit("a", enable_model_summary="true")
        assert "CharTransformerLM" not in tries.fit("b", enable_model_summary="false")

    def accumulate_grad_batches(tries):
        sizes, training_step = [], LanguageModel.training_step

        def counted(self, batch, index):
            sizes.append(len(batch.windows))
            return training_step(self, batch, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LanguageModel, "training_step", counted)
            tries.fit("a", accumulate_grad_batches=4)
        assert sizes == [1] * 24
        assert "trainer.accumulate_grad_batches" in tries.refused(accumulate_grad_batches=0)

    def gradient_clip_val(tries):
        tries.fit("a", gradient_clip_val=1e-9)
        tries.fit("b", gradient_clip_val=0)
        assert tries.losses("a") != tries.losses("b")
        for wrong in (-1, ".nan"):
            assert "trainer.gradient_clip_val must be at least 0" in tries.refused(gradient_clip_val=wrong)

    def gradient_clip_algorithm(tries):
        for name in ("norm", "value"):
            tries.fit(name, gradient_clip_val=1e-7, gradient_clip_algorithm=name)
        assert tries.losses("norm") != tries.losses("value")
        assert "gradient_clip_algorithm" in tries.refused(gradient_clip_algorithm="none")
        alone = {"gradient_clip_val": "null", "gradient_clip_algorithm": "value"}
        assert "no effect without trainer.gradient_clip_val" in tries.refused(**alone)

    def deterministic(tries):
        tries.build(deterministic="true")
        assert torch.are_deterministic_algorithms_enabled()

    def benchmark(tries):
        tries.build(benchmark="true")
        assert torch.backends.cudnn.benchmark

    def inference_mode(tries):
        seen, validation_step = [], LanguageModel.test_step

        def noted(self, batch, index):
            seen.append(torch.is_inference_mode_enabled())
            return validation_step(self, batch, index)

        tries.fit("a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LanguageModel, "test_step", noted)
            main(["test", "--run", "a"])
            assert all(seen)
            seen.clear()
            main(["test", "--run", "a", "--trainer.inference_mode", "false"])
        assert seen
        assert not any(seen)

    def profiler(tries):
        for name in ("simple", "advanced"):
            tries.fit(name, profiler=name)
            assert "training_step" in (runs.CHECKPOINTS / name / "fit-profile.txt").read_text()
        assert "trainer.profiler" in tries.refused(profiler="xla")

    def detect_anomaly(tries):
        seen, training_step = [], LanguageModel.training_step

        def noted(self, batch, index):
            seen.append(torch.is_anomaly_enabled())
            return training_step(self, batch, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LanguageModel, "training_step", noted)
            tries.fit("a", detect_anomaly="true", max_steps=1)
            tries.fit("b", max_steps=1)
        assert seen == [True, False]

    def plugins(tries):
        built = tries.build(plugins=json.dumps([{"class_path": ENVIRONMENT}]), strategy="ddp")
        assert type(built.strategy.cluster_environment).__name__ == "LightningEnvironment"
        double = [{"class_path": "lightning.pytorch.plugins.precision.DoublePrecision"}]
        assert "trainer.precision" in tries.refused(plugins=json.dumps(double))
        late = [{"class_path": "lightning.pytorch.plugins.io.AsyncCheckpointIO"}]
        assert "trainer.plugins AsyncCheckpointIO" in tries.refused(plugins=json.dumps(late))

    def enable_autolog_hparams(tries):
        for value in ("true", "false"):
            tries.fit(value, logger="true", enable_autolog_hparams=value)
            contents = [path.read_text() for path in (runs.CHECKPOINTS / value).rglob("hparams.yaml")]
            assert any("learning_rate" in content for content in contents) == (value == "true")


ACTS = {name: check for name, check in vars(Acts).items() if not name.startswith("_")}


def test_every_option_of_the_trainer_either_acts_or_is_refused():
    options = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert set(ACTS) | set(IDLE) == options
    assert not set(ACTS) & set(IDLE)
    assert set(IDLE_VALUES) == set(IDLE)


@pytest.mark.parametrize("name", ACTS)
def test_an_option_of_the_trainer_acts(tries, name):
    ACTS[name](tries)


@pytest.mark.parametrize(("name", "value"), IDLE_VALUES.items())
def test_an_option_that_cannot_act_is_refused_by_name(tries, name, value):
    message = tries.refused(**{name: value})
    assert f"trainer.{name} " in message
    assert IDLE[name][1] in message
    assert not runs.CHECKPOINTS.exists()


def test_every_option_of_the_lightning_cli_is_named_with_what_does_the_same(tries):
    options = {"subcommand", "optimizer", "lr_scheduler"}
    for verb in ("fit", "validate", "test"):
        parameters = inspect.signature(getattr(L.Trainer, verb)).parameters
        options |= set(parameters) - LightningCLI.subcommands()[verb] - {"self"}
    assert options == set(INSTEAD)
    for name in options:
        for word in (f"--{name}", f"--{name}.lr", f"--{name}=x"):
            message = refusal(tries.capsys, tries.text_file, "bad", word, "x")
            assert f"there is no option --{name}: {INSTEAD[name]}" in message


def test_a_seed_is_a_number(tries):
    tries.fit("a")
    fit(tries.text_file, "b", seed_everything=7)
    assert not torch.equal(*(weights(run)["network.lm_head.weight"] for run in "ab"))
    for wrong in ("true", "null", "x", 2**32):
        assert "seed_everything must" in refusal(tries.capsys, tries.text_file, "bad", seed_everything=wrong)


def test_the_configuration_is_printed_and_nothing_is_run(tries):
    with pytest.raises(SystemExit, match="0"):
        fit(tries.text_file, "a", "--print_config")
    assert "max_steps: 6" in tries.capsys.readouterr().out
    assert not runs.CHECKPOINTS.exists()


@pytest.mark.parametrize("option", ["trainer.logger", "metrics", "monitor.keep_weights", "checkpoints.every"])
def test_an_evaluation_has_no_options_of_training(tries, option):
    tries.fit("a")
    with pytest.raises(SystemExit, match="2"):
        main(["test", "--run", "a", f"--{option}", "x"])
    assert f"--{option} has no effect with dynamics test" in tries.capsys.readouterr().err
    main(["test", "--run", "a", "--trainer.logger", "false"])


def test_a_configuration_of_another_run_gives_a_run_of_its_own(tries):
    tries.fit("a", logger=json.dumps({"class_path": "dynamics.loggers.wandb.WandbLogger"}))
    config = runs.CHECKPOINTS / "a" / "config.yaml"
    older = config.read_text().replace("default_root_dir: null", "default_root_dir: checkpoints/a")
    config.write_text(older.replace("save_dir: null", "save_dir: checkpoints/a"))
    forget_digests(config.parent)
    main(["fit", "--config", str(config), "--run", "b"])
    first, second = (list((runs.CHECKPOINTS / run / "wandb").glob("offline-run-*")) for run in "ab")
    assert len(first) == len(second) == 1
    assert runs.read("a").wandb_id != runs.read("b").wandb_id
