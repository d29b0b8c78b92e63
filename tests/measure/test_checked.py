"""A check is made once for code, configuration and versions, and remembered on the disk."""

import pytest

from dynamics.capture.check import Comparison, Verdict
from dynamics.errors import InputError
from dynamics.measure import checked as module
from dynamics.measure.checked import checked
from tests.capture.zoo import build, inputs


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The names of the models that were really checked."""
    names, check = [], module.check

    def counting(model, batch):
        names.append(type(model).__name__)
        return check(model, batch)

    monkeypatch.setenv("DYNAMICS_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "check", counting)
    monkeypatch.setattr(module, "_VERDICTS", {})
    return names


def test_an_architecture_is_checked_once(counted, monkeypatch):
    for _ in range(2):
        assert str(checked(build("gpt2"), inputs("gpt2"), "gpt2")) == "verified"
    monkeypatch.setattr(module, "_VERDICTS", {})  # another process
    assert str(checked(build("gpt2"), inputs("gpt2"), "gpt2")) == "verified"
    assert counted == ["GPT2Model"]


def test_another_implementation_input_precision_or_code_is_checked_anew(counted):
    class Other(type(build("bert"))):
        pass

    batch = inputs("bert")
    checked(build("bert"), batch, "bert")
    checked(build("bert", "eager"), batch, "bert")
    checked(build("bert"), {"input_ids": batch["input_ids"]}, "bert")
    checked(build("bert"), batch, "bert", dtype=None)
    checked(Other(build("bert").config).eval(), batch, "bert")
    assert counted == ["BertModel"] * 4 + ["Other"]


def test_a_remembered_refusal_is_a_refusal(counted, monkeypatch):
    wrong = Verdict((Comparison("states", "its hidden states", 0.5, "refused", "layer 2 differs by 0.5"),))
    monkeypatch.setattr(module, "check", lambda *_: wrong)
    for _ in range(2):
        with pytest.raises(InputError, match=r"captured of mine is not .*states: layer 2 differs by 0.5"):
            checked(build("gpt2"), inputs("gpt2"), "mine")
        monkeypatch.setattr(module, "_VERDICTS", {})


def test_a_file_that_cannot_be_read_is_made_again(counted, tmp_path, monkeypatch):
    checked(build("gpt2"), inputs("gpt2"), "gpt2")
    (path,) = (tmp_path / "checks").glob("*.json")
    path.write_text("[[1]]")
    monkeypatch.setattr(module, "_VERDICTS", {})
    assert str(checked(build("gpt2"), inputs("gpt2"), "gpt2")) == "verified"
    assert len(counted) == 2
