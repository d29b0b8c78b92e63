"""The options of runs, the merging of configurations, and refusals of the parser in one sentence. No torch here."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from dynamics.errors import InputError

OWN_OPTIONS = """
dynamics' own options:
  --config FILE           configuration (several are merged, later ones win); explicit keys win over all
  --size tiny|small|base  a configuration from the folder `sizes` beside the first --config
  --run NAME              the run's folder under checkpoints/ (made up when missing)
  --resume auto|PATH      resume from the run's newest training state, or from this one

Lightning's options, with the classes of --config:
"""


class RunOptions(NamedTuple):
    """The options of `dynamics fit` itself; `rest` is for LightningCLI."""

    configs: list[str]
    size: str | None
    run: str | None
    resume: str | None
    rest: list[str]


def split_options(argv: Sequence[str]) -> RunOptions:
    """Split a command line into the options of `dynamics fit` itself and the rest.

    >>> split_options(["--run", "a", "--trainer.max_steps", "3", "--size=tiny"])
    RunOptions(configs=[], size='tiny', run='a', resume=None, rest=['--trainer.max_steps', '3'])
    """
    values: dict[str, list[str]] = {"config": [], "size": [], "run": [], "resume": []}
    rest, words = [], iter(argv)
    for word in words:
        match = re.fullmatch(r"--(config|size|run|resume)(?:=(.*))?", "--config" if word == "-c" else word)
        if match is None:
            rest.append(word)
            continue
        value = match[2] if match[2] is not None else next(words, None)
        if not value or value.startswith("--"):
            raise InputError(f"--{match[1]} needs a value.")
        values[match[1]].append(value)
    last = {name: texts[-1] if texts else None for name, texts in values.items()}
    return RunOptions(values["config"], last["size"], last["run"], last["resume"], rest)


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML configuration as nested dicts.

    Raises:
        InputError: it is missing or not a YAML mapping.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the configuration {path}: {getattr(error, 'strerror', error)}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings: it must be a YAML mapping.")
    return config


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings, those of `over` winning.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def gather_config(options: RunOptions) -> dict[str, Any]:
    """Merge all configuration files and the size, in the order of their precedence.

    Raises:
        InputError: there is no configuration, or no such size.
    """
    if not options.configs:
        raise InputError("there is no configuration: add --config FILE, for example --config configs/decoder.yaml.")
    paths = [Path(config) for config in options.configs]
    if options.size is not None:
        sizes = paths[0].parent / "sizes"
        path = sizes / f"{options.size}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in sizes.glob("*.yaml")))
            hint = f"choose one of {names}." if names else f"there are none in {sizes}/."
            raise InputError(f"--size {options.size} does not exist: {hint}")
        paths.append(path)
    config: dict[str, Any] = {}
    for path in paths:
        config = merge(config, read_config(path))
    return config


def refuse_parsing(message: str, error: Exception | None = None, options: Iterable[str] = ()) -> NoReturn:
    """Raise what jsonargparse complains of as one sentence, without its list of every option.

    Args:
        message: the complaint; for a union or a class it lists one cause for each alternative.
        error: what it was raised from.
        options: full names of the options that exist, to suggest the nearest one.

    Raises:
        InputError: always.
    """
    key = match[1] if (match := re.match(r'Parser key "([^"]+)":\s*', message)) else ""
    causes = re.findall(r"^\s*- (.+)$", message, re.MULTILINE) or [message[match.end() if match else 0 :]]
    vague = ("NoneType", "Does not validate against any")
    causes = [cause for cause in causes if not any(words in cause for words in vague)] or causes
    got = re.search(r"(?:Given value|Got value): (.+)", message)
    if match := re.search(r"(?:Group '(.+)' does not accept option|Option) '([^']+)'", causes[0]):
        _refuse_option(".".join(part for part in (key, match[1], match[2]) if part), options, error)
    if match := re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", causes[0]):
        _refuse_option(match[1], options, error)
    if match := re.match(r'Parser key "([^"]+)": (.+)', causes[0]):
        key, causes = f"{key}.{match[1]}", [match[2]]
    if match := re.search(r"import path string: (\S+)", "\n".join(causes)):
        raise InputError(f"{key}: there is no class {match[1]}: give its full import path.") from error
    if match := re.search(r"module '(\S+)' has no attribute '(\w+)'", message):
        classes = [name for name, value in vars(sys.modules[match[1]]).items() if isinstance(value, type)]
        near = get_close_matches(match[2], classes, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "look up its name there."
        raise InputError(f"{key}: there is no class {match[2]} in {match[1]}: {hint}") from error
    if match := re.search(r"No module named '(\S+)'", message):
        raise InputError(f"{key}: there is no module {match[1]}: give the class's full import path.") from error
    if match := re.search(r"arguments are required: (.+)", causes[0]):
        raise InputError(f"{f'{key}.' if key else ''}{match[1]} is missing.") from error
    if not causes[0].startswith("Expected"):
        what = "give class_path and init_args" if "subclass" in causes[0] else " ".join(causes[0].split())
        raise InputError(f"{key}: {what.rstrip('.')}.".removeprefix(": ")) from error
    expected = " or ".join(_expectation(cause) for cause in causes if cause.startswith("Expected"))
    raise InputError(f"{key} must be {expected} (got {got[1] if got else 'something else'}).") from error


def _expectation(cause: str) -> str:
    """Return what jsonargparse expected, in words.

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


def _refuse_option(name: str, options: Iterable[str], error: Exception | None) -> NoReturn:
    plain = {option.replace(".init_args", ""): option for option in options}
    near = get_close_matches(name.replace(".init_args", ""), plain, n=1)
    hint = f": did you mean {near[0]}?" if near else ": --help lists the options."
    raise InputError(f"there is no option {name}{hint}") from error
