"""What a training run is made of, as its `run.json` states it and as its first lines print it."""

from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from dynamics import runs
from dynamics.errors import InputError
from dynamics.files import free_bytes
from dynamics.measure.checked import checked
from dynamics.provenance import provenance
from dynamics.run_info import SCHEMA, FitInfo
from dynamics.training.checkpoint import read_state
from dynamics.training.continuation import spelled
from dynamics.training.lightning_cli import RunCLI

Facts = dict[str, Any]


def describe(cli: RunCLI) -> FitInfo:
    """Return the content of `run.json` of a run that is set up."""
    hparams, trainer, suite = cli.model.hparams, cli.trainer, cli.monitor.suite
    facts = {
        **{"run": cli.folder.name, "schema": SCHEMA, "status": "running"},
        **provenance(),
        **cli.model.describe(),
        "parameters": cli.model.network.num_parameters(),
        **cli.datamodule.describe(),
        "max_steps": trainer.max_steps,
        **{"learning_rate": hparams.learning_rate, "seed": hparams.seed, "model": dict(hparams)},
        **{"precision": trainer.precision, "devices": trainer.world_size, "wandb_id": cli.wandb_id},
        "probe": _describe_tokens(cli.datamodule.evaluation_batches()),
        "metrics": suite.describe(),
        "descriptions": suite.descriptions(),
    }
    first = next(iter(cli.datamodule.evaluation_batches()))
    facts["capture"] = str(checked(cli.model.network, first, cli.folder.name))
    if terms := {name: term.describe() for name, term in cli.model.regularizers.items()}:
        names = (f"{term['class']} {term['weight']:g}" for term in terms.values())
        facts |= {"label": ", ".join([facts["label"], *names]), "regularizers": terms}
    return FitInfo.from_dict(facts)


def _describe_tokens(batches: Any) -> Facts:
    """Return the facts of the evaluation tokens: how many, and the hash that twins share."""
    return {
        "split": "validation",
        "windows": sum(len(batch["input_ids"]) for batch in batches),
        "tokens": sum(int(batch.get("attention_mask", batch["input_ids"] >= 0).sum()) for batch in batches),
        "sha256": sha256(b"".join(batch["input_ids"].numpy().tobytes() for batch in batches)).hexdigest(),
        "precision": "float32",
    }


class Volume(NamedTuple):
    """Files of one size."""

    number: int
    size: int  # bytes, about

    def __str__(self) -> str:
        return f"{self.number} x {self.size / 1e6:.3g} MB"


def _volumes(cli: RunCLI, done: int) -> tuple[Volume, Volume]:
    """Return the weights and the states that a run leaves on the disk from the step after `done` on."""
    last, parameters = cli.trainer.max_steps, cli.model.network.num_parameters()
    ahead = {step for steps in cli.monitor.steps(last).values() for step in steps if step > done}
    copies = {"all": len(ahead), "last": 1, "none": 0}[cli.monitor.keep_weights]
    # A state has the two moments of Adam besides; other optimisers have one.
    return Volume(copies, 4 * parameters), Volume(cli.checkpoints.count(ahead, done, last), 12 * parameters)


def require_room(cli: RunCLI, state: Path | None) -> None:
    """Refuse to train where the disk does not hold what the run will leave there."""
    done = -1 if state is None else read_state(state, cli.model.network)["global_step"]
    needed, free = sum(number * size for number, size in _volumes(cli, done)), free_bytes(cli.folder)
    if needed > free:
        raise InputError(
            f"the run needs {needed:,} bytes for weights and training states, and {cli.folder.parent} has {free:,}: "
            "make room, or keep less (monitor.keep_weights, checkpoints.keep)."
        )


def announce(cli: RunCLI, info: FitInfo, state: Path | None) -> None:
    """Print what is about to be trained, on what, and what it leaves on the disk."""
    last, parameters = cli.trainer.max_steps, cli.model.network.num_parameters()
    measured = {step for steps in cli.monitor.steps(last).values() for step in steps}
    weights, kept_states = _volumes(cli, cli.monitor.begins or -1)
    print(
        f"run {info.run}: {info.label}, {info.layers} x {info.width}, {info.heads} heads, "
        f"{parameters / 1e6:.1f} M parameters, seed {info.seed}\n"
        f"{cli.datamodule.headline()}\n"
        f"{last} steps; measured at {len(measured)} of them on {info.probe['tokens']} tokens; "
        f"kept: weights {weights}, training states {kept_states}; capture {info.capture}"
    )
    if (cli.trainer.max_epochs or -1) > 0 and cli.config.trainer.max_steps != -1:
        print(f"trainer.max_steps {last} decides, trainer.max_epochs {cli.trainer.max_epochs} does not")
    for note in info.data["notes"]:
        print(note)
    if state is not None and info.fork and state.name == runs.state_path(cli.folder, info.fork["step"]).name:
        changed = (f"{key} {spelled(was)} -> {spelled(now)}" for key, (was, now) in info.fork["changed"].items())
        print(f"fork of {info.fork['parent']} from step {info.fork['step']}: {', '.join(changed) or 'nothing changes'}")
    elif state is not None:
        print(f"resuming from {state}")
