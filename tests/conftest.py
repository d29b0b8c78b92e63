"""Shared fixtures."""

import gc
import os
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import jaxtyping
import numpy as np
import pytest

# Shapes and types of the tensors are checked at run time, in tests alone, and in those of these rooms: it is slow.
SHAPED = {"capture", "measure", "metrics"}
jaxtyping.install_import_hook(["dynamics.metrics", "dynamics.capture"], "beartype.beartype")

# Read once, before torch is imported: what tests compute is so small that a second thread only waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dynamics.training import background  # noqa: E402  # after what is read once

# A collection of all that the tests of a process have left takes .4 s, and every run begins with one.
background.gc = SimpleNamespace(collect=lambda: gc.collect(0), freeze=gc.freeze, unfreeze=gc.unfreeze)


# How long an example takes, and how long it takes to draw one, depends on what else the machine does.
hypothesis.settings.register_profile("no-clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("no-clock")


def pytest_runtest_setup(item: pytest.Item) -> None:
    jaxtyping.config.update("jaxtyping_disable", not SHAPED & {*item.path.parts})


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data beside the repository")
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """A small plain text, enough for short windows in every split."""
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat", "quietly"], size=6000)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(words))
    return path


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A working directory of its own, with a cache of its own, where runs land in checkpoints/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path
