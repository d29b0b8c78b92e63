"""Fork runs at random steps, change nothing, and compare what follows with what the parent did, to the bit.

    python benchmarks/forks.py --forks 10 --steps 200

The parents are of the kinds of `benchmarks/kills.py`. After the step of the fork, losses, measurements, weights,
optimiser and generators of every state must be the parent's, for so many steps. Two controls must be told from it: a
fork with another learning rate, and one of the kind encoder (dropout) that begins without the generators. The last line
counts; the exit code is 1 where a fork differs, or a control does not.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.kills import attempt, training  # noqa: E402
from dynamics import record, runs  # noqa: E402
from dynamics.cli.main import main as dynamics  # noqa: E402
from dynamics.training.checkpoint import states, step_of  # noqa: E402
from tests.faults.chain import different, without_generators  # noqa: E402

EVERY, LATEST = 20, 100  # steps between states, and the last one that is forked


def differences(parent: str, fork: str, at: int) -> Iterator[str]:
    """Name what differs after the step: rows of the record, and entries of the states."""
    frames = [frame[(frame.site != "cost") & (frame.step > at)] for frame in map(record.read, (parent, fork))]
    one, other = (frame.drop(columns="run").reset_index(drop=True) for frame in frames)
    if not len(one) or not one.equals(other):
        yield "record"
    names = [[path.name for path in states(runs.CHECKPOINTS / run) if step_of(path) > at] for run in (parent, fork)]
    if not names[0] or names[0] != names[1]:
        yield f"states {names}"
        return
    for name in names[0]:
        paths = (runs.CHECKPOINTS / run / "state" / name for run in (parent, fork))
        yield from (f"{name}{key}" for key in different(*paths))


def fork(parent: str, name: str, at: int, *words: str) -> str:
    """Fork a run; return the first thing that differs, empty where nothing does."""
    if attempt(lambda: dynamics(["fork", parent, "--at", str(at), "--run", name, *words])) != 0:
        raise SystemExit(f"{parent} cannot be forked at step {at}")
    return next(differences(parent, name, at), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="that are compared")
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    length = {"trainer.max_steps": LATEST + options.steps, "trainer.val_check_interval": 50}
    words = [f"--{key}={value}" for key, value in length.items()]
    words += ["--checkpoints.keep=all", f"--checkpoints.every={EVERY}"]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.environ["DYNAMICS_CACHE"] = str(Path(place) / "cache")
        made, rng, same, steps = training(Path(place)), random.Random(options.seed), 0, list[int]()
        chosen = options.kinds or list(made)
        for number in range(options.forks):
            kind = chosen[number % len(chosen)]
            if not runs.exists(runs.CHECKPOINTS / kind):
                assert attempt(lambda kind=kind: made[kind](kind, *words)) == 0, f"{kind} does not train"
            at = rng.randrange(EVERY, LATEST + 1, EVERY)
            found = fork(kind, f"{kind}-{number}", at)
            same, steps = same + (not found), [*steps, LATEST + options.steps - at]
            print(f"{kind} from step {at}: {found or f'the same for {steps[-1]} steps'}", flush=True)
        told = [fork(chosen[0], "rate", EVERY, "model.learning_rate=2e-3")]
        if runs.exists(runs.CHECKPOINTS / "encoder"):
            with without_generators():
                told.append(fork("encoder", "generators", EVERY))
        print(f"controls: {'; '.join(found or 'NOT TOLD' for found in told)}")
        print(f"{same} of {options.forks} forks equal their parent to the bit, for {min(steps)} steps or more")
    sys.exit(same < options.forks or not all(told))


if __name__ == "__main__":
    main()
