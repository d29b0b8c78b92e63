from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import QueryKeySums


def qk_mean_cosine(
    query: Float[Tensor, "*heads n d_h"], key: Float[Tensor, "*heads m d_h"]
) -> Float64[Tensor, "*heads"]:
    """Return the mean cosine similarity over all pairs of a query and a key of a head, exactly.

    Formula: <mean_i q_i / |q_i|, mean_j k_j / |k_j|>, as they enter the dot product.
    Pitfalls: all pairs count, those that the mask hides and those of different windows too: it asks about the two
        clouds, not about the attention. Rotary positions average a mean away.

    NaN where a query or key is zero or not finite.
    >>> qk_mean_cosine(Tensor([[1.0, 0.0], [0.0, 2.0]]), Tensor([[3.0, 0.0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    query, key = query.double(), key.double()
    directions = [(x / x.norm(dim=-1, keepdim=True)).mean(-2) for x in (query, key)]
    return (directions[0] * directions[1]).sum(-1)


class QkMeanCosine(QueryKeySums):
    """Cosine of a query and a key taken at random."""

    title = "mean cosine, queries to keys"
    range = (-1, 1)
    estimator = "closed form over all pairs of a query and a key, per head, not centred"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143)"
    default_sites = {"attention": 2}
    nan_reason = "a query or key is zero: it has no direction"

    def value_and_influence(self, states: QueryKeySums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        (_, query, _, key), influence = states.means
        return (query * key).sum(-1), (influence[:, 1] * key + influence[:, 3] * query).sum(-1)
