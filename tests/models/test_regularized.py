"""Regularisers in the loss of a training module."""

import pytest
import torch

from dynamics.errors import InputError
from dynamics.models.regularizers import CosReg, IStar
from tests.models.test_language import batch, model


def gradients(module, step=0):
    module.zero_grad()
    module.training_step(batch(step), 0).backward()
    return [p.grad.clone() for p in module.network.parameters()]


def test_without_regularisers_and_with_the_weight_zero_nothing_changes():
    plain = model(objective="clm")
    watched = model(objective="clm", regularizers=[IStar(0.0), CosReg(0.0)])
    for first, second in zip(gradients(plain), gradients(watched), strict=True):
        assert torch.equal(first, second)
    assert plain.terms == {}
    assert 0 < watched.terms["isoscore_star"] < 1
    assert watched.terms["istar"] == 0


def test_the_terms_add_up_and_the_states_are_those_of_every_block():
    module = model(objective="clm", regularizers=[IStar(-2.0, 0.0), CosReg(3.0), CosReg(0.5, [1])])
    example = batch()
    loss = module.training_step(example, 0)
    assert list(module.terms) == [
        *("task_loss", "istar", "cosreg", "cosreg_2", "isoscore_star", "cosine", "cosine_2"),
    ]
    parts = sum(module.terms[name] for name in ("task_loss", "istar", "cosreg", "cosreg_2"))
    assert loss.item() == pytest.approx(parts.item(), rel=1e-6)
    states = [
        x.flatten(0, 1) for x in module.network.model(example.windows[:, :-1], output_hidden_states=True).hidden_states
    ]
    assert module.terms["cosine_2"].item() == pytest.approx(CosReg(1.0).measure([states[1]]).item(), rel=1e-5)
    assert module.terms["istar"].item() == pytest.approx(
        -2 * (1 - IStar(1.0, 0.0).measure([torch.cat(states[1:3])]).item()), rel=1e-5
    )
    assert module.train_values({"loss": 1.0, "task_loss": 2.0})["bits_per_character"] == pytest.approx(2.885, abs=1e-3)


def test_padding_is_left_out():
    module = model(objective="clm", regularizers=[IStar(1.0, 0.0), CosReg(1.0)])
    example = batch(rows=2)
    ids, real = example.windows[:, :-1], torch.ones(2, 16, dtype=torch.bool)
    real[1, 9:] = False

    def measured(ids, valid):
        module.training_loss(lambda: module.network.model(ids).last_hidden_state.sum(), module.network, valid)
        return module.terms["isoscore_star"], module.terms["cosine"]

    padded = ids.clone()
    padded[1, 9:] = 3  # the model is causal: what is real does not see it
    assert torch.allclose(torch.stack(measured(ids, real)), torch.stack(measured(padded, real)), rtol=1e-5)
    assert not torch.allclose(torch.stack(measured(ids, None)), torch.stack(measured(padded, None)), rtol=1e-3)
    with pytest.raises(InputError, match="as many states as tokens"):
        measured(ids, real[:, 1:])


def test_gradients_reach_every_block_and_pull_in_the_direction_asked_for():
    for weight, sign in ((1.0, 1), (-1.0, -1)):
        module = model(objective="clm", regularizers=[IStar(weight, 0.0)])
        optimizer = torch.optim.SGD(module.network.parameters(), lr=0.1)
        scores = []
        for _ in range(8):
            optimizer.zero_grad()
            module.training_loss(
                lambda module=module: 0 * module.network.model(batch().windows[:, :-1]).last_hidden_state.sum(),
                module.network,
                None,
            ).backward()
            optimizer.step()
            scores.append(module.terms["isoscore_star"].item())
        assert sign * (scores[-1] - scores[0]) > 0.01


def test_a_compiled_network_gives_the_same_gradients():
    plain, compiled = (
        model(objective="clm", regularizers=[IStar(-2.0), CosReg(1.0, [1, 2])], compile=compile)
        for compile in (False, True)
    )
    for step in range(2):
        for first, second in zip(gradients(plain, step), gradients(compiled, step), strict=True):
            torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_layers_that_do_not_exist_are_refused_before_anything_runs():
    with pytest.raises(InputError, match="names layer 3, but the network has layers 1 to 2"):
        model(objective="clm", regularizers=[CosReg(1.0, [3])])
