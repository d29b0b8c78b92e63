"""What the command line of the cone says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamics.experiments.scan import Options as Loading


@dataclass(frozen=True)
class Options:
    """Settings of the cone; see `dynamics cone --help` for each."""

    models: Sequence[str]
    sentences: str | None = None
    corpus: Sequence[str] = ()
    pairs: str | None = None
    run: str | None = None
    revisions: str | None = None
    compare: str = "axes"
    pooling: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    components: int | None = None
    inputs: int | None = None
    module: str | None = None
    tokenizer: str | None = None
    batch_size: int = 32
    metrics: Mapping[str, Any] | Sequence[str] | None = None
    dtype: str = "fp32"
    device: str = "auto"
    seed: int = 0
    config_overrides: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False

    @property
    def loading(self) -> Loading:
        """How models are found and loaded: as a scan does it."""
        shared = ("models", "revisions", "module", "tokenizer", "batch_size", "dtype", "device", "seed")
        chosen = {name: getattr(self, name) for name in (*shared, "config_overrides", "trust_remote_code")}
        return Loading(**chosen)
