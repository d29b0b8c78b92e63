"""What may change when a run resumes, and that nothing else may."""

import pytest
import yaml

from dynamics import runs
from dynamics.errors import InputError
from dynamics.files import write_text
from dynamics.training import continuation
from dynamics.training.describe import describe
from dynamics.training.lightning_cli import RunCLI
from tests.runs import CONFIGS, TINY, arguments, working_in

BEGUN = TINY | {"trainer.precision": "32-true"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory, text_file):
    """The folder of a run that has been begun: its `run.json` and `config.yaml`."""
    with working_in(tmp_path_factory.mktemp("begun")) as place:
        cli = configure(text_file, "decoder", {})
        cli.datamodule.setup("fit")
        cli.model.build(cli.datamodule)
        runs.Run(cli.folder, describe(cli), resumed=False).save()
        cli.save_config()
    return place


@pytest.fixture(autouse=True)
def here(begun, monkeypatch):
    monkeypatch.chdir(begun)


def configure(text_file, config, settings, *words):
    chosen = BEGUN | {"data.corpus": str(text_file)} | settings
    given = {key: value for key, value in chosen.items() if value is not None}
    words = ["--config", str(CONFIGS / f"{config}.yaml"), *arguments(given), *words]
    return RunCLI(runs.CHECKPOINTS / "a", words)


REFUSED = [
    ({"model.heads": 4}, "model.heads 2 (now 4)"),
    ({"model.width": 32}, "model.width 16 (now 32)"),
    ({"model.dropout": 0.1}, "model.dropout 0.0 (now 0.1)"),
    ({"model.learning_rate": 1e-2}, "model.learning_rate 0.001 (now 0.01)"),
    ({"model.betas": "[0.9, 0.99]"}, "model.betas.1 0.95 (now 0.99)"),
    ({"model.weight_decay": 0}, "model.weight_decay 0.1 (now 0.0)"),
    ({"model.regularizers+": "IStar", "model.regularizers.weight": -2}, "model.regularizers.0 null (now dynamics"),
    ({"data.batch_size": 8}, "data.batch_size 4 (now 8)"),
    ({"data.validation_windows": 4}, "data.validation_windows 8 (now 4)"),
    ({"data.probe_tokens": 512}, "data.probe_tokens 256 (now 512)"),
    ({"seed_everything": 1}, "seed 0 (now 1)"),
    ({"trainer.gradient_clip_val": 0.5}, "trainer.gradient_clip_val 1.0 (now 0.5)"),
    ({"trainer.accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches 1 (now 2)"),
    ({"trainer.precision": "bf16-mixed"}, "trainer.precision 32-true (now bf16-mixed)"),
    ({"trainer.limit_val_batches": 1}, "trainer.limit_val_batches null (now 1)"),
    ({"trainer.val_check_interval": 2}, "trainer.val_check_interval 3 (now 2)"),
    ({"monitor.schedule": "Every", "monitor.schedule.interval": 3}, "monitor.schedule LogSpaced(per_decade=None) (now"),
    ({"monitor.max_overhead": 0.1}, "monitor.max_overhead null (now 0.1)"),
    ({"metrics": "[anisotropy, entropy]"}, "metrics.drift at key {} (now none)"),
    ({"metrics": "{anisotropy: {max_tokens: 9}, drift: null, entropy: null}"}, "metrics.anisotropy at output {} (now"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED, ids=lambda part: str(part))
def test_a_run_does_not_continue_as_another(text_file, settings, words):
    cli = configure(text_file, "decoder", settings)
    with pytest.raises(InputError) as error:
        continuation.refuse_configuration(cli)
    message = str(error.value)
    assert message.startswith("the run a was made with ")
    assert words in message
    assert message.endswith("give the same again, or choose another --run.")


def test_another_configuration_is_refused_by_its_first_difference(text_file):
    with pytest.raises(InputError, match=r"model\.is_causal true \(now false\)"):
        continuation.refuse_configuration(configure(text_file, "encoder", {}))


def test_all_that_may_change_changes(text_file):
    more = {
        **{"trainer.max_steps": 9, "trainer.val_check_interval": 1, "trainer.devices": 1, "trainer.logger": "true"},
        **{"trainer.enable_progress_bar": "true", "trainer.log_every_n_steps": 5, "trainer.deterministic": "true"},
        **{"monitor.schedule": "Every", "monitor.schedule.interval": 1, "monitor.keep_weights": "last"},
        **{"monitor.strict": "true", "checkpoints.every": 1, "checkpoints.keep": "all", "health.skip": 2},
        **{"model.compile": "false", "trainer.max_time": "00:01:00:00", "metrics": None},
    }
    metrics = "--metrics={entropy: null, drift: null, anisotropy: {}}"  # the same in another form
    continuation.refuse_configuration(cli := configure(text_file, "decoder", more, metrics))
    continuation.refuse_shorter(cli)


def test_a_run_is_not_made_shorter(text_file):
    with pytest.raises(InputError, match=r"trainer\.max_steps 6 \(now 5\)"):
        continuation.refuse_shorter(configure(text_file, "decoder", {"trainer.max_steps": 5}))


def test_a_run_goes_on_in_the_precision_that_it_has(text_file, capsys):
    cli = configure(text_file, "decoder", {"trainer.precision": None})
    continuation.refuse_configuration(cli)
    assert cli.trainer.precision == "32-true"
    assert "precision 32-true (that of the run)" in capsys.readouterr().out


def edited(**changes):
    path = runs.CHECKPOINTS / "a" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        if value is None:
            content["model"]["init_args"].pop(key)
        else:
            content["model"]["init_args"][key] = value
    return path, path.read_text(), yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("changes", "settings", "is_refused"),
    [
        ({"qk_norm": None}, {}, False),  # made before there was that option
        ({"qk_norm": None}, {"model.qk_norm": "true"}, True),
        ({"of_old": False}, {}, False),  # made when there was one more
        ({"of_old": True}, {}, True),
    ],
)
def test_an_option_that_the_other_version_lacks_is_a_change_where_it_asks_for_something(
    text_file, changes, settings, is_refused
):
    path, before, text = edited(**changes)
    write_text(path, text)
    try:
        cli = configure(text_file, "decoder", settings)
        if is_refused:
            with pytest.raises(InputError, match=r"was made with model\.(qk_norm|of_old)"):
                continuation.refuse_configuration(cli)
        else:
            continuation.refuse_configuration(cli)
    finally:
        write_text(path, before)


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_run_without_what_says_what_it_was_is_refused(text_file, name):
    cli = configure(text_file, "decoder", {})
    path = cli.folder / name
    content = path.read_text()
    (cli.folder / "record").mkdir(exist_ok=True)
    part = cli.folder / "record" / "geometry-0000000000.parquet"
    part.touch()
    path.unlink()
    try:
        with pytest.raises(InputError, match=rf"checkpoints/a/{name} is missing"):
            continuation.refuse_configuration(cli)
    finally:
        write_text(path, content)
        part.unlink()
