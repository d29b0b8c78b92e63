"""What may follow on a command line, and the scripts that ask for it in bash, zsh and fish. No torch here."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

from dynamics.cli import training
from dynamics.cli.parser import Parser
from dynamics.runs import CHECKPOINTS

SCRIPTS = {
    "bash": """\
_dynamics() {
    local IFS=$'\\n'
    COMPREPLY=($(dynamics completion bash --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -F _dynamics dynamics""",
    "zsh": """\
#compdef dynamics
_dynamics() {
    local -a offers
    offers=(${(f)"$(dynamics completion zsh --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#offers )); then compadd -Q -- $offers; else _files; fi
}
compdef _dynamics dynamics""",
    "fish": """\
complete --command dynamics --arguments \\
    '(dynamics completion fish --line (commandline --current-process --cut-at-cursor | string collect) 2>/dev/null)'""",
}

Verbs = Mapping[str, Callable[..., None]]


def offers(line: str, verbs: Verbs) -> list[str]:
    """Return what may stand in the place of the last word of a line; nothing where that is a file or a free value."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # a quote is open
        return []
    if not words or line[-1].isspace():
        words.append("")
    verb, *before, word = words if len(words) > 1 else ("", *words)
    option, equals, _ = word.partition("=")
    if not verb:
        candidates = [*verbs, "--help", "--version"]
    elif verb not in verbs:
        candidates = []
    elif equals:
        candidates = [f"{option}={value}" for value in _values(option.lstrip("-"))]
    else:
        candidates = _candidates(verb, verbs, before[-1] if before else "", word.startswith("-"))
    return [candidate for candidate in candidates if candidate.startswith(word)]


def _candidates(verb: str, verbs: Verbs, previous: str, is_option: bool) -> list[str]:
    """Return the options of a verb, the values of the option before, or those of its positional words."""
    if verb in ("fit", "validate", "test"):
        options = [*training.option_names(verb), "--help"]
        return options if is_option else _values(previous.lstrip("-"))
    parser = Parser(verbs[verb])
    if is_option:
        return [option for option in parser.options if not option.endswith("+")]
    if parser.options.get(previous):
        return _values(previous.lstrip("-"))
    choices = {item.name: get_args(item.type) for item in parser.parameters if get_origin(item.type) is Literal}
    return [value for action in parser.positional for value in choices.get(action.dest) or _values(action.dest)]


def _values(name: str) -> list[str]:
    """Return the values of an option or of a positional parameter that can be listed."""
    if name in ("run", "runs", "models"):
        return sorted(path.parent.name for path in CHECKPOINTS.glob("*/run.json"))
    if name == "config":
        return sorted(str(path) for path in [*Path("configs").glob("*.yaml"), *Path().glob("*.yaml")])
    if name == "size":
        return sorted(path.stem for path in Path("configs/sizes").glob("*.yaml"))
    return ["auto"] if name == "resume" else []
