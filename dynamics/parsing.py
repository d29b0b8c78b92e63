"""What a parser of jsonargparse complains of, in one sentence. No torch here."""

import re
import sys
from argparse import Action, ArgumentError
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from dynamics.allowed import refusal
from dynamics.errors import InputError


class OneSentenceErrors:
    """Mixin for a parser: refuse in one sentence, without usage and without the list of every option."""

    exit_on_error: bool
    _actions: list[Action]
    dashes = ""  # what precedes the name of an option in an error: nothing before the keys of a configuration

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [text.lstrip("-") for action in self._actions for text in action.option_strings]
        if self.exit_on_error:
            raise InputError(explain(message, options, self.dashes)) from ex
        # The parser of a class within a configuration: the outermost parser knows the whole key.
        match = re.match(r"Option '(.+)' is not accepted", message)
        near = get_close_matches(match[1], options, n=1) if match else []
        raise ArgumentError(None, f"{message} (nearest: {near[0]})" if near else message) from ex


def explain(message: str, options: Iterable[str] = (), dashes: str = "") -> str:
    """Return one sentence for a complaint of jsonargparse: nested, with one cause for each alternative of a union.

    Of the `options` that exist, the nearest is offered.

    >>> explain("unrecognized arguments: --widht=3", ["width", "heads"], "--")
    'there is no option --widht: did you mean --width?'
    >>> explain("argument --run: expected one argument")
    '--run needs a value.'
    """
    key, complaint = _innermost(message)
    causes = _causes(complaint)
    name = dashes + key if key in options else key
    if match := re.search(r"unrecognized arguments: ([^-\s]\S*)", complaint):
        return f"{match[1]} is one word too many: see --help."
    if match := re.search(r"unrecognized arguments: --?([^\s=]+)", complaint):
        return _no_option(match[1], options, dashes)
    if match := re.search(r"(?:Group '(.+)' does not accept option|Option) '([^']+)'(?:.+nearest: (.+)\))?", complaint):
        path = [part for part in (key, match[1]) if part]
        nearest = [".".join([*path, match[3]])] if match[3] else options
        return _no_option(".".join([*path, match[2]]), nearest, dashes)
    if match := re.search(r"argument ([^\s/:]+)\S*: (expected|ignored explicit)", complaint):
        return f"{match[1]} {'needs a value' if match[2] == 'expected' else 'takes no value'}."
    if match := re.search(r"arguments are required: (.+)", complaint):
        return f"{'.'.join(filter(None, [key, match[1]]))} is missing: see --help."
    if match := re.search(r"Importing '(\S+)' is not allowed", complaint):
        return f"{name}: {refusal(match[1])}"
    if match := re.search(r"Unable to load config '(.+)'", message):
        return f"{key} must be a mapping of settings (got {match[1]})."
    if match := re.search(r"import path string: (\S+)", complaint):
        return f"{name}: there is no class {match[1]}: give its full import path."
    if match := re.search(r"module '(\S+)' has no attribute '(\w+)'", complaint):
        classes = [name for name, value in vars(sys.modules[match[1]]).items() if isinstance(value, type)]
        near = get_close_matches(match[2], classes, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "look there for its name."
        return f"{name}: there is no class {match[2]} in {match[1]}: {hint}"
    if match := re.search(r"No module named '(\S+)'", complaint):
        return f"{name}: there is no module {match[1]}: give the class's full import path."
    if not causes[0].startswith("Expected"):
        advice = "give class_path and init_args" if "valid subclass" in causes[0] else causes[0]
        return f"{name}: {advice}".removeprefix(": ") + ("" if advice.endswith((".", "?")) else ".")
    expected = " or ".join(_expectation(cause) for cause in causes if cause.startswith("Expected"))
    value = re.search(r"(?:Given|Got) value: (.+)", complaint)
    return f"{name} must be {expected} (got {value[1] if value else 'something else'})."


def _innermost(message: str) -> tuple[str, str]:
    """Return the full key that a nested complaint is about (empty where it names none), and what is wrong with it."""
    keys: list[str] = []
    block = r'^( *)(?:- )?Parser key "([^"]+)"[^:\n]*:(.*(?:\n(?:\1 .*|)$)*)'  # the more indented lines below a key
    while match := re.search(block, message, re.MULTILINE):
        keys, message = [*keys, match[2]], match[3]
    return ".".join(keys[1:] if keys[:1] == ["config"] else keys), message


def _causes(complaint: str) -> list[str]:
    """Return the causes that say something; a complaint without a list is its own."""
    causes = re.findall(r"^ *- (.+)$", complaint, re.MULTILINE) or [" ".join(complaint.split())]
    vague = ("NoneType", "Does not validate against any", "Expected a path")
    return [cause for cause in causes if not any(words in cause for words in vague)] or causes


def _expectation(cause: str) -> str:
    """Return in words what jsonargparse expected.

    >>> _expectation("Expected a typing.Literal['all', 'none']. Got value: some")
    'one of all, none'
    >>> _expectation("Expected a <class 'int'>")
    'int'
    """
    if match := re.search(r"Literal\[(.+?)\]", cause):
        return "one of " + match[1].replace("'", "")
    if match := re.search(r"<class '(?:.*\.)?(\w+)'>", cause):
        return match[1]
    return cause.removeprefix("Expected a ").split(". Got value")[0].split(":")[0]


def _no_option(name: str, options: Iterable[str], dashes: str) -> str:
    full_names = {option.replace(".init_args", ""): option for option in options}
    near = get_close_matches(name.replace(".init_args", ""), full_names, n=1)
    hint = f"did you mean {dashes}{near[0]}?" if near else "--help lists the options."
    return f"there is no option {dashes}{name}: {hint}"
