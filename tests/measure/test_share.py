"""Ranks that share the layers out: put together, what they measure is what one rank measures, to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamics.measure import Share, measure, united
from dynamics.measure.share import PLACES
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM


@pytest.fixture(scope="module")
def network():
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    network = CharTransformerLM(CharTransformerConfig(**shape))
    for weight in network.parameters():  # far from the start, where all states of a layer are nearly equal
        weight.data += 0.1 * torch.randn(weight.shape)
    return network


@given(st.sampled_from(PLACES), st.integers(0, 100), st.integers(1, 9))
def test_one_rank_holds_each_layer_of_a_site(site, layer, ranks):
    assert sum(Share(rank, ranks).holds(site, layer) for rank in range(ranks)) == 1


@given(st.sampled_from(PLACES), st.integers(1, 9), st.integers(0, 40))
def test_ranks_hold_as_many_layers_of_a_site_but_for_one(site, ranks, layers):
    held = [sum(Share(rank, ranks).holds(site, layer) for layer in range(layers)) for rank in range(ranks)]
    assert max(held) - min(held) <= 1


@pytest.mark.parametrize("ranks", [2, 5])
def test_the_parts_of_ranks_are_the_whole_to_the_bit(network, ranks):
    batches = [{"input_ids": torch.arange(8 * 16).view(8, 16) * 7 % 40}]
    batches.append({"input_ids": batches[0]["input_ids"].flip(1)})
    metrics = [
        "anisotropy",
        "intrinsic_dimension",
        "linear_cka",
        "entropy",
        "drift",
        "qk_symmetry",
        "procrustes_linearity",
    ]
    whole = measure(network, batches, metrics, references={})
    parts = [measure(network, batches, metrics, references={}, share=Share(rank, ranks)) for rank in range(ranks)]
    assert all(len(part.rows) < len(whole.rows) for part in parts)
    together = united(parts)
    assert sorted(map(repr, together.rows)) == sorted(map(repr, whole.rows))
    assert sorted(repr(array[:7]) for array in together.arrays) == sorted(repr(array[:7]) for array in whole.arrays)
    assert together.references.keys() == whole.references.keys()
    assert together.missing == whole.missing
    later = measure(network, batches, ["drift"], references=whole.references, step=2)
    of_ranks = [
        measure(network, batches, ["drift"], references=part.references, step=2, share=Share(rank, ranks))
        for rank, part in enumerate(parts)
    ]
    assert sorted(map(repr, united(of_ranks).rows)) == sorted(map(repr, later.rows))


def test_what_nothing_passes_is_missing_on_all_ranks_alike(network):
    batches = [{"input_ids": torch.arange(8 * 16).view(8, 16) % 40}]
    parts = [measure(network, batches, {"mean_norm": {"sites": ["residual"]}}, share=Share(r, 9)) for r in range(9)]
    assert [len(part.rows) for part in parts].count(0) == 6  # of nine ranks three hold a layer
    assert all(part.missing == [] for part in parts)
