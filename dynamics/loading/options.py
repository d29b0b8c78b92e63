"""Options that choose models and their inputs, with defaults and help texts. No torch here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamics.errors import InputError

DTYPES = ("fp32", "bf16", "fp16")
READING = ("lines", "shuffled", "tokens", "inputs", "context")  # options that choose what of a text is read, and how


@dataclass(frozen=True)
class LoadOptions:
    """Which models are loaded, and how.

    Args:
        models: hub names, folders, runs (each also as NAME:untrained), random:ARCHITECTURE (small, reads bytes), or
            NAME=PATH to call a folder or run NAME
        revisions: step0,step512 or all: revisions on the step axis (of a run: its steps)
        module: package:factory, a function that returns a torch module, or (module, encode)
        dtype: precision to run in: fp32, bf16 or fp16
        device: auto, cpu, cuda, cuda:1 ...
        seed: of untrained weights, noise, shuffling and resampling
        config_overrides: of random:ARCHITECTURE: {hidden_size: 64}
        trust_remote_code: run the code that a model brings along
    """

    models: list[str]
    revisions: str | None = None
    module: str | None = None
    dtype: str = "fp32"
    device: str = "auto"
    seed: int = 0
    config_overrides: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more (got {self.seed}).")
        self.refuse_unknown("dtype", DTYPES)

    def refuse_below_one(self, *names: str) -> None:
        """Refuse numbers less than 1; None is no number."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1 (got {value}).")

    def refuse_unknown(self, name: str, choices: Sequence[str]) -> None:
        """Refuse a value that is none of the choices."""
        value = getattr(self, name)
        if value not in choices:
            text = f"{', '.join(choices[:-1])} or {choices[-1]}".removeprefix(" or ")
            raise InputError(f"--{name} must be {text} (got {value}).")

    def refuse_unused(self, names: Iterable[str], where: str, instead: str = "remove it") -> None:
        """Refuse options that have no effect `where` they are used ("with --protocol inherent")."""
        for name in names:
            if getattr(self, name):
                raise InputError(f"--{name} has no effect {where}; {instead}.")


@dataclass(frozen=True)
class ModelOptions(LoadOptions):
    """Which models are measured, and how they are run.

    Args:
        run: name of the run under checkpoints/ (made up when missing)
        resume: auto: resume the run, leaving out the models that it has already
        tokenizer: name or folder of the tokenizer, or bytes, where the model brings none
        metrics: as in dynamics fit
        inputs: inputs to read at most
        batch_size: inputs in a batch
        strict: exit code 1 if a metric that was asked for has no value somewhere
    """

    run: str | None = None
    resume: str | None = None
    tokenizer: str | None = None
    metrics: dict[str, dict[str, Any] | None] | list[str] | None = None
    inputs: int | None = None
    batch_size: int = 16
    strict: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_below_one("inputs", "batch_size")
        if self.resume is not None:
            self.refuse_unknown("resume", ("auto",))


@dataclass(frozen=True)
class InputOptions(ModelOptions):
    """Which models are measured, and the texts, images or clips that they are measured on.

    Args:
        text: file (.txt), corpus (enwik8, sample, auto), or hub:NAME[:CONFIG[:SPLIT[:COLUMN]]]
        lines: each line of --text is one input
        shuffled: synthetic control: the tokens of every input in random order
        images: folder of images, or noise (a synthetic control, and the default)
        audio: folder of .wav (others with soundfile), or noise (a synthetic control, and the default)
        tokens: tokens of text at most (a file: all of it)
        context: tokens in a window (the model's own limit, 512 for running text)
        inputs: lines, windows, images or clips at most
    """

    text: str | None = None
    lines: bool = False
    shuffled: bool = False
    images: str | None = None
    audio: str | None = None
    tokens: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_below_one("tokens", "context")
