"""What the command line fills in for the machine."""

import pytest
import torch

from dynamics.training.lightning_cli import pick_precision


@pytest.mark.parametrize(
    ("accelerator", "has_cuda", "has_mps", "has_amx", "expected"),
    [
        ("auto", True, False, False, "bf16-mixed"),
        ("cuda", True, False, False, "bf16-mixed"),
        ("cpu", True, False, False, "32-true"),
        ("cpu", True, False, True, "bf16-mixed"),
        ("auto", False, False, True, "bf16-mixed"),
        ("auto", False, True, True, "32-true"),
        ("mps", False, True, True, "32-true"),
    ],
)
def test_precision_is_picked_for_the_accelerator_that_is_used(
    monkeypatch, accelerator, has_cuda, has_mps, has_amx, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert pick_precision(accelerator) == expected
