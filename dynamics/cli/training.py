"""`dynamics fit`, `fork`, `validate` and `test`, with the help that needs no configuration. No torch here."""

import re
from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any

from dynamics.cli.docstrings import ROOT, read_doc, read_parameters
from dynamics.cli.memory import reuse_memory
from dynamics.config import read_config
from dynamics.errors import InputError

CLASSES = {
    "model": "dynamics.models.language.LanguageModel",
    "data": "dynamics.data.windows.CharData",
    "monitor": "dynamics.training.monitor.Monitor",
    "checkpoints": "dynamics.training.checkpoint.Checkpoints",
    "trainer.logger": "dynamics.loggers.wandb.WandbLogger",
    "health": "dynamics.training.health.Health",
}
EXAMPLE = "configs/decoder.yaml"
FIT_OPTIONS = {
    "config FILE": "configuration; of several, later ones win; keys on the command line win over all",
    "size tiny|small|base": "a configuration from the folder sizes beside the first --config; it wins over --config",
    "run NAME": "name of the run under checkpoints/ (made up when missing)",
    "resume auto|PATH": "resume the run from its newest training state, or from this one",
    "allow-classes PACKAGE": "another package that the config.yaml of a run may name",
}
EVALUATION_OPTIONS = {
    "run NAME": "the run to evaluate",
    "resume PATH": "training state to evaluate (the newest of the run when missing)",
    "config FILE": "other settings than the config.yaml of the run",
    "allow-classes PACKAGE": "another package that the config.yaml of the run may name",
}
KEYS = {  # keys that people set, with a help text where no class of ours has one
    "seed_everything": "decides initial weights, windows and masks",
    "metrics": "what to measure: [anisotropy, entropy], or names with options",
    **dict.fromkeys(("model.architecture", "model.objective", "model.is_causal", "model.depth", "model.width"), ""),
    **dict.fromkeys(("model.heads", "model.learning_rate"), ""),
    "model.regularizers+": "IStar or CosReg; then --model.regularizers.weight=-2",
    **dict.fromkeys(("data.corpus", "data.context", "data.batch_size"), ""),
    "trainer.max_steps": "optimiser steps",
    "trainer.precision": "32-true or bf16-mixed (picked for the machine when missing)",
    "trainer.logger": "false: without W&B",
    "trainer.logger.log_heads": "",
    **dict.fromkeys(("monitor.schedule", "monitor.keep_weights", "checkpoints.every"), ""),
    **dict.fromkeys(("checkpoints.keep", "health.skip"), ""),
}
TEXT_WIDTH = 76


def fit(*words: str) -> None:
    """Train a model and measure it while it learns.

    Examples:
        dynamics fit --config configs/decoder.yaml --size tiny --run decoder
        dynamics fit --config configs/decoder.yaml --size tiny --run decoder --resume auto
        dynamics fit --config configs/finetune.yaml --model.checkpoint gpt2 --data.task sst2 --run tuned
    """
    reuse_memory()
    _run("fit", words)


def validate(*words: str) -> None:
    """Compute the loss of a run on the validation split.

    Examples:
        dynamics validate --run decoder
        dynamics validate --run decoder --trainer.accelerator cpu
    """
    _run("validate", words)


def test(*words: str) -> None:
    """Compute the loss of a run on the whole test split.

    Examples:
        dynamics test --run decoder
        dynamics test --run decoder --resume checkpoints/decoder/state/step-0000000500.ckpt
    """
    _run("test", words)


def fork(parent: str, at: int | None = None, run: str | None = None, fit_options: tuple[str, ...] = ()) -> None:
    """Continue a run from one of its training states with something changed, as a run of its own.

    Other options are those of `dynamics fit` (--config FILE, --KEY VALUE), also as KEY=VALUE; what none names stays as
    it is in the parent.

    Args:
        parent: the run, by its name under checkpoints/ or its path
        at: step of the state; checkpoints.keep (newest, measured, all) says which a run keeps
        run: name of the fork under checkpoints/ (made up when missing)

    Examples:
        dynamics fork causal-mlm --at 500 --config configs/switch.yaml --run switched
        dynamics fork decoder --at 500 --run slower model.learning_rate=3e-4
        dynamics fork decoder --at 500 --run control
    """
    reuse_memory()
    from dynamics.training.fit import main

    main("fit", [*(["--run", run] if run else []), *as_options(fit_options)], (parent, at))


def as_options(words: Sequence[str]) -> list[str]:
    """Return the words of `dynamics fit` with every `KEY=VALUE` as an option; refuse words that are neither.

    >>> as_options(["model.is_causal=false", "--run", "a=b"])
    ['--model.is_causal=false', '--run', 'a=b']
    """
    options: list[str] = []
    is_value = False
    for word in words:
        if not (is_value or word.startswith("-") or "=" in word):
            raise InputError(f"{word} is no option: write KEY=VALUE or --KEY VALUE.")
        options.append(word if is_value or word.startswith("-") else f"--{word}")
        is_value = not is_value and word.startswith("-") and "=" not in word
    return options


def _run(verb: str, words: tuple[str, ...]) -> None:
    names = {word.partition("=")[0] for word in words}
    if {"-h", "--help"} & set(words):
        is_short = not names & ({"-c", "--config"} if verb == "fit" else {"--config", "--run"})
        print("\n".join(_help(verb, is_short)))
        if is_short:
            return
        print("\nAll keys; those of a class: --model.help LanguageModel, --data.help CharData\n", flush=True)
    from dynamics.training.fit import main

    main(verb, words)


def option_names(verb: str) -> list[str]:
    """Return the options that the short help shows."""
    options = FIT_OPTIONS if verb == "fit" else EVALUATION_OPTIONS
    return [f"--{name}" for name in [*(option.split()[0] for option in options), *KEYS]]


def _help(verb: str, is_short: bool) -> Iterator[str]:
    doc = read_doc(globals()[verb].__doc__)
    options = FIT_OPTIONS if verb == "fit" else EVALUATION_OPTIONS
    yield f"usage: dynamics {verb} --{next(iter(options))} [options] [KEY VALUE ...]\n\n{doc.summary}\n"
    for option, text in options.items():
        yield f"  --{option:<22} {text}"
    if not is_short:
        return
    if verb == "fit":
        yield f"\nkeys that are often set, and their values in {EXAMPLE}:"
        for key, (value, text) in read_keys().items():
            yield f"  --{key:<22} {_written(value):<17}{text}"
    yield "\nexamples:"
    yield from (f"  {example}" for example in doc.examples)
    needed = f"--config {EXAMPLE}" if verb == "fit" else "--run NAME"
    yield f"\nAll keys: dynamics {verb} {needed} --help; of a class: --model.help LanguageModel"


def read_keys() -> dict[str, tuple[Any, str]]:
    """Return the value of every key in `KEYS`, that of the example or the default of the class, and its help text."""
    config = read_config(ROOT / EXAMPLE) if (ROOT / EXAMPLE).is_file() else {}
    parameters = {room: read_parameters(class_path) for room, class_path in CLASSES.items()}
    values: dict[str, tuple[Any, str]] = {}
    for key, text in KEYS.items():
        room, _, name = key.rpartition(".")
        settings = config
        for part in filter(None, room.split(".")):
            settings = settings.get(part, {})
        settings = settings.get("init_args", settings)
        default, help_text = parameters.get(room, {}).get(name.rstrip("+"), (None, ""))
        first_clause = re.split(r"; |: | \(|\. ", help_text)[0]
        values[key] = settings.get(name, default), text or shorten(first_clause, TEXT_WIDTH, placeholder=" ...")
    return values


def _written(value: Any) -> str:
    """Return a value as it is written on the command line; a class by its name.

    >>> [_written(value) for value in (True, None, 0.001, {"class_path": "dynamics.schedule.LogSpaced"})]
    ['true', '', '0.001', 'LogSpaced']
    """
    if isinstance(value, dict):
        return str(value["class_path"]).rpartition(".")[2]
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
