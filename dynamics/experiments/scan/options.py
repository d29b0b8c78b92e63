"""What the command line of a scan says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Loading:
    """Which models are measured, and how they are found, loaded and run."""

    models: Sequence[str]
    run: str | None = None
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


@dataclass(frozen=True)
class Options(Loading):
    """Settings of a scan; see `dynamics scan --help` for each."""

    resume: str | None = None
    text: str | None = None
    lines: bool = False
    shuffled: bool = False
    images: str | None = None
    audio: str | None = None
    tokens: int | None = None
    context: int | None = None
    protocol: str | None = None
