"""The mask of the input reaches the token axis of every layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynamics.capture import capture
from dynamics.capture.padding import Padding
from dynamics.errors import InputError

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


def causal(mask):
    """The (B, 1, T, T) mask of a causal model for a (B, T) one; true = visible."""
    length = mask.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, None]


LEFT = MASK.flip(1)


@pytest.mark.parametrize("mask", [MASK, LEFT, torch.ones(2, 6), LEFT * 0 + torch.arange(6).clamp(max=1)])
def test_masks_of_scores_say_which_keys_are_seen(mask):
    sees = causal(mask)
    attended = sees | ~sees.any(-1, keepdim=True)  # rows of padding see everything, so that nothing is divided by 0
    for visible in (sees, attended, mask.bool()[:, None, None].expand(-1, -1, 6, -1)):
        for number in (-torch.inf, -1e4, torch.finfo(torch.float32).min):
            additive = torch.zeros(visible.shape).masked_fill(~visible, number)
            if number == -torch.inf and not visible.any(-1).all():
                continue
            assert valid(6, attention_mask=additive) == mask.long().tolist()
        assert valid(6, attention_mask=visible) == valid(6, attention_mask=visible[:, 0]) == mask.long().tolist()


@pytest.mark.parametrize("name", ["input_mask", "padding_mask", "~hide", "keep"])
def test_masks_of_other_names(name):
    class Model(nn.Module):
        def forward(self, ids, input_mask=None, padding_mask=None, hide=None, keep=None):
            return ids

    is_padded = name in ("padding_mask", "~hide")
    padding, key = Padding(name if name in ("~hide", "keep") else None), name.lstrip("~")
    padding.start(Model(), (torch.ones(2, 6, dtype=torch.long),), {key: MASK == 0 if is_padded else MASK})
    assert torch.equal(padding.valid(Model(), 2, 6, CPU), MASK.bool())


class Own(nn.Module):
    """A model of one's own: pads, prolongs or cuts its input and mask, and hands the mask on in either polarity."""

    def __init__(self, change, inverted=False, name="mask"):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
        self.table = nn.Embedding(50, 8)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False) if name else nn.ModuleList([layer])
        self.change, self.inverted, self.name = change, inverted, name

    def forward(self, ids, attention_mask=None, mask=None):
        keep = (torch.ones(ids.shape) if attention_mask is None else attention_mask) if mask is None else mask
        x = self.table(ids)
        if self.inverted:
            hidden = self.change(keep == 0, True)
        else:
            hidden = self.change(keep, False) == 0
        x = self.change(x.transpose(1, 2), None).transpose(1, 2)
        if self.name:
            return self.layers(x, src_key_padding_mask=hidden if self.name == "mask" else None)
        return self.layers[0](x)


def at_the_end(x, hidden):
    return F.pad(x, (0, 3), value=0.0 if hidden is None else hidden)


def in_front(x, hidden):
    return torch.cat([x[..., :2] * 0 if hidden is None else torch.full((len(x), 2), not hidden), x], -1)


def cut(x, hidden):
    return x[..., :4]


CHANGES = {
    at_the_end: lambda mask: F.pad(mask, (0, 3)),
    in_front: lambda mask: F.pad(mask, (2, 0), value=1),
    cut: lambda mask: mask[:, :4],
}


@pytest.mark.parametrize("name", ["mask", "other"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda x: x.__name__)
@pytest.mark.parametrize("given", [MASK, LEFT, torch.ones_like(MASK), None])
def test_the_mask_is_changed_as_the_input_is(change, inverted, name, given):
    if change is in_front:
        inverted = False
    model, seen = Own(change, inverted, name), []
    with capture(model, ["residual"], lambda site, layer, x, valid: seen.append(valid)):
        model(torch.randint(50, (2, 6)), **({} if given is None else {"attention_mask": given}))
    expected = CHANGES[change](torch.ones_like(MASK) if given is None else given).bool()
    for valid in seen:
        assert torch.equal(valid, expected)


def test_an_unread_mask_is_named_once_and_read_when_it_is_named(caplog):
    model, counts = Own(lambda x, hidden: x, name=""), []
    batch = {"ids": torch.randint(50, (2, 6)), "mask": MASK}
    for mask in (None, "mask", "~mask"):
        with capture(model, ["residual"], lambda site, layer, x, valid: counts.append(int(valid.sum())), mask=mask):
            model(**batch)
            model(**batch)
    assert counts == [12] * 4 + [9] * 4 + [3] * 4
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "mask of Own may mark padding" in messages[0]
    with pytest.raises(InputError, match="no argument nonsense"), capture(model, ["residual"], print, mask="nonsense"):
        model(**batch)


def test_source_and_target_have_masks_of_their_own():
    layer = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": True}
    model, counts = nn.Transformer(**layer, num_encoder_layers=1, num_decoder_layers=1).eval(), {}
    stacks = [""]
    target = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with capture(
        model,
        ["residual"],
        lambda site, layer, x, valid: counts.update({(stacks[-1], layer): valid}),
        on_stack=stacks.append,
    ):
        model(
            torch.randn(2, 6, 8), torch.randn(2, 4, 8), src_key_padding_mask=MASK == 0, tgt_key_padding_mask=target == 0
        )
        for (stack, _), valid in counts.items():
            assert torch.equal(valid, MASK.bool() if stack == "encoder" else target.bool())
        model(
            torch.randn(2, 6, 8),
            torch.randn(2, 6, 8),
            src_key_padding_mask=MASK == 0,
            memory_key_padding_mask=MASK == 0,
        )
    assert {stack: int(valid.sum()) for (stack, _), valid in counts.items()} == {"encoder": 9, "decoder": 12}
