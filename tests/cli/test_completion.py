"""What is offered at the end of a command line, and the scripts that ask for it."""

import subprocess
import sys

import pytest

from dynamics.cli.completion import SCRIPTS, offers
from dynamics.cli.main import VERBS, main


@pytest.fixture
def here(workplace):
    """A folder with two runs and a configuration."""
    for run in ("decoder", "encoder"):
        (workplace / "checkpoints" / run).mkdir(parents=True)
        (workplace / "checkpoints" / run / "run.json").write_text("{}")
    (workplace / "configs" / "sizes").mkdir(parents=True)
    for name in ("decoder", "probe", "sizes/tiny"):
        (workplace / "configs" / f"{name}.yaml").write_text("seeds: 1\n")
    return workplace


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dynamics s", ["scan", "sweep"]),
        ("dynamics --v", ["--version"]),
        ("dynamics scan --bat", ["--batch_size", "--batch-size"]),
        ("dynamics scan --batch-", ["--batch-size"]),
        ("dynamics scan d", ["decoder"]),
        ("dynamics report ", ["decoder", "encoder"]),
        ("dynamics report decoder e", ["encoder"]),
        ("dynamics report --out r", []),
        ("dynamics cone --run=e", ["--run=encoder"]),
        ("dynamics sweep configs/", ["configs/decoder.yaml", "configs/probe.yaml"]),
        ("dynamics probe --config configs/p", ["configs/probe.yaml"]),
        ("dynamics probe --norm ", []),
        ("dynamics fit --config ", ["configs/decoder.yaml", "configs/probe.yaml"]),
        ("dynamics fit --size ", ["tiny"]),
        ("dynamics fit --resume ", ["auto"]),
        ("dynamics fit --model.d", ["--model.depth"]),
        ("dynamics validate --run d", ["decoder"]),
        ("dynamics completion ", ["bash", "zsh", "fish"]),
        ("dynamics nothing --r", []),
        ("dynamics scan 'open", []),
        ("dynamics", list(VERBS)[:2]),
    ],
)
def test_offers(here, line, words):
    offered = offers(line, VERBS)
    assert offered[: len(words)] == words
    assert len(offered) == len(words) or line == "dynamics"


def test_every_option_of_a_verb_is_offered(here):
    assert {"--text", "--metrics", "--trust_remote_code", "--help"} <= set(offers("dynamics scan --", VERBS))


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_of_a_shell_asks_for_offers(shell, capsys):
    main(["completion", shell])
    assert f"dynamics completion {shell} --line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dynamics sc", "scan"),
        ("dynamics report ", "decoder encoder"),
        ("dynamics validate --run=d", "decoder"),  # to bash, = ends a word
        ("dynamics fit --config configs/d", "configs/decoder.yaml"),
        ("dynamics report --out ", ""),
    ],
)
def test_bash_completes(here, line, words):
    script = f"""
        dynamics() {{ {sys.executable} -m dynamics "$@"; }}
        eval "$(dynamics completion bash)"
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _dynamics
        echo "${{COMPREPLY[*]}}"
        complete -p dynamics
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    offered, registered = result.stdout.splitlines()
    assert offered.split() == words.split()
    assert registered == "complete -o default -F _dynamics dynamics"
