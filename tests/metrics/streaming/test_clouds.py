"""Several clouds at once: the neighbours are those that each has alone."""

import pytest
import torch

from dynamics.metrics.streaming import clouds
from dynamics.metrics.streaming.clouds import different_in_each, nearest_in_each, neighbours_in_each
from dynamics.metrics.streaming.neighbors import different_rows, nearest
from tests.metrics import streams
from tests.metrics.streaming.test_neighbors import KINDS, by_brute_force, cloud

SMOOTH = [kind for kind in KINDS if kind != "few values"]  # where ties abound


def several():
    """Clouds of all kinds, with states that recur exactly and up to rounding; one has few different states."""
    x = torch.stack([cloud(kind) for kind in SMOOTH])
    x[:2, 50:60] = x[:2, 5:15]
    x[2, 100:102] = torch.nextafter(x[2, 7:9], torch.tensor(torch.inf))
    x[2, 200] = torch.nextafter(x[2, 100], torch.tensor(torch.inf))
    few = x[:1, torch.arange(420) % 9]
    return torch.cat([x, few, torch.ones_like(few)])


@pytest.mark.parametrize("entries", [1 << 26, 1 << 14])
def test_different_states_and_their_neighbours_are_those_of_each_cloud_alone(entries, monkeypatch):
    monkeypatch.setattr(clouds, "ENTRIES", entries)
    x = several()
    for cloud_alone, found in zip(x, different_in_each(x), strict=True):
        expected = different_rows(cloud_alone)
        assert torch.equal(found.rows, expected.rows)
        assert found.exact == expected.exact
        torch.testing.assert_close(found.distances, expected.distances, rtol=1e-12, atol=0)
        assert torch.equal(found.neighbours, expected.neighbours)


def test_what_is_certain_is_right_and_what_is_not_is_searched_again():
    x = torch.stack([cloud(kind) for kind in SMOOTH])
    distances, indices, certain = nearest_in_each(x, 4, torch.zeros(x.shape[:2], dtype=torch.bool))
    for at, part in enumerate(x):
        expected = by_brute_force(part, 4)
        torch.testing.assert_close(distances[at][certain[at]], expected.values[certain[at]], rtol=1e-12, atol=0)
        assert torch.equal(indices[at][certain[at]], expected.indices[certain[at]])
    assert 0 < certain.sum() < certain.numel()


def test_neighbours_of_some_states_are_those_among_the_different_ones():
    x = several()[: len(SMOOTH)]
    different = [different_rows(part) for part in x]
    rows = torch.stack([part.rows[torch.randperm(400, generator=streams.generator(1))[:20]] for part in different])
    found = neighbours_in_each(x, different, 20, rows)
    for at, part in enumerate(different):
        among = torch.searchsorted(part.rows, rows[at])
        assert torch.equal(found[at], part.rows[nearest(x[at][part.rows], 20, among)[1]])
