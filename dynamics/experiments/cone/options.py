"""Options of `dynamics cone`. No torch here."""

from dataclasses import dataclass, field

from dynamics.errors import InputError
from dynamics.loading.options import ModelOptions


@dataclass(frozen=True)
class ConeOptions(ModelOptions):
    """Sentence vectors: how narrow their cone is, what its axis means, how centring helps.

    Args:
        sentences: text file, a sentence a line
        corpus: NAME=FILE: other sentences; may be given several times
        pairs: pairs of sentences with scores, tab-separated: STS-B, or score and two sentences
        compare: axes (models of one width), or cka (models of any width)
        pooling: mean, cls, last or max, instead of the model's own
        prompt: name of one of the model's prompts, or a text, before every sentence
        normalize: true or false, instead of what the model does
        components: that all-but-the-top removes (a hundredth of the width)
        inputs: sentences of each file at most
        batch_size: sentences in a batch
    """

    batch_size: int = 32
    sentences: str = ""
    corpus: list[str] = field(default_factory=list)
    pairs: str | None = None
    compare: str = "axes"
    pooling: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    components: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sentences:
            raise InputError("--sentences FILE is missing: a text file with one sentence a line.")
        self.refuse_below_one("components")
        self.refuse_unknown("compare", ("axes", "cka"))
