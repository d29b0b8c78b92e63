"""The settings of `dynamics probe`, and the designs of blocks that they span. No torch here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, TypeVar

from dynamics.errors import InputError

T = TypeVar("T")

BIASES = ("input", "query", "key", "parallel", "opposed")
INPUTS = ("normal", "uniform", "laplace", "signs")
NORMS = ("none", "pre", "post")
INITIALIZATIONS = ("gpt2", "bert", "xavier", "kaiming", "lecun", "mup")
DEVICES = ("auto", "cpu", "cuda")
CHOICES = {"bias": BIASES, "inputs": INPUTS, "initialization": INITIALIZATIONS, "norm": NORMS, "device": DEVICES}
LEAST = {"seeds": 1, "seed": 0, "depth": 1, "batch": 1, "sample": 2, "width": 1, "heads": 1, "length": 2}


@dataclass(frozen=True)
class BlockDesign:
    """One kind of block, and what enters it; `varied` are the fields in which the designs of a run differ.

    The blocks of an `architecture` of transformers have their own initialisation, norms and mask.
    """

    width: int
    heads: int
    length: int
    inputs: str
    architecture: str = ""
    initialization: str = ""
    norm: str = ""
    causal: bool = False
    varied: tuple[str, ...] = field(default=(), compare=False)

    @property
    def condition(self) -> dict[str, object]:
        """What differs between this design and the others of its run; an architecture is the subject instead."""
        return {name: getattr(self, name) for name in self.varied}

    def __str__(self) -> str:
        """Describe the kind of blocks, without their size.

        >>> str(BlockDesign(768, 12, 128, "normal", initialization="lecun", norm="none"))
        'random blocks, lecun, norm none, 12 heads'
        """
        if self.architecture:
            return f"{self.architecture}, untrained"
        causal = ", causal" * self.causal
        return f"random blocks, {self.initialization}, norm {self.norm}{causal}, {self.heads} heads"


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of `dynamics probe`. Those that accept a list are swept: every combination is one design.

    Args:
        beta: norms of the bias that all tokens share.
        bias: where the bias is added: to the `input` of the first block (states and attention are measured); to the
            `query` or `key` vectors of every head; to both, `parallel` or `opposed` (the attention of the first
            block is measured, its input has no bias).
        seeds: number of independent draws of weights, inputs and directions.
        seed: the first seed.
        depth: number of blocks; each is measured.
        batch: sequences in a draw.
        width: width of the states.
        heads: attention heads.
        length: tokens in a sequence.
        inputs: distribution of the independent coordinates, of variance 1: normal, uniform, laplace or signs (+1, -1).
        initialization: gpt2, bert, xavier, kaiming, lecun or mup.
        norm: layer norm without learned parameters: none, pre or post.
        causal: whether a token attends only to the tokens up to itself.
        architecture: an architecture of transformers (llama, gpt2, bert, opt, vit, ...) whose untrained blocks replace
            the random ones, with their own initialisation, norms and mask.
        metrics: names of metrics of states and of attention; with the suffix `_within_windows`, a metric of states is
            computed in each sequence and averaged.
        sample: tokens of a draw that spectra and neighbour searches use.
        device: auto, cpu or cuda.
    """

    beta: list[float] = field(default_factory=lambda: [0.0, *(2.0**k for k in range(11))])
    bias: str | list[str] = field(default_factory=lambda: list(BIASES))
    seeds: int = 5
    seed: int = 0
    depth: int = 2
    batch: int = 8
    width: int | list[int] = 768
    heads: int | list[int] = 12
    length: int | list[int] = 128
    inputs: str | list[str] = "normal"
    initialization: str | list[str] = "lecun"
    norm: str | list[str] = "none"
    causal: bool | list[bool] = False
    architecture: str | list[str] | None = None
    metrics: list[str] = field(
        default_factory=lambda: [
            *("mean_cosine", "mean_cosine_within_windows", "mean_norm", "norm_of_mean", "anisotropy"),
            *("intrinsic_dimension", "score_variance", "entropy", "normalized_entropy"),
            *("max_probability", "min_probability"),
        ]
    )
    sample: int = 512
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, setting in asdict(self).items():
            values = several(setting)
            if not values:
                raise InputError(f"{name} is an empty list: give it at least one value.")
            for value in values:
                if name in LEAST and value < LEAST[name]:
                    raise InputError(f"{name} must be at least {LEAST[name]} (got {value}).")
                if name in CHOICES and value not in CHOICES[name]:
                    raise InputError(f"{name} must be one of {', '.join(CHOICES[name])} (got {value}).")
        for beta in self.beta:
            if not (beta >= 0 and math.isfinite(beta)):
                raise InputError(f"beta is the norm of a bias: it must be 0 or more, and finite (got {beta:g}).")
        for width, heads in product(several(self.width), several(self.heads)):
            if width % heads:
                raise InputError(f"width {width} is not divisible by heads {heads}: choose a divisor of the width.")

    @property
    def betas(self) -> list[float]:
        """The norms of the bias, each once, ascending."""
        return sorted(set(self.beta))

    @property
    def biases(self) -> list[str]:
        """The places of the bias, each once."""
        return several(self.bias)

    def designs(self) -> Iterator[BlockDesign]:
        """Yield every combination of the settings that are swept."""
        names = ["width", "heads", "length", "inputs"]
        names += ["architecture"] if self.architecture else ["initialization", "norm", "causal"]
        swept = {name: several(getattr(self, name)) for name in names}
        varied = tuple(name for name in names if len(swept[name]) > 1 and name != "architecture")
        for combination in product(*swept.values()):
            yield BlockDesign(**dict(zip(names, combination, strict=True)), varied=varied)

    def describe(self) -> dict[str, Any]:
        """Return the settings that have an effect, for `run.json`."""
        unused = ("initialization", "norm", "causal") if self.architecture else ("architecture",)
        return {name: value for name, value in asdict(self).items() if name not in unused} | {"beta": self.betas}


def several(value: T | Sequence[T]) -> list[T]:
    """Return a setting as a list, each value once.

    >>> several("pre"), several([3, 1, 3])
    (['pre'], [3, 1])
    """
    return list(dict.fromkeys(value if isinstance(value, list | tuple) else [value]))
