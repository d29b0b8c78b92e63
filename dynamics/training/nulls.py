"""Settings that are null where a class takes no None: jsonargparse lets null pass for every type."""

from collections.abc import Iterator
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace
from jsonargparse.typehints import import_object  # as it resolves a class path itself

from dynamics.errors import InputError


def refuse_nulls(config: Namespace, classes: dict[str, type]) -> None:
    """Refuse a null by the key that the user wrote; `classes` are those of groups without a class path.

    Raises:
        InputError: a setting is null whose type has no None.
    """
    for key, kind in classes.items():
        _refuse(config[key], kind, key)
    for key, value in vars(config).items():
        for settings, name in _classes(value, key):
            _refuse(settings.init_args, import_object(settings.class_path), name)


def _classes(value: Any, key: str) -> Iterator[tuple[Namespace, str]]:
    """Yield every class path with its arguments in a value, at any depth, and the key that leads there."""
    if isinstance(value, list):
        for part in value:
            yield from _classes(part, key)
    elif isinstance(value, Namespace):
        inner = value.get("init_args")
        if value.get("class_path") and isinstance(inner, Namespace):
            yield value, key
        parts = vars(inner if isinstance(inner, Namespace) else value)
        for name, part in parts.items():
            yield from _classes(part, f"{key}.{name}")


def _refuse(settings: Namespace, kind: Any, key: str) -> None:
    is_class = isclass(kind)  # else a function that makes one
    try:
        hints = get_type_hints(kind.__init__ if is_class else kind)
    except (NameError, TypeError):  # it names a type that is imported for checkers alone
        return
    for name, hint in hints.items():
        if name in settings and settings[name] is None and not (hint in (Any, None, NoneType) or _takes_none(hint)):
            raise InputError(f"{key}.{name} must not be null: give a value, or leave it out.")


def _takes_none(hint: Any) -> bool:
    """Whether a type is a union or a Literal with None.

    >>> _takes_none(int | None), _takes_none(int), _takes_none(list[None])
    (True, False, False)
    """
    return get_origin(hint) in (Union, UnionType, Literal) and not {None, NoneType}.isdisjoint(get_args(hint))
