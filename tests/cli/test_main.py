"""What the command line prints, and with which exit code."""

import subprocess
import sys
from contextlib import suppress

import pytest

import dynamics
from dynamics.cli import main as cli
from dynamics.cli.parser import Parser
from dynamics.errors import Failure, InputError


def fail(capsys, *words):
    """Run a command that fails, and return its exit code and what it prints to stderr."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(list(words))
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("No."), 2, "dynamics: No.\n"),
        (Failure("It broke."), 1, "dynamics: It broke.\n"),
        (KeyboardInterrupt(), 130, "dynamics: interrupted.\n"),
        (
            PermissionError(13, "Permission denied", "secret.txt"),  # reading or writing
            2,
            "dynamics: cannot use secret.txt: Permission denied; fix that, or choose another place.\n",
        ),
    ],
)
def test_an_error_is_one_sentence(error, code, sentence, monkeypatch, capsys):
    def report(runs: list[str]) -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "report", report)
    assert fail(capsys, "report") == (code, sentence)


def test_a_verb_that_does_not_exist_is_refused_with_the_nearest(capsys):
    assert fail(capsys, "prob") == (2, "dynamics: there is no verb prob: did you mean probe?\n")
    assert fail(capsys, "zzz")[1].startswith("dynamics: there is no verb zzz: choose one of fit, fork,")


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_verb_all_of_them_are_listed(argv, capsys):
    cli.main(argv)
    usage = capsys.readouterr().out
    assert all(f"  {verb} " in usage for verb in cli.VERBS)
    assert all(len(line) <= 120 for line in usage.splitlines())


def test_the_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"dynamics {dynamics.__version__}\n"


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_the_help_of_every_verb_shows_examples(verb, capsys):
    with suppress(SystemExit):
        cli.main([verb, "-h"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: dynamics {verb} ")
    examples = [line for line in text.partition("examples:\n")[2].splitlines() if "dynamics " in line]
    assert len(examples) >= 2
    if verb not in ("fit", "validate", "test"):
        assert all(option.help for option in Parser(cli.VERBS[verb])._actions)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("scan a --batch-sise 3", "there is no option --batch-sise: did you mean --batch-size?"),
        ("scan a --tok 3", "there is no option --tok: did you mean --tokens?"),
        ("scan a --zzz", "there is no option --zzz: --help lists the options."),
        ("scan a --tokens", "--tokens needs a value."),
        ("scan a --tokens --lines", "--tokens needs a value."),
        ("scan a --lines=3", "--lines takes no value."),
        ("scan a --tokens many", "--tokens must be int (got many)."),
        ("scan a --metrics 3", "--metrics must be dict or list (got 3)."),
        ("cone a --normalize perhaps --sentences x", "--normalize must be bool (got perhaps)."),
        ("probe --widht 3", "there is no option --widht: did you mean --width?"),
        (
            "probe --config missing.yaml",
            "missing.yaml cannot be read (No such file or directory): fix it, or name another one.",
        ),
        ("probe --run", "--run needs a value."),
        ("data", "corpus is missing: see --help."),
        ("data sample enwik8", "enwik8 is one word too many: see --help."),
        ("completion tcsh", "shell must be one of bash, zsh, fish (got tcsh)."),
        ("sweep --dry-run", "config is missing: see --help."),
        ("sweep configs.yaml --run", "--run needs a value."),
        ("fit --config", "--config needs a value."),
    ],
)
def test_bad_words_are_refused_with_the_option(words, sentence, workplace, capsys):
    assert fail(capsys, *words.split()) == (2, f"dynamics: {sentence}\n")


@pytest.mark.parametrize("code", ["[main(['fit', '--help']) for _ in range(1000)]", "main(['report', '--help'])"])
def test_a_reader_that_leaves_is_no_error(code):
    code = f"from dynamics.cli.main import main; print(flush=True); input(); {code}"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.communicate("\n")[1] == ""
