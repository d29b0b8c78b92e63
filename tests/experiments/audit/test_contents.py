"""Hashes and distances of checkpoints, whatever their files."""

import numpy as np
import pytest
import torch

from dynamics.experiments.audit.contents import EXACT, compare


def checkpoint(seed=0, **more):
    noise = torch.Generator().manual_seed(seed)
    tensors = {f"model.layers.{i}.weight": torch.randn(20, 30, generator=noise) for i in range(3)}
    return {
        "model.embed.weight": torch.randn(50, 20, generator=noise),
        **tensors,
        "norm.weight": torch.ones(20),
        **more,
    }


def contents(*checkpoints):
    return compare(checkpoints, lambda share: None)


def test_distances_are_exact_and_by_group():
    first, second = checkpoint(0), checkpoint(1)
    result = contents(first, second)
    for group, name in {("", 0): "model.embed.weight", ("", 2): "model.layers.1.weight"}.items():
        expected = (first[name].double() - second[name].double()).norm().item() ** 2
        assert result.squared[group][0, 1] == pytest.approx(expected, rel=1e-12)
        assert result.norms[group][1] == pytest.approx(second[name].double().norm().item() ** 2, rel=1e-12)
    assert result.numbers["other", -1] == 20


def test_small_differences_of_large_weights_keep_their_precision():
    first = checkpoint(0)
    second = {name: value + 1e-6 for name, value in first.items()}
    exact = sum((second[name].double() - first[name].double()).square().sum().item() for name in first)
    total = sum(contents(checkpoint(5), first, second).squared.values())
    assert total[1, 2] == pytest.approx(exact, rel=1e-2)  # of a millionth of the weights


def test_a_tensor_read_in_pieces_is_what_it_is_as_a_whole(monkeypatch):
    first, second = {"w": torch.arange(5000.0).reshape(50, 100)}, {"w": torch.ones(50, 100)}
    whole = contents(first, second)
    monkeypatch.setattr("dynamics.experiments.audit.contents.NUMBERS", 1)
    pieces = contents(first, second)
    assert [pieces.digest(i) for i in (0, 1)] == [whole.digest(i) for i in (0, 1)]
    assert pieces.digest(0) != pieces.digest(1) != contents({"w": torch.ones(100, 50)}).digest(0)
    assert pieces.squared["other", -1][0, 1] == whole.squared["other", -1][0, 1] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_copies_are_named_whatever_they_are_kept_in(dtype):
    first = checkpoint(0)
    rounded = {name: value.to(dtype) for name, value in first.items()}
    widened = {name: value.float() for name, value in rounded.items()}
    pairs = contents(first, rounded, widened, checkpoint(1)).copies()
    assert pairs == dict.fromkeys([(0, 1), (0, 2), (1, 2)], str(dtype).removeprefix("torch."))


def test_weights_that_round_to_the_same_are_no_copies():
    first = checkpoint(0)
    near = {name: torch.nextafter(value, value + 1) for name, value in first.items()}
    assert contents(first, near).copies() == {}


def test_tied_weights_may_be_kept_once_or_twice_or_under_either_name():
    plain = {name: value for name, value in checkpoint(0).items() if name != "model.embed.weight"}
    table = checkpoint(0)["model.embed.weight"]
    once, twice = checkpoint(0), checkpoint(0, **{"lm_head.weight": table.clone()})
    result = contents(once, twice, {**plain, "lm_head.weight": table})
    assert set(result.copies().values()) == {EXACT}
    assert len(result.copies()) == 3
    assert [result.lacking(i) for i in range(3)] == [[], [], []]


def test_a_lost_matrix_is_named_and_a_buffer_is_not():
    masked = [checkpoint(seed, mask=torch.ones(5, 5)) for seed in (0, 1, 2)]
    del masked[1]["mask"], masked[2]["model.layers.1.weight"]
    result = contents(*masked)
    assert [result.lacking(i) for i in range(3)] == [[], [], ["model.layers.1.weight"]]


def test_another_model_is_not_compared():
    other = {name: torch.zeros(7, 7) for name in checkpoint()}
    result = contents(checkpoint(0), checkpoint(1), other, checkpoint(2))
    assert result.comparable == [0, 1, 3]
    assert np.isnan(sum(result.squared.values())[2]).all()


def test_two_that_share_nothing_are_not_equal():
    for other in ({"a": torch.zeros(7, 7)}, {name: value[None] for name, value in checkpoint().items()}):
        result = contents(checkpoint(), other)
        assert (result.comparable, result.copies()) == ([0], {})


def test_parts_that_return_are_counted():
    series = [checkpoint(seed) for seed in range(4)]
    series[3]["model.layers.1.weight"] = series[0]["model.layers.1.weight"]
    assert contents(*series).returning(range(4)) == {(0, 3): 1}


def test_values_that_are_not_finite_are_named():
    broken = checkpoint(1)
    broken["norm.weight"][3] = float("nan")
    assert contents(checkpoint(0), broken).infinite == {1}
