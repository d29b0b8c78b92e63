"""Batches as users have them: each form is measured as the plain mapping is, or refused in one sentence."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding

from dynamics.errors import InputError
from dynamics.measure.batches import arguments
from dynamics.measure.compare import compare
from dynamics.measure.measurement import measure
from tests.measure.test_measurement import model

IDS = torch.randint(60, (6, 12), generator=torch.Generator().manual_seed(3))
MASK = (torch.arange(12) < 9).long().expand(6, 12)
ROWS = [{"input_ids": row.tolist(), "attention_mask": mask.tolist()} for row, mask in zip(IDS, MASK, strict=True)]

SAME = {  # forms of the same six windows, nine tokens of each
    "tensors": lambda: [{"input_ids": IDS, "attention_mask": MASK}],
    "mask first": lambda: [{"attention_mask": MASK, "input_ids": IDS}],
    "a shared row first": lambda: [{"position_ids": torch.arange(12)[None], "input_ids": IDS, "attention_mask": MASK}],
    "lists": lambda: [{"input_ids": IDS.tolist(), "attention_mask": MASK.tolist()}],
    "tuples": lambda: ({"input_ids": tuple(map(tuple, IDS.tolist())), "attention_mask": MASK.tolist()},),
    "arrays": lambda: [{"input_ids": IDS.numpy().astype(np.uint16), "attention_mask": MASK.numpy() > 0}],
    "lists of arrays": lambda: [{"input_ids": list(IDS.numpy()), "attention_mask": list(MASK.numpy())}],
    "rows without a batch axis": lambda: ROWS,
    "one mapping": lambda: {"input_ids": IDS, "attention_mask": MASK},
    "BatchEncoding": lambda: BatchEncoding({"input_ids": IDS.tolist(), "attention_mask": MASK.tolist()}),
    "a generator": lambda: ({"input_ids": x, "attention_mask": y} for x, y in zip(IDS, MASK, strict=True)),
    "flags": lambda: [{"output_hidden_states": True, "input_ids": IDS, "attention_mask": MASK, "labels": None}],
}
WITHOUT_NAMES = {  # six whole windows
    "a tensor": lambda: IDS,
    "an array": lambda: IDS.numpy(),
    "tensors": lambda: IDS.split(2),
    "rows of ids": IDS.tolist,
    "TensorDataset": lambda: DataLoader(TensorDataset(IDS), batch_size=4),
    "a bare data set": lambda: TensorDataset(IDS),
}
REFUSED = {
    "names are missing": (DataLoader(TensorDataset(IDS, MASK), batch_size=3), "batch 1 holds 2 values without names"),
    "text": (["a text"], "batch 1 is of type str"),
    "one text": ("a text", "batches of type str"),
    "nothing": (None, "batches of type NoneType"),
    "a number": (7, "batches of type int"),
    "no value": ([{}], "batch 1 has no input"),
    "a flag alone": ([{"output_attentions": True}], "batch 1 has no input"),
    "a mask alone": ([{"attention_mask": MASK}], "batch 1 has no input"),
    "ragged rows": ([{"input_ids": [[5, 6], [7]]}], "input_ids of batch 1 has rows of different lengths: pad them"),
    "no rows": ([{"input_ids": IDS}, {"input_ids": IDS[:0]}], "batch 2 is empty"),
    "collated lists": (DataLoader(ROWS, batch_size=3), "input_ids of batch 1 is a list of 12 tensors"),
    "mappings in a list": ([[*ROWS]], "batch 1 holds 6 values without names"),
}


def rows(batches, **settings):
    return [row[4:9] for row in measure(model(**settings).eval(), batches, ["mean_norm", "mean_cosine"]).rows]


@pytest.mark.parametrize("form", SAME)
def test_a_form_is_measured_as_the_mapping_of_tensors(form):
    expected = rows([{"input_ids": IDS, "attention_mask": MASK}])
    assert [row[:4] for row in rows(SAME[form]())] == [row[:4] for row in expected]
    assert [row[4] for row in rows(SAME[form]())] == pytest.approx([row[4] for row in expected], rel=1e-6)


@pytest.mark.parametrize("form", WITHOUT_NAMES)
def test_values_without_a_name_are_the_main_input(form):
    expected = rows([{"input_ids": IDS}])
    assert [row[4] for row in rows(WITHOUT_NAMES[form]())] == pytest.approx([row[4] for row in expected], rel=1e-6)


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused_in_one_sentence(what):
    batches, message = REFUSED[what]
    with pytest.raises(InputError, match=re.escape(message)) as refusal:
        rows(batches)
    assert re.fullmatch(r".+\.", str(refusal.value))


class Bag(nn.Module):
    """A model whose forward takes `tokens` and `scale` alone."""

    def __init__(self):
        super().__init__()
        self.table, self.layers = nn.Embedding(60, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, tokens, scale=1.0):
        x = self.table(tokens) * scale
        for layer in self.layers:
            x = layer(x)
        return x


def test_an_argument_that_the_model_does_not_take_is_named():
    with pytest.raises(InputError, match="batch 1: the model takes no argument token_type_ids"):
        list(arguments(Bag(), [{"tokens": IDS, "token_type_ids": IDS}]))
    assert list(next(arguments(Bag(), IDS))) == ["tokens"]


def test_flags_reach_the_model():
    torch.manual_seed(0)
    network = Bag()
    results = [measure(network, [{"scale": scale, "tokens": IDS}], ["mean_norm"]).rows for scale in (1.0, 2.0)]
    one, two = (next(row.value for row in rows if row[4:6] == ("residual", 0)) for rows in results)
    assert two == pytest.approx(2 * one)


def test_inputs_that_require_gradients_and_those_of_another_precision():
    states = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    expected = rows([{"inputs_embeds": states}])
    for form in (states.clone().requires_grad_(), states.double(), states.numpy()):
        assert rows([{"inputs_embeds": form}]) == expected
    halved = measure(model().bfloat16().eval(), [{"inputs_embeds": states.bfloat16()}], ["mean_norm"]).rows
    assert {row.layer for row in halved if row.site == "residual"} == {0, 1, 2, 3}


def test_flags_beside_tensors_where_weights_are_looked_for():
    batch = {"output_hidden_states": False, "input_ids": IDS}
    assert {row.layer for row in measure(model().eval(), [batch], ["qk_symmetry"]).rows} == {1, 2, 3}


def test_compare_takes_the_same_forms():
    network, other = model().eval(), model(seed=1).eval()
    expected = [row.value for row in compare(network, other, [{"input_ids": IDS}])]
    assert [row.value for row in compare(network, other, {"input_ids": IDS.tolist()})] == expected
    with pytest.raises(InputError, match="batch 1 is of type str"):
        compare(network, other, ["text"])


class Hiding(nn.Module):
    """A model whose mask has a name of its own."""

    def __init__(self, seed):
        super().__init__()
        self.model = model(seed=seed)

    def forward(self, ids, hide):
        return self.model(input_ids=ids, attention_mask=1 - hide)


def test_compare_takes_the_name_of_the_mask():
    hide = torch.zeros_like(IDS)
    hide[:, -3:] = 1
    rows = compare(Hiding(0).eval(), Hiding(1).eval(), [{"ids": IDS, "hide": hide}], mask="~hide")
    shorter = compare(model().eval(), model(seed=1).eval(), [{"input_ids": IDS, "attention_mask": 1 - hide}])
    assert {row.n for row in rows} == {IDS[:, :-3].numel()}
    assert [row.value for row in rows] == pytest.approx([row.value for row in shorter], rel=1e-5)
