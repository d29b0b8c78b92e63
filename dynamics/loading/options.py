"""What the command line of a scan says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamics.errors import InputError


@dataclass(frozen=True)
class Loading:
    """Which models are measured, and how they are found, loaded and run."""

    models: Sequence[str]
    run: str | None = None
    resume: str | None = None
    revisions: str | None = None
    module: str | None = None
    tokenizer: str | None = None
    inputs: int | None = None
    batch_size: int = 16
    metrics: Mapping[str, Any] | Sequence[str] | None = None
    dtype: str = "fp32"
    device: str = "auto"
    seed: int = 0
    config_overrides: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more (got {self.seed}).")

    def refuse_idle(self, names: Iterable[str], where: str, instead: str = "leave it out") -> None:
        """Refuse options that would change nothing in `where`."""
        for name in names:
            if getattr(self, name):
                raise InputError(f"--{name} has no say in {where}: {instead}.")


@dataclass(frozen=True)
class Options(Loading):
    """Settings of a scan; see `dynamics scan --help` for each."""

    text: str | None = None
    lines: bool = False
    shuffled: bool = False
    images: str | None = None
    audio: str | None = None
    tokens: int | None = None
    context: int | None = None
    protocol: str | None = None


CHOOSING = ("lines", "shuffled", "tokens", "inputs", "context")
"""Options that say what of a text is read, and how."""
