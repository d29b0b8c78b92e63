"""What the command line says, and with which exit code."""

import pytest

from dynamics.cli import main as cli
from dynamics.errors import Failure, InputError


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (InputError("No."), 2, "dynamics: No.\n"),
        (Failure("It broke."), 1, "dynamics: It broke.\n"),
        (KeyboardInterrupt(), 1, "dynamics: interrupted.\n"),
        (
            PermissionError(13, "Permission denied", "secret.txt"),  # reading or writing
            2,
            "dynamics: cannot use secret.txt: Permission denied; mend that, or choose another place.\n",
        ),
    ],
)
def test_what_goes_wrong_is_one_sentence(raised, code, said, monkeypatch, capsys):
    def fail(argv):
        raise raised

    monkeypatch.setattr(cli, "_verb", lambda name: fail)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["report"])
    assert (exit_.value.code, capsys.readouterr().err) == (code, said)


def test_a_verb_that_does_not_exist_is_refused_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["prob"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "dynamics: there is no verb prob: did you mean probe?\n"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_verb_all_of_them_are_listed(argv, capsys):
    cli.main(argv)
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in cli.VERBS)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_is_there(verb):
    assert callable(cli._verb(verb))
