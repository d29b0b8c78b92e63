"""`dynamics fit`, `validate` and `test`: runs with names, sizes and resuming."""

import logging
import shutil
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from transformers.utils import logging as transformers_logging

from dynamics import runs
from dynamics.config import OWN_OPTIONS, Options, gather_config, split_options
from dynamics.errors import Failure, InputError
from dynamics.files import write_atomically
from dynamics.provenance import provenance
from dynamics.record import Record, Row
from dynamics.runs import new, resolve, write_run
from dynamics.training.checkpoint import read_state, resolve_resume, state_path, states
from dynamics.training.lightning_cli import RunCLI


def _quiet() -> None:
    """Keep the libraries' tips out of the way: they bury what the run itself has to say."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _count_steps(cli: RunCLI) -> None:
    """Epochs become steps, which schedules are made of, as soon as the data can be counted."""
    trainer = cli.trainer
    if trainer.max_steps == -1:
        epoch = getattr(cli.datamodule, "steps_per_epoch", None)
        if epoch is None:
            raise InputError("windows drawn from a corpus have no epochs: say trainer.max_steps.")
        trainer.fit_loop.epoch_loop.max_steps = trainer.max_epochs * epoch
    interval, shares = trainer.val_check_interval, trainer.accumulate_grad_batches
    if trainer.check_val_every_n_epoch is not None:
        # The run is one epoch to Lightning: the interval, a share of it or batches, must fit into it.
        share = int(interval * trainer.max_steps) * shares if isinstance(interval, float) else interval
        trainer.val_check_interval = min(max(share, shares), trainer.max_steps * shares)


def _describe(cli: RunCLI) -> dict[str, Any]:
    """`run.json`: everything that the run was made of."""
    hparams, trainer = cli.model.hparams, cli.trainer
    probe = cli.datamodule.evaluation_batches()
    model = cli.model.describe()
    terms = {name: term.describe() for name, term in cli.model.regularizers.items()}
    if terms:  # a plain run stays what it was
        shown = (f"{term['class']} {term['weight']:g}" for term in terms.values())
        model |= {"label": ", ".join([model["label"], *shown]), "regularizers": terms}
    return {
        "run": cli.folder.name,
        "kind": "fit",
        "status": "running",
        **provenance(),
        **model,
        "parameters": cli.model.network.num_parameters(),
        **cli.datamodule.describe(),
        "max_steps": trainer.max_steps,
        "learning_rate": hparams.learning_rate,
        "seed": hparams.seed,
        "precision": trainer.precision,
        "devices": trainer.world_size,
        "model": dict(hparams),
        "probe": {
            "split": "validation",
            "windows": sum(len(batch["input_ids"]) for batch in probe),
            "tokens": sum(int(batch.get("attention_mask", batch["input_ids"] >= 0).sum()) for batch in probe),
            "sha256": sha256(b"".join(batch["input_ids"].numpy().tobytes() for batch in probe)).hexdigest(),
            "precision": "float32",
        },
        "metrics": cli.config_init["monitor"].suite.describe(),
    }


def _made_up_name(options: Options) -> str:
    stem = Path(options.configs[0]).stem if options.configs else "run"
    parts = [stem, options.size, datetime.now(UTC).strftime("%Y%m%d-%H%M%S")]
    return "-".join(part for part in parts if part)


def _announce(cli: RunCLI, described: dict[str, Any], state: Path | None) -> None:
    monitor = cli.config_init["monitor"]
    measured = sorted({step for steps in monitor.steps(described["max_steps"]).values() for step in steps})
    kept = {"all": len(measured), "last": 1, "none": 0}[monitor.keep_weights]
    print(
        f"run {cli.folder.name}: {described['label']}, {described['layers']} x {described['width']}, "
        f"{described['heads']} heads, {described['parameters'] / 1e6:.1f} M parameters, "
        f"seed {described['seed']}\n"
        f"{cli.datamodule.headline()}\n"
        f"{described['max_steps']} steps; measured at {len(measured)} of them on "
        f"{described['probe']['tokens']} tokens; weights kept: "
        f"{kept} x {described['parameters'] * 4 / 1e6:.0f} MB"
    )
    for note in described["data"]["notes"]:
        print(note)
    if state is not None:
        print(f"going on from {state}")


def _prepare(cli: RunCLI, state: Path | None) -> dict[str, Any]:
    """Set data and model up, and refuse all that can be refused before anything is written."""
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    cli.model.build(cli.datamodule)
    if state is not None:
        read_state(state, cli.model.network)
    _count_steps(cli)
    described = _describe(cli)
    if state is not None and (cli.folder / "run.json").is_file():
        _refuse_change(runs.read(cli.folder).to_dict(), described)
    return described


def _refuse_change(before: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on, and is evaluated, as what it was: the same model learns the same text in the same order."""
    told = [(key, before, now) for key in ("objective", "is_causal", "task", "seed", "context", "batch_size")]
    told += [(key, before.get("data", {}), now["data"]) for key in ("sha256", "recipe", "vocabulary")]
    for key, there, here in told:
        if key in there and there[key] != here.get(key):
            raise InputError(
                f"the run {before['run']} was made with {key} {there[key]} (now {here.get(key)}): say the same again, "
                "or choose another --run."
            )


def _start_folder(cli: RunCLI, described: dict[str, Any]) -> None:
    text = yaml.safe_dump(cli.config_dump, sort_keys=False)
    write_atomically(cli.folder / "config.yaml", lambda file: file.write(text.encode()))
    cli.datamodule.save(cli.folder)
    write_run(cli.folder, described)


def _finish(folder: Path, described: dict[str, Any], status: str) -> None:
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_run(folder, {**described, "status": status, "finished": finished})


def _leave_group() -> None:
    """End the ranks' process group while the interpreter lives.

    Left to the interpreter's own end, its threads are taken down in the midst of that, which now and then aborts
    a process whose work is done (pytorch/pytorch issue 190489).
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def fit(options: Options) -> None:
    """Train one run, from its beginning or from where it stopped."""
    folder = new(options.run or _made_up_name(options))
    existed = folder.exists() and any(folder.iterdir())
    # The other ranks run the same command, and find the folder of the first.
    is_first = rank_zero_only.rank == 0
    if options.run is None and options.resume == "auto":
        raise InputError("say which run goes on: --run NAME --resume auto.")
    if existed and options.resume is None and is_first:
        raise InputError(f"a run named {folder.name} exists: add --resume auto to go on, or choose another --run.")
    if not options.configs and (folder / "config.yaml").is_file():
        options = options._replace(configs=[str(folder / "config.yaml")])
    cli = RunCLI(folder, ["--config", yaml.safe_dump(gather_config(options)), *options.rest])
    state = resolve_resume(options.resume, folder) if options.resume else None
    described = _prepare(cli, state)
    if is_first:
        _announce(cli, described, state)
        _start_folder(cli, described)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=state, weights_only=True)
    except BaseException as error:
        if not is_first:
            raise
        refused = isinstance(error, InputError | MisconfigurationException)
        if refused and not existed and cli.trainer.global_step == 0:
            shutil.rmtree(folder)
            raise
        # Lightning leaves with SystemExit after Ctrl-C, and with it alone.
        interrupted = isinstance(error, SystemExit | KeyboardInterrupt)
        _finish(folder, described, "interrupted" if interrupted else "failed")
        if interrupted:
            newest = next((path.name for path in states(folder)), "none yet")
            print(f"run {folder.name} goes on from its newest state ({newest}) with --resume auto")
            raise KeyboardInterrupt from None
        if isinstance(error, Failure):
            # The weights of this very step gave what is not finite.
            good = (path for path in states(folder) if path != state_path(folder, cli.trainer.global_step))
            raise Failure(f"{error} The newest state from before: {next(good, 'none')}.") from error
        raise
    _leave_group()
    if not is_first:
        return
    _finish(folder, described, "done" if cli.trainer.global_step >= cli.trainer.max_steps else "stopped")
    print(f"run {folder.name} is in {folder}/; draw it with: dynamics report {folder.name}")


def evaluate(verb: str, options: Options) -> None:
    """Loss of a run's newest state on the validation windows, or on the whole test split."""
    if options.run is None:
        raise InputError(f"say which run to {verb}: --run NAME.")
    folder = resolve(options.run)
    if not options.configs:
        options = options._replace(configs=[str(folder / "config.yaml")])
    state = resolve_resume(options.resume or "auto", folder)
    if state is None:
        raise InputError(f"the run {folder.name} has no training state to {verb} (nothing in {folder}/state/).")
    args = ["--config", yaml.safe_dump(gather_config(options)), *options.rest, "--trainer.logger", "false"]
    cli = RunCLI(folder, args)
    _prepare(cli, state)
    getattr(cli.trainer, verb)(cli.model, datamodule=cli.datamodule, ckpt_path=state, weights_only=True, verbose=False)
    _leave_group()
    if rank_zero_only.rank != 0:
        return
    values = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    step = read_state(state, cli.model.network)["global_step"]
    condition = "split=test" if verb == "test" else ""
    rows = [
        Row(folder.name, "", condition, step, "validation", -1, -1, name.split("/")[1], value)
        for name, value in values.items()
    ]
    record = Record(folder)
    record.add_curves(rows)
    record.flush()
    for name, value in values.items():
        print(f"{name} at step {step}: {value:.4f}")


def main(verb: str, argv: Sequence[str]) -> None:
    """Run `dynamics fit`, `validate` or `test`."""
    _quiet()
    if {"-h", "--help"} & set(argv):
        print(f"usage: dynamics {verb} --config FILE [options]\n{OWN_OPTIONS}")
    options = split_options(argv)
    try:
        if verb == "fit":
            fit(options)
        else:
            evaluate(verb, options)
    except MisconfigurationException as error:
        raise InputError(" ".join(str(error).split())) from error
