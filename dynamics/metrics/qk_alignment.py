import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import QueryKeySums


def qk_alignment(query: Float[Tensor, "*heads n d_h"], key: Float[Tensor, "*heads m d_h"]) -> Float64[Tensor, "*heads"]:
    """Return the cosine between the mean query and the mean key of a head.

    Formula: <q, k> / (|q| |k|), q = sum_i q_i / n, k = sum_j k_j / m, as they enter the dot product.
    Pitfalls: few tokens pull it towards 0 (noise in the means); the mean key is a gauge freedom of softmax; rotary
        positions average a mean away, and the cosine of two means near 0 is noise.
    Interval: windows' influence functions, Student's t on the atanh scale; misleading where a mean is within noise of
        0.

    >>> qk_alignment(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(0.7071, dtype=torch.float64)
    """
    q, k = query.double().mean(-2), key.double().mean(-2)
    return torch.linalg.vecdot(q, k) / (q.norm(dim=-1) * k.norm(dim=-1))


class QkAlignment(QueryKeySums):
    """1: mean query and mean key point the same way; -1: opposite ways; 0: they are orthogonal."""

    title = "query-key alignment"
    range = (-1, 1)
    estimator = "cosine of the mean query with the mean key, per head"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143)"
    default_sites = {"attention": 1}
    nan_reason = "a mean query or key is zero: it has no direction"

    def value_and_influence(self, states: QueryKeySums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        mean, influence = states.means
        norm = mean.norm(dim=-1, keepdim=True)
        (q, _, k, _), (q_norm, _, k_norm, _) = mean / norm, norm
        value = (q * k).sum(-1)
        along = (influence[:, 0] * (k - value[:, None] * q) / q_norm).sum(-1)
        along += (influence[:, 2] * (q - value[:, None] * k) / k_norm).sum(-1)
        return value, along
