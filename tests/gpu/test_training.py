"""`dynamics fit` on the simulated device: what a steady step costs the host, and resuming."""

import pytest
import torch

from dynamics import runs
from dynamics.training.checkpoint import states
from tests.gpu.runs import ARMS, STEADY, train, train_and_measure, train_steps

SMALL = {"model__width": 32, "model__depth": 1, "data__context": 32, "data__probe_tokens": 256}


@pytest.mark.parametrize("arm", ARMS)
def test_the_host_waits_once_in_fifty_steady_steps(workplace, arm):
    device = train_steps(arm, "tiny", workplace, **(SMALL if arm != "finetune" else {}))
    waits = [event.line for event, n in device.events.items() for _ in range(n) if event[:2] == ("step", "wait")]
    assert len(waits) == 1, waits  # to read the losses
    assert device.count("nondeterministic", "step") == 0
    assert device.count("float64", "step") == 0


@pytest.mark.parametrize(("arm", "depth", "kernels"), [("decoder", 6, 250), ("decoder", 12, 450), ("encoder", 6, 250)])
def test_kernels_of_a_step(workplace, arm, depth, kernels):
    steps = 3
    shape = SMALL | {"model__depth": depth}
    device = train_steps(arm, "tiny", workplace, **shape, trainer__max_steps=STEADY.start + steps)
    assert device.count("kernel", "step") <= kernels * steps


def test_a_run_resumes_on_the_device(workplace):
    regularizer = "[{class_path: dynamics.models.regularizers.IStar, init_args: {weight: -1.0}}]"
    words = ("--run", "a", "--model.regularizers", regularizer, "--metrics", "[drift]", "--checkpoints.every", 2)
    settings = SMALL | {"data__batch_size": 2, "trainer__max_steps": 4, "trainer__val_check_interval": 4}

    def weights():
        (newest, *_) = states(runs.CHECKPOINTS / "a")
        return newest, torch.load(newest, weights_only=True)["state_dict"]

    train("decoder", "tiny", workplace, *map(str, words), **settings)
    last, whole = weights()
    last.unlink()
    train("decoder", "tiny", workplace, *map(str, words), "--resume", "auto", **settings)
    again, resumed = weights()
    assert again == last
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())


def test_what_is_measured_validated_and_saved_takes_few_waits(workplace):
    device = train_and_measure("decoder", "tiny", workplace, **SMALL)
    first, later = (device.count("kernel", phase) for phase in ("first measure", "measure"))
    assert first <= later + 10
    assert device.count("wait", "first measure") <= 20
    assert (
        device.count("wait", "validate") <= 6
    )  # two passes: one each, four of Lightning's and of the text at the start
    assert device.count("wait", "save") == 2  # whether the weights are finite, and the copy
