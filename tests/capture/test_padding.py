"""The mask of the input reaches the token axis of every layer."""

import torch
from torch import nn

from dynamics.capture.padding import Padding

MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
CPU = torch.device("cpu")


class Text(nn.Module):
    def forward(self, input_ids=None, attention_mask=None, key_padding_mask=None):
        return input_ids


def valid(length, *args, batch=2, **kwargs):
    padding, model = Padding(), Text()
    padding.start(model, args, kwargs)
    return padding.valid(model, batch, length, CPU).long().tolist()


def test_the_same_axis():
    assert valid(6, attention_mask=MASK) == MASK.tolist()
    assert valid(6, None, MASK) == MASK.tolist()
    assert valid(6, key_padding_mask=MASK == 0) == MASK.tolist()


def test_no_mask_means_no_padding():
    assert valid(3) == [[1, 1, 1]] * 2
    assert valid(3, attention_mask=torch.ones(2, 1, 3, 3)) == [[1, 1, 1]] * 2


def test_other_batches_are_windows_without_padding():
    assert valid(6, attention_mask=MASK, batch=4) == [[1] * 6] * 4


def test_a_shorter_axis_keeps_what_anything_real_went_into():
    assert valid(3, attention_mask=MASK) == [[1, 1, 1], [1, 1, 0]]


def test_extra_tokens_stand_in_front_and_are_real():
    assert valid(8, attention_mask=MASK) == [[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]


def test_a_part_has_its_own_mask_and_a_ready_made_one_is_skipped():
    padding, model = Padding(), Text()
    padding.start(model, (), {"attention_mask": MASK})
    padding.read(model, (), {"attention_mask": None})
    assert padding.valid(model, 2, 6, CPU).all()
    padding.read(model, (), {"attention_mask": torch.zeros(2, 1, 6, 6)})
    assert torch.equal(padding.valid(model, 2, 6, CPU), MASK.bool())
    padding.start(model, (), {})
    assert padding.valid(model, 2, 6, CPU).all()
