"""The options of `dynamics fit` itself, and the merging of configurations. No torch here."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dynamics.errors import InputError
from dynamics.readers import read_yaml


class RunOptions(NamedTuple):
    """The options of `dynamics fit` itself; `rest` is for LightningCLI."""

    configs: list[str]
    size: str | None
    run: str | None
    resume: str | None
    allowed: list[str]
    rest: list[str]


def split_options(argv: Sequence[str]) -> RunOptions:
    """Split a command line into the options of `dynamics fit` itself and the rest.

    >>> split_options(["--run", "a", "--trainer.max_steps", "3", "--size=tiny"])
    RunOptions(configs=[], size='tiny', run='a', resume=None, allowed=[], rest=['--trainer.max_steps', '3'])
    """
    values: dict[str, list[str]] = {"config": [], "size": [], "run": [], "resume": [], "allow-classes": []}
    rest, words = [], iter(argv)
    pattern = r"--(config|size|run|resume|allow[-_]classes)(?:=(.*))?"
    for word in words:
        match = re.fullmatch(pattern, "--config" if word == "-c" else word)
        if match is None:
            rest.append(word)
            continue
        value = match[2] if match[2] is not None else next(words, None)
        if not value or value.startswith("--"):
            raise InputError(f"--{match[1]} needs a value.")
        values[match[1].replace("_", "-")].append(value)
    last = {name: texts[-1] if texts else None for name, texts in values.items()}
    return RunOptions(values["config"], last["size"], last["run"], last["resume"], values["allow-classes"], rest)


class _Unique(yaml.SafeLoader):
    """YAML in which no mapping has a key twice, of which the standard one takes the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[Any] = set()
        for key in keys:
            if isinstance(key, Hashable):  # what is not is refused below
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key} stands there twice", node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML configuration as nested dicts."""
    config = read_yaml(path, "fix it, or name another one", lambda text: yaml.load(text, _Unique))
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise InputError(f"{path} holds no settings: it must be a YAML mapping, its keys text.")
    if "config" in config:
        raise InputError(f"{path}: config has no effect inside a configuration; give --config several times instead.")
    return config


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings, those of `over` winning; the settings of a class do not go to another one.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    >>> merge({"a": {"class_path": "A", "init_args": {"b": 1}}}, {"a": {"class_path": "B"}})
    {'a': {'class_path': 'B'}}
    """
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            was = before.get("class_path")
            merged[key] = merge(before, value) if value.get("class_path", was) == was else value
        else:
            merged[key] = value
    return merged


def flat(settings: Any) -> dict[str, Any]:
    """Return the leaves of nested settings by their dotted names: they may be of any type.

    >>> flat({"a": {"b": 1, "c": [{"d": 2}, 3], "e": {}}})
    {'a.b': 1, 'a.c.0.d': 2, 'a.c.1': 3, 'a.e': {}}
    """
    return dict(_leaves(settings, ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not parts:
        yield name, value
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def gather_config(options: RunOptions) -> dict[str, Any]:
    """Merge all configuration files and the size, in the order of their precedence."""
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
    return reduce(merge, map(read_config, paths))
