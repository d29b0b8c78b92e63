"""The pictures of the metrics' page: each metric, computed by its own function, as a known control changes.

`PICTURES` maps a metric's name to the function that draws it on matplotlib axes; the function's docstring is
the caption. A metric without one has no picture on the page.
"""

from collections.abc import Callable
from inspect import getdoc
from typing import Any

from drawing import attention, states

PICTURES: dict[str, Callable[[Any], None]] = {draw.__name__: draw for draw in (*states.PICTURES, *attention.PICTURES)}


def caption(name: str) -> str:
    """Return what the picture of a metric shows, in a sentence or two."""
    return " ".join((getdoc(PICTURES[name]) or "").split())
