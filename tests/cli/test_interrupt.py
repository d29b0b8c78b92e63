"""An interrupt ends a run at once, also one that a shell has started in the background."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import CONFIGS, TINY, arguments

ROOT = Path(__file__).resolve().parents[2]
STUCK = """
import sys
from dynamics.cli.main import main
from dynamics.{module} import {name}

def stick(*arguments, **settings):
    print("stuck", flush=True)
    sys.stdin.read()

{name}.{method} = stick
main(sys.argv[1:])
"""
PLACES = {  # the corpus is read, the network is built, the losses of step 0 are computed
    "prepare_data": ("data.windows", "CharData"),
    "build": ("models.language", "LanguageModel"),
    "validation_step": ("models.language", "LanguageModel"),
}


def started(method, *words):
    """A process whose `dynamics` waits at a method, begun as a shell begins one in the background."""
    module, name = PLACES[method]
    program = [sys.executable, "-c", STUCK.format(module=module, name=name, method=method), *map(str, words)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    was = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the process inherits
    try:
        return subprocess.Popen(program, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, was)


@pytest.mark.parametrize("method", PLACES)
def test_an_interrupt_before_training_ends_a_run_in_the_background(workplace, text_file, method):
    words = ["--config", CONFIGS / "decoder.yaml", "--data.corpus", text_file, "--run", "a", *arguments(TINY)]
    process = started(method, "fit", *words)
    assert "stuck\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "dynamics: interrupted."
    assert "Traceback" not in errors
    assert not (workplace / "checkpoints" / "a").exists()
