"""A run continues only as what it was: its whole configuration is compared with the one that it is resumed with."""

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from inspect import signature
from typing import Any

import yaml

from dynamics import runs
from dynamics.config import flat, read_config
from dynamics.errors import InputError
from dynamics.run_info import FitInfo, RunInfo
from dynamics.schedule import Every, LogSpaced, Schedule
from dynamics.training.checkpoint import states
from dynamics.training.lightning_cli import RunCLI

REPORTING = (
    *("trainer.logger*", "trainer.log_every_n_steps", "trainer.enable_*", "trainer.profiler*"),
    "trainer.default_root_dir",
)
"""Keys of the configuration that say what is reported, and where it goes."""
MAY_CHANGE = (
    *REPORTING,
    # Where the text lies (its hash is compared, below).
    *("data.corpus", "data.path"),
    # What computes, and how: the sums may come out in another order.
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy*", "trainer.benchmark"),
    *("trainer.deterministic", "trainer.inference_mode", "trainer.detect_anomaly", "model.compile"),
    "model.activation_checkpointing",
    # What is kept, refused or noted.
    *("checkpoints.*", "health.*", "monitor.keep_weights", "monitor.strict"),
    # How long the run goes: not shorter (below). What does not happen again, or in another verb.
    *("trainer.max_*", "trainer.min_*", "trainer.num_sanity_val_steps", "trainer.limit_test_batches"),
    # When it measures and validates: at more steps, not at fewer (below). Metrics are compared as `run.json` has them.
    *(
        "monitor.schedule*",
        "trainer.val_check_interval",
        "trainer.check_val_every_n_epoch",
        "metrics*",
        "monitor.metrics*",
    ),
)
"""Keys of the configuration that may differ when a run resumes."""

# Keys of `run.json`, and of its `data`, that stay: the same text in the same order. For `validate` and `test` too.
FIXED = ("objective", "is_causal", "task", "seed", "context", "batch_size")
FIXED_DATA = ("sha256", "recipe", "vocabulary")
NOTHING: tuple[Any, ...] = (None, [], {})


def refuse_configuration(cli: RunCLI) -> None:
    """Refuse a configuration other than that of the run in `cli.folder`, if there is one, before anything is built."""
    folder, path = cli.folder, cli.folder / "config.yaml"
    if not runs.exists(folder):
        return
    before = runs.read_begun(folder)
    if not isinstance(before, FitInfo):
        raise InputError(f"the run {folder.name} is no fit: choose another --run.")
    if not path.is_file():
        if states(folder) or any((folder / "record").glob("*.parquet")):
            raise InputError(f"{path} is missing, without which the run cannot resume: put it back.")
        return  # it was stopped before it had one
    old = read_config(path)
    for name, was, is_ in changes(cli, old):
        if not any(fnmatch(name, pattern) for pattern in MAY_CHANGE):
            raise _refusal(before, name, was, is_)
    _refuse_fewer(before, cli, flat(old))
    metrics = json.loads(json.dumps(cli.monitor.suite.describe(), default=str))
    for site in sorted(before.metrics.keys() | metrics.keys()) if before.metrics else ():
        was, is_ = before.metrics.get(site, {}), metrics.get(site, {})
        if other := next((name for name in (*was, *is_) if was.get(name) != is_.get(name)), None):
            raise _refusal(before, f"metrics.{other} at {site}", was.get(other, "none"), is_.get(other, "none"))


def changes(cli: RunCLI, before: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings of `cli` that differ from a configuration `before`: key, value before, value now."""
    old, now = flat(before), flat(yaml.safe_load(cli.saved))
    for key in sorted(old.keys() | now.keys()):
        name, was, is_ = key.replace(".init_args", "").removesuffix(".class_path"), old.get(key), now.get(key)
        # An option that one of the two versions lacks is no change where it asks for nothing.
        is_lacking = not was and not (key in now and not _same(is_, _default(cli, name)))
        if not _same(was, is_) and ((key in now and key in old) or not is_lacking):
            yield name, was, is_


def refuse_contents(cli: RunCLI, now: FitInfo) -> None:
    """Refuse another text or task than the run in `cli.folder` had, if there is one."""
    if not runs.exists(cli.folder):
        return
    before = runs.read_begun(cli.folder)
    old, new = before.to_dict(), now.to_dict()
    pairs = [(key, old, new) for key in FIXED] + [(key, old.get("data", {}), new["data"]) for key in FIXED_DATA]
    for key, old_facts, new_facts in pairs:
        if key in old_facts and old_facts[key] != new_facts.get(key):
            raise _refusal(before, key, old_facts[key], new_facts.get(key))


def refuse_shorter(cli: RunCLI) -> None:
    """Refuse fewer steps than the run had: its learning rate has followed them."""
    before = runs.read_begun(cli.folder) if runs.exists(cli.folder) else None
    if isinstance(before, FitInfo) and before.max_steps and cli.trainer.max_steps < before.max_steps:
        raise _refusal(before, "trainer.max_steps", before.max_steps, cli.trainer.max_steps)


def _same(old: Any, now: Any) -> bool:
    """Return whether two leaves say the same; nothing may be missing, null or empty."""
    return (old == now and isinstance(old, bool) == isinstance(now, bool)) or (old in NOTHING and now in NOTHING)


def _default(cli: RunCLI, name: str) -> Any:
    """Return the default of an option of the model, the data, the trainer or the monitor; None where there is none."""
    section, _, rest = name.partition(".")
    kinds = {"model": cli.model, "data": cli.datamodule, "trainer": cli.trainer, "monitor": cli.monitor}
    option = rest.partition(".")[0]
    parameter = signature(type(kinds[section])).parameters.get(option) if section in kinds else None
    return None if parameter is None else flat({section: {option: parameter.default}}).get(name)


def _refuse_fewer(before: RunInfo, cli: RunCLI, old: dict[str, Any]) -> None:
    """Refuse schedules that leave out steps at which the run was to be measured or validated."""
    last, now = getattr(before, "max_steps", None) or 0, cli.monitor.schedule
    key = "monitor.schedule"
    name = old.get(f"{key}.class_path", old.get(key))
    start = f"{key}.init_args."
    was = _schedule(name, {option.removeprefix(start): old[option] for option in old if option.startswith(start)}, now)
    if was is None or not was.inner(last) <= now.inner(last):
        raise _refusal(before, key, was or name, now)
    interval, new = old.get("trainer.val_check_interval"), cli.config.trainer.val_check_interval
    is_finer = isinstance(interval, int) and isinstance(new, int) and interval % new == 0
    if interval != new and not is_finer:
        raise _refusal(before, "trainer.val_check_interval", interval, new)


def _schedule(name: Any, options: dict[str, Any], now: Schedule) -> Schedule | None:
    """Return the schedule that a configuration names, if it is of the kind of `now` or one of ours."""
    if name is None:
        return LogSpaced()
    for kind in (type(now), LogSpaced, Every):
        if name == f"{kind.__module__}.{kind.__qualname__}":
            try:
                return kind(**options)
            except (TypeError, InputError):  # somebody has changed it
                return None
    return None


def _refusal(before: RunInfo, key: str, old: Any, now: Any) -> InputError:
    return InputError(
        f"the run {before.run} was made with {key} {spelled(old)} (now {spelled(now)}): give the same again, or choose "
        "another --run."
    )


def spelled(value: Any) -> str:
    """Return a setting as it is written."""
    return json.dumps(value) if isinstance(value, dict | list | bool | None) else str(value)
