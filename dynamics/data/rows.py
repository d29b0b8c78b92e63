"""The rows of a file, a few of which may be broken. No torch here."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dynamics.errors import InputError, in_words

T = TypeVar("T")
Rows = Iterable[tuple[str, Any]]  # the place of each row, for refusals, and what it holds, or why it holds nothing


def parsed(rows: Rows, parse: Callable[[str, Any], T], unreadable: dict[str, str]) -> list[T]:
    """Return what `parse` makes of place and content of each row; note in `unreadable` where and why it refuses one.

    Raises:
        InputError: the first refusal, unless most of the rows are sound: the file is not what it is taken for.

    >>> broken: dict[str, str] = {}
    >>> parsed([("line 1", "3"), ("line 2", InputError("line 2 has no end.")), ("line 3", "4")], lambda _, x: x, broken)
    ['3', '4']
    >>> broken
    {'line 2': 'has no end'}
    """
    values, refusals = list[T](), dict[str, InputError]()
    for place, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            values.append(parse(place, row))
        except InputError as refusal:
            refusals[place] = refusal
    if refusals and len(refusals) >= len(values):
        raise next(iter(refusals.values()))
    unreadable |= {place: in_words(refusal).removeprefix(place).lstrip(": ") for place, refusal in refusals.items()}
    return values


def in_short(unreadable: dict[str, str], most: int = 3) -> str:
    """Return what is left out and why, in a line.

    >>> in_short({"line 2": "has no end"})
    '1 row is left out (line 2 has no end)'
    """
    reasons = [f"{place} {reason}" for place, reason in unreadable.items()]
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return f"{len(reasons)} row{'s are' if len(reasons) > 1 else ' is'} left out ({'; '.join(reasons[:most])}{more})"
