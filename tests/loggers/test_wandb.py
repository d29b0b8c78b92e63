"""The view of a run in W&B: online, offline, refused."""

import pytest
import wandb

from dynamics.errors import InputError
from dynamics.loggers.wandb import WandbLogger, pick_mode


def unreachable(**_):
    raise wandb.errors.AuthenticationError("no answer\nfrom the server")


@pytest.mark.parametrize(("has_key", "mode"), [(True, "online"), (False, "offline")])
def test_only_a_key_makes_it_online(monkeypatch, has_key, mode):
    monkeypatch.setattr(wandb, "login", lambda prompt: has_key)
    assert pick_mode() == mode


def test_a_server_that_does_not_answer_fails_no_run(monkeypatch, capsys):
    monkeypatch.setattr(wandb, "login", unreachable)
    assert pick_mode() == "offline"
    assert "no answer from the server" in capsys.readouterr().out


def test_a_run_that_cannot_be_begun_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb, "init", unreachable)
    logger = WandbLogger(mode="online", save_dir=tmp_path)
    with pytest.raises(InputError, match=r"no answer from the server.*mode offline"):
        logger.log_metrics({"train/loss": 1.0}, 1)
