"""Layers are found by what they do, not by what they are called."""

import torch
from torch import nn

from dynamics.capture import capture
from tests.capture.test_function_mode import WIDTH, Block, by_matmul, by_sdpa


def layout(model, x):
    with capture(model, ["residual"], lambda *_: None) as tap:
        model(x)
    return tap.layout


class Mixer(nn.Module):
    """A layer without attention."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.linear(x)


class Lists(nn.Module):
    """The longest list holds no layers; some layers do not attend; the lists have unhelpful names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(7)])
        self.stuff = nn.ModuleList([Block(by_sdpa), Mixer(), Block(by_sdpa)])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(3)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        for layer, norm in zip(self.stuff, self.norms, strict=True):
            x = layer(norm(x))
        return x


def test_lists_are_chosen_by_the_attention_they_hold():
    result = layout(Lists(), torch.randn(2, 4, WIDTH))
    assert result.blocks == ("stuff.0", "stuff.1", "stuff.2")
    assert result.attentions == ("stuff.0.attention", "stuff.2.attention")
    assert result.heads == (3, 0, 3)


def test_stages_of_several_layers_are_not_layers():
    stages = nn.Sequential(
        nn.Sequential(Block(by_matmul)), nn.Sequential(Block(by_matmul), Block(by_sdpa)), nn.LayerNorm(WIDTH)
    )
    assert layout(stages, torch.randn(2, 4, WIDTH)).blocks == ("0.0", "1.0", "1.1")


class Attributes(nn.Module):
    """No lists at all, layers named so that their order is not alphabetic, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.b, self.a = Block(by_sdpa), Block(by_sdpa)

    def forward(self, x):
        return self.b(self.a(self.b(x)))


def test_layers_need_no_list_and_count_as_they_run():
    result = layout(Attributes(), torch.randn(2, 4, WIDTH))
    assert result.blocks == ("b", "a")
    assert result.layers == 3


def test_the_search_is_repeated_when_the_model_has_grown():
    model, x = nn.Sequential(Block(by_sdpa), Block(by_sdpa)), torch.randn(2, 4, WIDTH)
    assert layout(model, x).layers == 2
    model.append(Block(by_sdpa))
    assert layout(model, x).layers == 3


def test_the_search_is_made_once():
    model, x, runs = nn.Sequential(Block(by_sdpa), Block(by_sdpa)), torch.randn(2, 4, WIDTH), []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    for _ in range(3):
        layout(model, x)
    assert len(runs) == 4
