"""Pooling against loops."""

import torch

from dynamics.experiments.cone.pooling import MODES


def test_modes_equal_a_loop():
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    rows = [states[mask] for states, mask in zip(x, kept, strict=True)]
    expected = {
        "mean": [row.mean(0) for row in rows],
        "cls": [row[0] for row in rows],
        "last": [row[-1] for row in rows],
        "max": [row.max(0).values for row in rows],
    }
    assert set(expected) == set(MODES)
    for mode, pool in MODES.items():
        torch.testing.assert_close(pool(x, kept), torch.stack(expected[mode]))
