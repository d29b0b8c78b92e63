"""What the command line of the cone says."""

from collections.abc import Sequence
from dataclasses import dataclass

from dynamics.loading.options import Loading


@dataclass(frozen=True)
class Options(Loading):
    """Settings of the cone; see `dynamics cone --help` for each."""

    batch_size: int = 32
    sentences: str | None = None
    corpus: Sequence[str] = ()
    pairs: str | None = None
    compare: str = "axes"
    pooling: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    components: int | None = None
