import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.metrics.streaming import neighbors
from dynamics.metrics.streaming.neighbors import nearest, unique_rows, without_duplicates
from tests.metrics import streams


def by_brute_force(x, k):
    apart = (x.double()[:, None] - x.double()).norm(dim=-1).fill_diagonal_(torch.inf)
    return apart.topk(k, dim=1, largest=False)


def cloud(kind, n=420, d=24):
    g = streams.generator(3)
    x = torch.randn(n, 6, generator=g) @ torch.randn(6, d, generator=g)
    match kind:
        case "far from the origin":
            return x + 1000 * x.std()
        case "isotropic":
            return torch.randn(n, d, generator=g)
        case "clusters far apart":
            return (torch.randn(7, d, generator=g) * 1e4).repeat_interleave(n // 7, 0) + torch.randn(n, d, generator=g)
        case "one state a thousand times larger":
            return torch.cat([x[1:], 1000 * x[:1]])
        case "a dense heart":
            return torch.cat([x[: n // 2] * 1e3, torch.randn(n - n // 2, d, generator=g) * 1e-3])
        case "few values":
            return torch.randint(-2, 3, (n, d), generator=g).float()
    return x


KINDS = (
    *("low dimension", "far from the origin", "isotropic", "clusters far apart"),
    *("one state a thousand times larger", "a dense heart", "few values"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precisions", ["default", "bfloat16 first", "float32 first"])
@pytest.mark.parametrize("n", [420, 1043])  # the larger one goes by half of the products
def test_distances_are_those_of_float64_differences(kind, precisions, n, monkeypatch):
    first = {"bfloat16 first": [torch.bfloat16], "float32 first": []}
    if precisions in first:
        order = [*first[precisions], torch.float32, torch.float64, None]
        monkeypatch.setattr(neighbors, "_precisions", lambda x, k: order)
    x = without_duplicates(cloud(kind, n))
    expected = by_brute_force(x, 20)
    for k in (1, 2, 20):
        distances, indices = nearest(x, k)
        torch.testing.assert_close(distances, expected.values[:, :k], rtol=1e-13, atol=0)
        if kind != "few values":  # where ties abound
            assert torch.equal(indices, expected.indices[:, :k])
    rows = torch.tensor([5, 0, 333])
    torch.testing.assert_close(nearest(x, 2, rows)[0], expected.values[rows, :2], rtol=1e-13, atol=0)


@pytest.mark.parametrize("n", [420, 1043])
def test_a_product_that_cannot_tell_says_so(n):
    """Clusters 1e4 apart and 1 wide: bfloat16 cannot order what is inside one."""
    x = cloud("clusters far apart", n)
    distances, _, certain = neighbors._Cloud(x).search(torch.arange(len(x)), 2, torch.bfloat16)
    wrong = distances[:, 1] > by_brute_force(x, 2).values[:, 1] * (1 + 1e-12)
    assert wrong.any()
    assert not (wrong & certain).any()


def test_more_rows_than_a_block(monkeypatch):
    x = cloud("isotropic")
    whole = nearest(x, 2)
    monkeypatch.setattr(neighbors, "BLOCK", 10 * len(x))
    for a, b in zip(nearest(x, 2), whole, strict=True):
        assert torch.equal(a, b)


def test_tf32_is_never_trusted(monkeypatch):
    monkeypatch.setattr(neighbors, "multiplies_in_full", lambda device: False)
    assert torch.float32 not in neighbors._precisions(torch.ones(3, 2), 2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1)), max_size=12), st.booleans())
def test_unique_rows_are_the_first_of_their_kind(rows, double):
    x = torch.tensor(rows, dtype=torch.float64 if double else torch.float32).reshape(-1, 2)
    first = [i for i, row in enumerate(rows) if row not in rows[:i]]
    assert unique_rows(x).tolist() == first


def test_unique_rows_survive_a_collision_of_codes(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.long))
    # all multipliers are 1: rows that are permutations of each other get the same code
    assert unique_rows(torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])).tolist() == [0, 1]
