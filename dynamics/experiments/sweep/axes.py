"""The axes of a sweep: what its file lets vary, one list of choices for each. No torch here."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from dynamics.config import read_config
from dynamics.errors import InputError

KEYS = ("fit", "vary", "grid", "exclude", "seeds")


class Choice(NamedTuple):
    """One of the choices on an axis."""

    key: str  # what `exclude` calls it: fit, seed, a name under `vary`, or a key of the configuration
    value: Any
    label: str  # its part in the name of a cell
    words: tuple[str, ...]  # that it adds to those of `dynamics fit`


Choices = tuple[Choice, ...]  # one from every axis


@dataclass(frozen=True)
class Sweep:
    """What the file of a sweep holds: the axes, that of the seeds last, and which combinations are left out."""

    path: Path
    axes: Sequence[Sequence[Choice]]
    exclude: Sequence[Mapping[str, Any]]

    def combinations(self) -> list[Choices]:
        """Return one choice from every axis in all ways that are not excluded, seed by seed.

        Raises:
            InputError: a rule of `exclude` is about none of them, or they leave nothing.
        """
        *others, seeds = self.axes
        found = [(*choices, seed) for seed, *choices in product(seeds, *others)]
        for rule in self.exclude:
            if not any(_is_about(rule, choices) for choices in found):
                raise InputError(f"{self.path}: exclude holds {_written(rule)}, which no run is; remove it or mend it.")
        kept = [choices for choices in found if not any(_is_about(rule, choices) for rule in self.exclude)]
        if not kept:
            raise InputError(f"{self.path}: exclude leaves no run; exclude less.")
        return kept


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep.

    It holds `fit`, the words of `dynamics fit` by name; `seeds`, whole numbers; and, each if it is wanted, `vary`, by
    name an `option` with {} for each of its `values`, one of which a run has; `grid`, the values of keys of the
    configuration, all of which a run combines; and `exclude`, what is left out: mappings from `fit`, `seed`, names of
    `vary` and keys of `grid` to a value or a list of values.

    Raises:
        InputError: it does not say what to run.
    """
    config = read_config(path)
    for key in config:
        if key not in KEYS:
            raise InputError(f"{path}: there is no {key} in a sweep: {_nearest(key, KEYS)}")
    axes = [_fits(path, config.get("fit"))]
    if "vary" in config:
        axes.append(_varied(path, config["vary"]))
    axes += _grid(path, config.get("grid", {}))
    axes.append(_seeds(path, config.get("seeds")))
    return Sweep(path, axes, _rules(path, config.get("exclude", []), axes))


def _fits(path: Path, fits: Any) -> list[Choice]:
    if not isinstance(fits, dict) or not fits or not all(isinstance(words, str) for words in fits.values()):
        raise InputError(f"{path}: fit must hold the words of `dynamics fit`, as text, for each name.")
    return [Choice("fit", str(name), str(name), tuple(shlex.split(words))) for name, words in fits.items()]


def _varied(path: Path, options: Any) -> list[Choice]:
    if not isinstance(options, dict) or not options or not all(_is_option(option) for option in options.values()):
        raise InputError(f"{path}: vary must hold for each name an option with {{}} in it, and a list of values.")
    choices = []
    for kind, option in options.items():
        _refuse_twice(path, f"vary.{kind}", option["values"])
        for value in option["values"]:
            words = shlex.split(option["option"].replace("{}", str(value)))
            choices.append(Choice(str(kind), value, f"{kind}_{value}", tuple(words)))
    return choices


def _is_option(option: Any) -> bool:
    if not isinstance(option, dict) or set(option) != {"option", "values"}:
        return False
    return "{}" in str(option["option"]) and isinstance(option["values"], list) and len(option["values"]) > 0


def _grid(path: Path, grid: Any) -> list[list[Choice]]:
    if not isinstance(grid, dict) or not all(isinstance(key, str) for key in grid):
        raise InputError(
            f"{path}: grid must hold values for each key of the configuration, as model.norm: [pre, post]."
        )
    return [_values(path, key, values, grid) for key, values in grid.items()]


def _values(path: Path, key: str, values: Any, keys: Iterable[str]) -> list[Choice]:
    """Return the values of a key of the configuration, which are a list, or by name a mapping."""
    if isinstance(values, list) and not any(isinstance(value, list | dict) for value in values):
        named = [(_written(value), value) for value in values]
    elif isinstance(values, dict):
        named = [(str(name), value) for name, value in values.items()]
    else:
        named = []
    if not named:
        raise InputError(
            f"{path}: grid.{key} must be a list of numbers and texts, or hold a value of any kind for each name."
        )
    _refuse_twice(path, f"grid.{key}", [value for _, value in named])
    last = key.rpartition(".")[2]
    short = key if [other.rpartition(".")[2] for other in keys].count(last) > 1 else last
    return [Choice(key, value, f"{short}_{name}", (f"--{key}={_written(value)}",)) for name, value in named]


def _seeds(path: Path, seeds: Any) -> list[Choice]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{path}: seeds must be a list of whole numbers from 0 on.")
    _refuse_twice(path, "seeds", seeds)
    return [Choice("seed", seed, f"seed_{seed}", ("--seed_everything", str(seed))) for seed in seeds]


def _rules(path: Path, rules: Any, axes: Sequence[Sequence[Choice]]) -> list[dict[str, Any]]:
    known = list(dict.fromkeys(choice.key for axis in axes for choice in axis))
    if not isinstance(rules, list) or not all(isinstance(rule, dict) and rule for rule in rules):
        raise InputError(f"{path}: exclude must be a list of mappings, as - {{fit: decoder, seed: 0}}.")
    for key in (key for rule in rules for key in rule):
        if key not in known:
            raise InputError(f"{path}: exclude holds {key}, which does not vary here: {_nearest(str(key), known)}")
    return rules


def _is_about(rule: Mapping[str, Any], choices: Choices) -> bool:
    return all(
        any(choice.key == key and _holds(wanted, choice.value) for choice in choices) for key, wanted in rule.items()
    )


def _holds(wanted: Any, value: Any) -> bool:
    return any(_same(one, value) for one in [wanted, *(wanted if isinstance(wanted, list) else [])])


def _same(one: Any, other: Any) -> bool:
    """Whether two values of YAML are the same: true is not 1.

    >>> _same(1, 1.0), _same(1, True)
    (True, False)
    """
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _refuse_twice(path: Path, where: str, values: Sequence[Any]) -> None:
    for number, value in enumerate(values):
        if any(_same(value, other) for other in values[:number]):
            raise InputError(f"{path}: {where} holds {_written(value)} twice; leave one out.")


def _written(value: Any) -> str:
    """Return a value as it is written on the command line.

    >>> [_written(value) for value in ("pre", True, None, 0.5, [{"weight": -2}])]
    ['pre', 'true', 'null', '0.5', '[{"weight": -2}]']
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}."


def in_a_name(text: str) -> str:
    """Return a text as a part of a run's name, and so of a folder's.

    >>> in_a_name("decoder-corpus_my/text 1.txt-width_128")
    'decoder-corpus_my_text_1.txt-width_128'
    """
    return re.sub(r"[^\w.+=-]+", "_", text)
