"""Each optimiser trains, skips a bad update whole, clips as torch does, and goes on from its state to the bit."""

import copy

import pytest
import torch

from dynamics.errors import InputError
from dynamics.models import guard, optimizers
from dynamics.models.guard import Guard
from dynamics.models.language import LanguageModel
from dynamics.models.optimizers import NAMES, MuonWithAdamW
from dynamics.models.tasks import TaskModel
from tests.models.test_language import batch, model

EVERY = pytest.mark.parametrize("name", NAMES)


def started(name, **settings):
    module = model(optimizer=name, learning_rate=0.3 if name == "sgd" else 1e-2, warmup_steps=1, **settings)
    return module, module.configure_optimizers()["optimizer"]


def train(module, optimizer, steps, **guarded):
    for step in steps:
        optimizer.zero_grad()
        module.training_step(batch(step % 3), 0).backward()
        update(optimizer, step, **guarded)


def update(optimizer, step, norm=None):
    checks = Guard()
    checks.before_update(optimizer, step, [("task_loss", torch.tensor(1.0))], is_scaled=False)
    checks.clip(optimizer, norm)
    optimizer.step()


def written(module, optimizer):
    """Everything that an update writes."""
    states = [x for of in optimizer.state.values() for x in of.values() if isinstance(x, torch.Tensor)]
    return [x.detach().clone() for x in (*module.network.parameters(), *states)]


@EVERY
def test_each_optimizer_trains(name):
    module, optimizer = started(name)
    before = float(module.training_step(batch(0), 0).detach())
    train(module, optimizer, range(30))
    assert float(module.training_step(batch(0), 0).detach()) < before - 0.2


@EVERY
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_update_changes_nothing_not_even_the_first_one(name, bad, monkeypatch):
    monkeypatch.setattr(guard, "is_at_once", lambda _: False)
    (module, optimizer), (twin, peer) = started(name), started(name)
    for step in range(4):
        optimizer.zero_grad()
        module.training_step(batch(step % 3), 0).backward()
        if step % 2 == 0:
            module.network.model.layers[1].up.weight.grad[0, 0] = bad
            before = [x.detach().clone() for x in module.network.parameters()]
        update(optimizer, step, norm=0.5)
        if step % 2 == 0:
            assert all(map(torch.equal, module.network.parameters(), before))
        else:
            train(twin, peer, [step], norm=0.5)
    assert all(map(torch.equal, written(module, optimizer), written(twin, peer)))
    assert all(x.isfinite().all() for x in written(module, optimizer))


@EVERY
def test_clipping_equals_that_of_torch(name):
    (module, optimizer), (twin, peer) = started(name), started(name)
    train(module, optimizer, range(3), norm=0.05)
    for step in range(3):
        peer.zero_grad()
        twin.training_step(batch(step), 0).backward()
        torch.nn.utils.clip_grad_norm_(twin.network.parameters(), 0.05)
        peer.step()
    for first, second in zip(module.network.parameters(), twin.network.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 if name == "muon" else 1e-5)  # bf16 inside


@EVERY
def test_it_goes_on_from_its_state_to_the_bit(name):
    (whole, optimizer), (first, before) = started(name), started(name)
    train(whole, optimizer, range(6))
    train(first, before, range(3))
    state, weights = copy.deepcopy(before.state_dict()), copy.deepcopy(first.network.state_dict())
    second, after = started(name)
    second.network.load_state_dict(weights)
    after.load_state_dict(state)
    train(second, after, range(3, 6))
    assert all(map(torch.equal, written(whole, optimizer), written(second, after)))


def test_muon_takes_the_matrices_of_hidden_layers_and_equals_that_of_torch():
    (module, optimizer), (twin, _) = started("muon", bias=True), started("muon", bias=True)
    names = {id(p): name for name, p in module.network.named_parameters()}
    hidden = {names[id(p)] for p in optimizer.param_groups[0]["params"]}
    assert hidden == {name for name in names.values() if ".layers." in name and "proj.weight" in name} | {
        name for name in names.values() if name.endswith(("up.weight", "down.weight"))
    }
    assert isinstance(optimizer, MuonWithAdamW)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    known = dict(twin.network.named_parameters())
    muon = torch.optim.Muon(
        [known[names[id(p)]] for p in optimizer.param_groups[0]["params"]],
        lr=1e-2,
        weight_decay=0.1,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = [p for name, p in known.items() if name not in hidden]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
        fused=True,
    )
    train(module, optimizer, range(3))
    for step in range(3):
        twin.network.zero_grad()
        twin.training_step(batch(step), 0).backward()
        muon.step()
        adamw.step()
    assert all(map(torch.equal, module.network.parameters(), twin.network.parameters()))


def test_the_other_optimizers_are_those_of_torch_without_decay():
    adam, sgd = started("adam")[1], started("sgd")[1]
    assert type(adam) is torch.optim.Adam
    assert type(sgd) is torch.optim.SGD
    assert all(group["weight_decay"] == 0 for of in (adam, sgd) for group in of.param_groups)
    assert {group["momentum"] for group in sgd.param_groups} == {0.9}


@EVERY
def test_what_is_frozen_stays_as_it_was_drawn(name):
    module, optimizer = started(name, attention="uniform")
    frozen = module.network.model.layers[0].attention.q_proj.weight
    before = frozen.detach().clone()
    train(module, optimizer, range(3))
    assert torch.equal(frozen, before)
    assert any(p is frozen for group in optimizer.param_groups for p in group["params"])


def test_what_no_optimizer_takes_is_refused():
    with pytest.raises(InputError, match=r"model\.optimizer must be one of adamw, adam, sgd, muon \(got lion\)"):
        LanguageModel(optimizer="lion")
    for kind, settings in ((LanguageModel, {}), (TaskModel, {"checkpoint": "x"})):
        with pytest.raises(InputError, match=r"model\.weight_decay has no effect on optimizer sgd; remove it"):
            kind(optimizer="sgd", weight_decay=0.3, **settings)
        kind(optimizer="sgd", **settings)
        kind(optimizer="adam", weight_decay=0.0, **settings)
    for name in NAMES:
        with pytest.raises(InputError, match=r"learning_rate, weight_decay or betas: (Invalid|Learning)"):
            optimizers.make(name, torch.nn.Linear(2, 2), -1.0, 0.0, (0.9, 0.95))
