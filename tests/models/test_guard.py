"""Updates that are not finite are skipped and reported; the gradient is clipped as by torch."""

import pytest
import torch

from dynamics.errors import Failure
from dynamics.models import guard
from dynamics.models.guard import Guard


def problem(count=3):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(count)]
    for weight in weights:
        weight.grad = torch.randn(4, 3)
    return weights, torch.optim.AdamW(weights, lr=0.1, fused=True)


def loss(value=1.0):
    return [("task_loss", torch.tensor(value))]


@pytest.mark.parametrize("norm", [None, 0.5, 100.0])
def test_clipping_equals_that_of_torch(norm):
    ours, optimizer = problem()
    reference, peer = problem()
    for _ in range(3):
        checks = Guard()
        checks.before_update(optimizer, 1, loss(), is_scaled=False)
        checks.clip(optimizer, norm)
        optimizer.step()
        if norm:
            torch.nn.utils.clip_grad_norm_(reference, norm)
        peer.step()
    for first, second in zip(ours, reference, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.fixture
def queued(monkeypatch):
    """A guard that asks late, as on a device with a queue."""
    monkeypatch.setattr(guard, "is_at_once", lambda _: False)
    return Guard()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_is_skipped_and_the_first_one_named_when_it_is_read(queued, bad):
    weights, optimizer = problem()
    before = [weight.detach().clone() for weight in weights]
    for step in (7, 8, 9):
        good = weights[1].grad.clone()
        if step == 8:
            weights[1].grad[2, 1] = bad
        queued.before_update(optimizer, step, loss(step), is_scaled=False)
        queued.clip(optimizer, 1.0)
        if step == 8:
            before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        if step == 8:
            assert all(torch.equal(first, second) for first, second in zip(weights, before, strict=True))
            assert optimizer.state[weights[0]]["step"].item() == 1
        weights[1].grad = good
    assert not torch.equal(weights[0], before[0])
    with pytest.raises(Failure, match=r"gradient of the loss was the first.*at step 8 \(task_loss 8\)"):
        queued.read()
    queued.read()


def test_a_bad_term_is_named_before_the_gradient_that_it_spoils(queued):
    weights, optimizer = problem()
    weights[0].grad[0, 0] = float("nan")
    queued.before_update(optimizer, 3, [*loss(), ("istar", torch.tensor(float("nan")))], is_scaled=False)
    with pytest.raises(Failure, match="istar was the first to be nan, at step 3"):
        queued.read()


def test_a_cpu_is_asked_before_the_update():
    weights, optimizer = problem()
    weights[0].grad[0, 0] = float("inf")
    with pytest.raises(Failure, match="at step 5"):
        Guard().before_update(optimizer, 5, loss(), is_scaled=False)


def test_a_scaler_of_gradients_keeps_its_own_check(queued):
    weights, optimizer = problem()
    weights[0].grad[0, 0] = float("inf")
    queued.before_update(optimizer, 5, loss(), is_scaled=True)
    queued.read()
    assert not hasattr(optimizer, "found_inf")


def test_values_are_fetched_with_what_was_skipped_before(queued):
    weights, optimizer = problem()
    queued.before_update(optimizer, 1, loss(), is_scaled=False)
    assert queued.fetch(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]
    weights[0].grad[0, 0] = float("inf")
    queued.before_update(optimizer, 2, loss(), is_scaled=False)
    with pytest.raises(Failure, match="at step 2"):
        queued.fetch(torch.zeros(3))
    assert queued.fetch(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_a_device_is_asked_now_and_then_where_nobody_fetches(queued):
    weights, optimizer = problem()
    weights[0].grad[0, 0] = float("inf")
    for step in range(1, guard.READ_EVERY + 1):
        queued.before_update(optimizer, step, loss(), is_scaled=False)
    with pytest.raises(Failure, match="at step 1 "):
        queued.before_update(optimizer, guard.READ_EVERY + 1, loss(), is_scaled=False)
