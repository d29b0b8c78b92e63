"""The part of a page that a script writes: what stands between two marks of a name."""

import re


def between(page: str, name: str, text: str) -> str:
    """Return a page with `text` between `<!-- NAME: ... -->` and `<!-- end of NAME -->`, each on a line of its own.

    Raises:
        ValueError: the page lacks a mark.
    """
    marks = rf"(.*^<!-- {name}: [^\n]*-->\n).*(^<!-- end of {name} -->\n.*)"
    found = re.fullmatch(marks, page, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError(f"the page lacks the marks of {name}.")
    return found[1] + text + found[2]
