"""What the probe sweeps: settings from the command line, and the designs that they span. No torch here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, TypeVar

from dynamics.errors import InputError

T = TypeVar("T")

BIASES = ("input", "query", "key", "parallel", "opposed")
INPUTS = ("normal", "uniform", "laplace", "signs")
NORMS = ("none", "pre", "post")
INITIALIZATIONS = ("gpt2", "bert", "xavier", "kaiming", "lecun", "mup")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Design:
    """One kind of block, and what it is fed.

    `architecture` names one of transformers'; its blocks bring initialisation, norms and mask of their own, and
    the last three fields say nothing then. `varied` are the fields in which the designs of a run differ.
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
        """What tells this design from the others of its run; the architecture does so as the subject."""
        return {name: getattr(self, name) for name in self.varied}

    def __str__(self) -> str:
        """The kind of blocks in words, without their size.

        >>> str(Design(768, 12, 128, "normal", initialization="lecun", norm="none"))
        'random blocks, lecun, norm none, 12 heads'
        """
        if self.architecture:
            return f"{self.architecture}, untrained"
        causal = ", causal" * self.causal
        return f"random blocks, {self.initialization}, norm {self.norm}{causal}, {self.heads} heads"


@dataclass(frozen=True)
class Settings:
    """Settings of `dynamics probe`. Those that take a list are swept: every combination is a design.

    Args:
        beta: norms of the common bias.
        bias: where it is put: on the block's `input` (states are measured then); on every head's `query` or
            `key`; on both, `parallel` or `opposed` (the first block's attention is measured, inputs unbiased).
        seeds: how many independent draws of weights, inputs and directions.
        seed: the first of them.
        depth: blocks; every depth up to it is measured.
        batch: sequences of a draw.
        width: of the states.
        heads: of the attention.
        length: tokens of a sequence.
        inputs: coordinates are independent, of variance 1: normal, uniform, laplace, or signs (+1 or -1).
        initialization: gpt2, bert, xavier, kaiming, lecun or mup (`blocks.SCHEMES`).
        norm: layer norm without learned parameters: none, pre or post.
        causal: whether a token sees only what comes before it.
        architecture: any of transformers' (llama, gpt2, bert, opt, vit, ...): its own untrained blocks in the
            place of the random ones, with its own initialisation, norms and mask.
        metrics: names of quantities of states and of attention; with `_within_windows` behind it, a quantity of
            states is taken within each sequence and averaged.
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
        for name, least in (("seeds", 1), ("seed", 0), ("depth", 1), ("batch", 1), ("sample", 2)):
            _at_least(name, least, getattr(self, name))
        for name, least in (("width", 1), ("heads", 1), ("length", 2)):
            for value in several(getattr(self, name)):
                _at_least(name, least, value)
        choices = {"bias": BIASES, "inputs": INPUTS, "initialization": INITIALIZATIONS, "norm": NORMS}
        for name, known in (choices | {"device": DEVICES}).items():
            for value in several(getattr(self, name)):
                if value not in known:
                    raise InputError(f"{name} must be one of {', '.join(known)} (got {value}).")
        for name in (item.name for item in fields(self)):
            if getattr(self, name) == []:
                raise InputError(f"{name} is an empty list: give it at least one value.")
        for beta in self.beta:
            if not (beta >= 0 and math.isfinite(beta)):
                raise InputError(f"beta is the norm of a bias: it must be 0 or more, and finite (got {beta:g}).")
        for width, heads in product(several(self.width), several(self.heads)):
            if width % heads:
                raise InputError(
                    f"the width {width} cannot be shared by {heads} heads: choose a number that divides it."
                )

    @property
    def betas(self) -> list[float]:
        """The norms, each once, ascending."""
        return sorted(set(self.beta))

    @property
    def biases(self) -> list[str]:
        """Where biases are put, each place once."""
        return several(self.bias)

    def designs(self) -> Iterator[Design]:
        """Every combination of what takes a list."""
        axes = ["width", "heads", "length", "inputs"]
        axes += ["architecture"] if self.architecture else ["initialization", "norm", "causal"]
        values = [several(getattr(self, name)) for name in axes]
        varied = [name for name, found in zip(axes, values, strict=True) if len(found) > 1]
        for combination in product(*values):
            yield Design(
                **dict(zip(axes, combination, strict=True)),
                varied=tuple(name for name in varied if name != "architecture"),
            )

    def describe(self) -> dict[str, Any]:
        """The settings that had a say, for `run.json`."""
        told = {name: getattr(self, name) for name in (item.name for item in fields(self))}
        silent = ("initialization", "norm", "causal") if self.architecture else ("architecture",)
        return {name: value for name, value in told.items() if name not in silent} | {"beta": self.betas}


def several(value: T | Sequence[T]) -> list[T]:
    """A setting as a list, each value once.

    >>> several("pre"), several([3, 1, 3])
    (['pre'], [3, 1])
    """
    return list(dict.fromkeys(value if isinstance(value, list | tuple) else [value]))


def _at_least(name: str, least: int, value: int) -> None:
    if value < least:
        raise InputError(f"{name} must be at least {least} (got {value}).")
