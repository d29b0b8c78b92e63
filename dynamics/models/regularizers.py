"""Regularisers: terms of the loss that change the geometry of the residual stream (I-STAR, the cosine regulariser)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dynamics.errors import InputError
from dynamics.metrics.streaming.arithmetic import floating, in_float64, precise
from dynamics.metrics.streaming.covariance import evenness, mean_and_covariance, shrink
from dynamics.metrics.streaming.ranks import counts_of_ranks, over_ranks, rank


class Regularizer(ABC):
    """A quantity of the token states and the term that it adds to the loss; a `weight` of 0 only measures it.

    The states are those of all ranks, whose number changes nothing; every accumulated share of a batch is scored alone.
    """

    quantity: str  # the name of the quantity in the curves
    _STATE: tuple[str, ...] = ()

    def __init__(self, weight: float, layers: list[int] | None = None) -> None:
        self.kind = type(self).__name__
        if not math.isfinite(weight):
            raise InputError(f"{self.kind}.weight must be a finite number (got {weight}).")
        if layers is not None and not layers:
            raise InputError(f"{self.kind}.layers names no layer: leave it out for the default.")
        self.weight, self.layers = weight, layers

    def wanted(self, depth: int) -> list[int]:
        """Return the layers that it takes in a network of `depth` layers; refuse those that do not exist."""
        layers = self.default_layers(depth) if self.layers is None else self.layers
        missing = [layer for layer in layers if not 1 <= layer <= depth]
        if missing:
            raise InputError(
                f"{self.kind}.layers names layer {missing[0]}, but the network has layers 1 to {depth} "
                "(0 would be the embeddings, which are left out)."
            )
        return sorted(set(layers))

    @abstractmethod
    def default_layers(self, depth: int) -> list[int]:
        """Return the layers that are taken when none are named."""

    @abstractmethod
    def measure(self, states: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, ""]:
        """Return the quantity of the states of each wanted layer, padding left out; gradients flow."""

    @abstractmethod
    def penalty(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return what the weight multiplies."""

    def describe(self) -> dict[str, Any]:
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "kind"}
        return {"class": self.kind, **settings}

    def on_epoch(self) -> None:  # noqa: B027
        """Begin an epoch of training."""

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {name: getattr(self, f"_{name}") for name in self._STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in self._STATE:
            setattr(self, f"_{name}", state[name])


class IStar(Regularizer):
    """weight (1 - IsoScore*) over the union of all token states of layers 1..L (arXiv 2305.19358, equation 5).

    A negative weight lowers isotropy, a positive one raises it. The covariance of the batch is shrunk,
    S = (1 - reference_weight) batch + reference_weight reference, towards the covariance of more states than a
    batch has; see `isoscore_star`. That reference is gathered from the training batches themselves, in float64:
    the sums are by-products of the loss. Until it is complete for the first time, what has
    been gathered so far takes its place. It is part of the checkpoint.

    Args:
        weight: lambda of the paper.
        reference_weight: share of the reference, 0 to 1; zeta of the released code, 1 - zeta of the text.
        layers: layers 1..L whose states are united; all of them when None.
        reference_states: states that complete a reference.
        renew: when the next reference begins to be gathered: `full`, as soon as the one before is complete;
            `epoch`, with every epoch, as published; or a number of training batches (shares, where batches are
            accumulated). A gathering that is cut short by the next one counts as complete.
        max_states: an evenly spaced sample of at most about so many states of a batch is scored; all when None.
    """

    quantity = "isoscore_star"
    _STATE = ("reference", "moments", "count", "batches", "seen", "gathering")

    def __init__(
        self,
        weight: float,
        reference_weight: float = 0.2,
        layers: list[int] | None = None,
        reference_states: int = 250_000,
        renew: Literal["full", "epoch"] | int = "full",
        max_states: int | None = None,
    ) -> None:
        super().__init__(weight, layers)
        if not 0 <= reference_weight <= 1:
            raise InputError(f"IStar.reference_weight must lie between 0 and 1 (got {reference_weight}).")
        for name, value in (("reference_states", reference_states), ("max_states", max_states)):
            if value is not None and value < 2:
                raise InputError(f"IStar.{name} must be at least 2 states (got {value}).")
        if renew not in ("full", "epoch") and not (isinstance(renew, int) and renew >= 1):
            raise InputError(f"IStar.renew must be full, epoch or a number of batches (got {renew}).")
        self.reference_weight, self.reference_states = reference_weight, reference_states
        self.renew, self.max_states = renew, max_states
        self._reference: Tensor | None = None
        self._moments: Tensor | None = None
        self._count, self._batches, self._seen, self._gathering = 0, 0, 0, True

    def default_layers(self, depth: int) -> list[int]:
        return list(range(1, depth + 1))

    def measure(self, states: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, ""]:
        """Return IsoScore* of the union."""
        if isinstance(self.renew, int) and self._batches >= self.renew:
            self._begin()
        n, mean, covariance = mean_and_covariance(self._sample(states), of_all_ranks=True)
        self._batches, self._seen = self._batches + 1, self._seen + 1
        if self.reference_weight == 0:
            return evenness(covariance)
        if self._gathering:
            self._gather(n, mean, covariance.detach())
        if self._reference is not None:
            self._reference = self._reference.to(in_float64(mean[:0]).device)  # a resumed run has it on the host
        reference = self._covariance() if self._reference is None else self._reference
        return evenness(shrink(covariance, reference, self.reference_weight))

    def penalty(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return 1 - value

    def on_epoch(self) -> None:
        """Begin the next reference, if epochs renew it."""
        if self.renew == "epoch":
            self._begin()

    def _sample(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.max_states is None:
            return states
        counts = counts_of_ranks([len(x) for x in states], states[0].device)
        stride = -(-sum(map(sum, counts)) // self.max_states)
        before = [sum(of_layer) for of_layer in zip(*counts[: rank()], strict=True)] or [0] * len(states)
        # The start moves with every batch, so that no position is left out.
        return [x[(self._seen - n) % stride :: stride] for x, n in zip(states, before, strict=True)]

    def _gather(self, n: int, mean: Tensor, covariance: Tensor) -> None:
        """Add a batch to the next reference."""
        mean = in_float64(mean)
        moments = torch.empty(len(mean) + 1, len(mean) + 1, dtype=mean.dtype, device=mean.device)
        moments[:-1, :-1] = (n - 1) * in_float64(covariance) + n * mean.outer(mean)
        moments[-1, :-1] = moments[:-1, -1] = n * mean
        moments[-1, -1] = n
        self._moments = moments if self._moments is None else self._moments.to(moments) + moments
        self._count += n
        if self._count >= self.reference_states:
            self._complete()

    def _complete(self) -> None:
        self._reference, self._moments, self._count = self._covariance(), None, 0
        self._gathering = self.renew == "full"

    def _begin(self) -> None:
        if self._moments is not None:
            self._complete()
        self._gathering, self._batches = True, 0

    def _covariance(self) -> Tensor:
        """Return the covariance (d, d) of what was gathered: moments (d + 1, d + 1) of states with a 1 after each."""
        moments = self._moments
        assert moments is not None
        n, mean = moments[-1, -1], moments[-1, :-1] / moments[-1, -1]
        return (moments[:-1, :-1] - n * mean.outer(mean)) / (n - 1)


class CosReg(Regularizer):
    """weight (sum of the cosine matrix of all token states - n) / n^2 (Gao et al. 2019, arXiv 1907.12009).

    Computed as (|sum of unit vectors|^2 - n) / n^2, without the matrix. A positive weight spreads directions, a
    negative one draws them together. A state that is 0 has no direction: it counts, with the cosine 0.

    Args:
        weight: lambda.
        layers: layers 1..L, of which the mean is taken; the last one when None.
    """

    quantity = "cosine"

    def __init__(self, weight: float, layers: list[int] | None = None) -> None:
        super().__init__(weight, layers)

    def default_layers(self, depth: int) -> list[int]:
        return [depth]

    def measure(self, states: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, ""]:
        """Return the cosine of two states, averaged over all n^2 pairs, those of a state with itself counting 0."""
        return torch.stack([_cosine(x) for x in states]).mean()

    def penalty(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return value


def _cosine(x: Tensor) -> Tensor:
    """Return the mean cosine of the states (n, d) of all ranks."""
    n = sum(of_rank for (of_rank,) in counts_of_ranks([len(x)], x.device))
    if n < 2:
        raise InputError(f"a mean cosine needs at least 2 states (got {n}): give longer or more sequences.")
    with precise(x):
        x = floating(x)
        power = x.square().sum(1, keepdim=True)
        units = x * power.where(power != 0, 1).rsqrt()
        total, directed = over_ranks(units.sum(0)), over_ranks((power != 0).sum())
        return (total.square().sum() - directed) / n**2
