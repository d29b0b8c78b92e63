"""Reads files that may hold anything: what they must hold, or a refusal in one sentence. No torch here."""

import stat
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dynamics.errors import InputError
from dynamics.files import DIGESTS, damaged, is_damaged

LARGEST, LARGEST_YAML = 1 << 28, 1 << 18  # bytes of a file that is read whole; YAML is read slowly
MOST_VALUES = 100_000  # in a YAML file: aliases may refer to one another, and stand for any number of values


def read_json(path: Path, kind: Any, advice: str) -> Any:
    """Return the content of a JSON file, which must be of the type `kind`.

    Args:
        kind: such as `dict[str, list[int]]`.
        advice: what to do about a file that is refused.

    Raises:
        InputError: it cannot be read, is damaged, is no JSON, or holds something else.
    """
    return _parsed(
        path, lambda text: _adapter(kind).validate_json(text, strict=True), advice, LARGEST, "the JSON that it must be"
    )


def read_yaml(path: Path, advice: str = "fix it", load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Return the content of a YAML file; `load` parses its text."""
    content = _parsed(path, load, advice, LARGEST_YAML, "valid YAML")
    _refuse_too_many(content, path)
    return content


def refuse_wrong_type(content: Any, kind: Any, what: str, advice: str) -> None:
    """Refuse a content that is not of the type `kind`, in a sentence about `what`."""
    try:
        _adapter(kind).validate_python(content, strict=True)
    except ValueError as error:
        raise InputError(f"{what} is not what it must be ({_words(error)}): {advice}.") from error


def refuse_damaged(path: Path, advice: str) -> None:
    """Refuse a file whose content is not what was written, by the digest beside it."""
    if is_damaged(path):
        own = f"if you changed it yourself, delete {path.parent / DIGESTS}"
        raise InputError(f"{path} is damaged: it is not what was written; {advice}, or, {own}.")


def refuse_damaged_in(folder: Path, advice: str) -> None:
    """Refuse a folder in which a file is damaged."""
    for path in damaged(folder):
        refuse_damaged(path, advice)


def refuse_special(path: Path) -> None:
    """Refuse what is there but is no file of finite length: a folder, a device, a pipe."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise InputError(f"{path} is {kind}, not a file: name a file.")


@lru_cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _parsed(path: Path, parse: Callable[[str], Any], advice: str, largest: int, what: str) -> Any:
    refuse_special(path)
    refuse_damaged(path, advice)
    try:
        if (size := path.stat().st_size) > largest:
            raise InputError(f"{path} has {size:,} bytes, more than such a file may have ({largest:,}): {advice}.")
        return parse(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {advice}.") from error
    except Exception as error:  # a parser trips over whatever the content makes it trip over
        raise InputError(f"{path} is not {what} ({_words(error)}): {advice}.") from error


def _words(error: Exception) -> str:
    """Return what is wrong: of several values of a wrong type the first, after its keys."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())[:300] or type(error).__name__
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    return f"{place}: {first['msg']}" if place else first["msg"]


def _refuse_too_many(content: Any, path: Path) -> None:
    """Refuse more values than any configuration has, counted as often as aliases repeat them."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping | list | tuple | set):
            count += len(value)
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
        if count > MOST_VALUES:
            raise InputError(
                f"{path} holds more than {MOST_VALUES:,} values: an alias (*) in it may refer to itself; remove it."
            )
