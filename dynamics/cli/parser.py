"""Parsers made of typed functions: the parameters are the options, the docstring is the help. No torch here."""

import dataclasses
import inspect
import re
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dynamics.allowed import parsing
from dynamics.cli.docstrings import read_doc
from dynamics.config import read_config, split_options
from dynamics.errors import InputError
from dynamics.parsing import OneSentenceErrors

REQUIRED = inspect.Parameter.empty  # in the place of a default where there is none
OTHER_OPTIONS = tuple[str, ...]  # type of a parameter that takes the options of another verb


class Option(NamedTuple):
    """A parameter of a function, or a field of a dataclass."""

    name: str
    type: Any
    default: Any
    help: str


def options_of(target: Any) -> list[Option]:
    """Return the parameters of a function, or the fields of a dataclass and of its bases."""
    sources = inspect.getmro(target)[::-1] if inspect.isclass(target) else (target,)
    texts = {name: text for source in sources for name, text in read_doc(source.__doc__).parameters.items()}
    defaults = {name: item.default for name, item in inspect.signature(target).parameters.items()}
    if dataclasses.is_dataclass(target):
        factories = {item.name: item.default_factory for item in dataclasses.fields(target)}
        defaults |= {name: make() for name, make in factories.items() if make is not dataclasses.MISSING}
    types = get_type_hints(target)
    return [Option(name, types[name], default, texts.get(name, "")) for name, default in defaults.items()]


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Show options as they are written, their help texts, and defaults where there are any."""

    def _get_help_string(self, action: Action) -> str:
        default = action.default
        is_empty = default is None or default is False or default in ([], {}, "", SUPPRESS)
        return (action.help or "") + ("" if is_empty or not action.option_strings else " (default: %(default)s)")

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return ", ".join(text for text in action.option_strings if not text.endswith("+")) + value


class Parser(OneSentenceErrors, ArgumentParser):
    """The command line of a verb, which is a function.

    A parameter without a default is positional, and takes any number of words where it is a list. A `bool` is a
    switch; a list that is empty by default is filled by repeating its option; anything else is read as YAML of its
    type. A dataclass stands for its fields; where all of them have defaults, `--config FILE` sets them too.
    An option may be written with - in the place of _.
    """

    dashes = "--"

    def __init__(self, verb: Callable[..., None]) -> None:
        doc = read_doc(inspect.getdoc(verb))
        super().__init__(
            prog=f"dynamics {verb.__name__}",
            description=doc.description,
            epilog="examples:\n" + indent("\n".join(doc.examples), "  "),
            formatter_class=Help,
            allow_abbrev=False,
        )
        self.verb, self.parameters = verb, options_of(verb)
        self.passes_on = next((item.name for item in self.parameters if item.type == OTHER_OPTIONS), "")
        for parameter in self.parameters:
            if dataclasses.is_dataclass(parameter.type):
                self._add_fields(options_of(parameter.type))
            elif parameter.name != self.passes_on:
                self._add(parameter)
        words = [f"{action.metavar}{' ...' * (action.nargs == '*')}" for action in self.positional]
        others = [f"[{self.passes_on.replace('_', ' ')}]"] if self.passes_on else []
        self.usage = " ".join(["%(prog)s", *words, "[options]", *others])

    def _add_fields(self, fields: list[Option]) -> None:
        if all(field.default is not REQUIRED for field in fields):
            self.add_argument("--config", action="config", help="settings as YAML; other options win over it")
            self._option_string_actions["--print_config"].help = "print the settings as YAML and exit"
        for field in fields:
            self._add(field)

    def _add(self, option: Option) -> None:
        name, kind, default, text = option
        names = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        if default is REQUIRED and kind == list[str]:
            self.add_argument(name, nargs="*", metavar=name.upper().removesuffix("S"), help=text)
        elif default is REQUIRED:
            self.add_argument(name, type=kind, metavar=name.upper(), help=text)
        elif kind is bool:
            self.add_argument(*names, action="store_true", help=text)
        elif kind == list[str] and not default:
            self.add_argument(*names, action="append", default=[], help=text)
        else:
            self.add_argument(*names, type=kind, default=default, help=text)

    @property
    def positional(self) -> list[Action]:
        return [action for action in self._actions if not action.option_strings]

    @property
    def options(self) -> dict[str, bool]:
        """Whether an option is followed by a value, for every way to write one."""
        return {text: action.nargs != 0 for action in self._actions for text in action.option_strings}

    def run(self, words: Sequence[str]) -> None:
        """Call the verb with what the words say; in an `InputError`, parameters are named by their options."""
        words, others = self._split(words) if self.passes_on else (words, [])
        for config in split_options(words).configs if "--config" in self.options else []:
            read_config(Path(config))  # names the file where it is no configuration
        with parsing([]):  # the options are plain values: none names a class
            values = {**vars(self.parse_args(list(words))), self.passes_on: tuple(others)}
        try:
            self.verb(**{name: _argument(name, kind, values) for name, kind, *_ in self.parameters})
        except InputError as error:
            raise InputError(self._with_dashes(str(error))) from error

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the words of this verb, and those of another: from its first option, or KEY=VALUE, on."""
        here: list[str] = []
        others: list[str] = []
        rest = iter(words)
        for word in rest:
            option, equals, _ = word.partition("=")
            if option in self.options:
                here += [word, *islice(rest, int(self.options[option] and not equals))]
            else:
                is_setting = equals and len(here) > 0
                (others if others or word.startswith("-") or is_setting else here).append(word)
        return here, others

    def _with_dashes(self, sentence: str) -> str:
        """Return a sentence about a parameter (`seeds must be at least 1`) as one about its option."""
        match = re.match(r"(\w+) (?:must|has|is|needs)\b", sentence)
        return f"--{sentence}" if match and f"--{match[1]}" in self.options else sentence


def _argument(name: str, kind: Any, values: dict[str, Any]) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**{field.name: values[field.name] for field in options_of(kind)})
    return values[name]
