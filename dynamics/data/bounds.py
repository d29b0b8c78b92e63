"""How much of a page is parsed: the time of a parser grows with what is open, times what follows. No torch here.

`mwparserfromhell` reads to the end of the page for every `{{`, `[[`, tag or table that is never closed, and goes back:
n of them in L characters take a time in proportion to n L. Real pages have few (of 248 in a part of enwik8, n L is at
most 0.4 million); a page above the limit is cut, which is counted.
"""

import re
from bisect import bisect_right
from collections import Counter

LIMIT = 8_000_000  # open marks times characters: some seconds
# Tags whose contents are not parsed, and those that need no end.
RAW = (
    *("categorytree", "ce", "chem", "gallery", "graph", "hiero", "imagemap", "inputbox", "math", "nowiki", "pre"),
    *("score", "section", "source", "syntaxhighlight", "templatedata", "timeline"),
)
SINGLE = {"br", "wbr", "hr", "meta", "link", "img", "li", "dt", "dd", "th", "td", "tr"}
_ENDS = {"{{": "}}", "[[": "]]", "[": "]", "{|": "|}", "<!--": "-->"}
_MARK = re.compile(
    r"<!--|-->|</?[a-z][a-z0-9]*|/?>|\{\||\|\}|\{\{|\}\}|\[\[|\]\]|\[(?=\w{1,9}:|//)|\]", re.ASCII | re.I
)


def bounded(wikitext: str) -> str:
    """Return as much of a page, from its beginning, as can be parsed in a bounded time: nearly always all of it.

    >>> bounded("{{a}} b"), len(bounded("{{a|" * 5000))
    ('{{a}} b', 5656)
    """
    most = LIMIT // max(len(wikitext), 1)
    if len(wikitext) <= most:
        return wikitext
    marks = [match.start() for match in _MARK.finditer(wikitext) if not _closes(match[0])]
    if len(marks) <= most or unpaired(wikitext) <= most:
        return wikitext
    # All are open at the cut, at worst.
    return wikitext[: marks[bisect_right(range(len(marks)), LIMIT, key=lambda count: count * marks[count]) - 1]]


def _closes(mark: str) -> bool:
    return mark in _CLOSING or mark.startswith("</")


def unpaired(wikitext: str) -> int:
    """Return how many templates, links, tags and tables of a page are opened but not closed where they should be.

    >>> unpaired("{{a}} [[b]] <br> <ref>c</ref> {|\\n|}"), unpaired("{{a [[b]] <b>c <nowiki>{{</nowiki>")
    (0, 2)
    """
    text = wikitext.lower()
    last = {name: text.rfind(f"</{name}") for name in RAW}
    stack: list[str] = []
    expected, lost, raw = Counter[str](), 0, ""
    for match in _MARK.finditer(text):
        mark = match[0]
        if raw and mark != raw:
            continue
        raw = ""
        if not _closes(mark):
            opened = [_ENDS[mark]] if mark in _ENDS else [">"] if mark[1:] in SINGLE else [f"</{mark[1:]}", ">"]
            stack += opened
            expected.update(opened)
            continue
        end = ">" if mark == "/>" else mark
        while expected[end]:  # what was opened later is not closed
            top = stack.pop()
            expected[top] -= 1
            if top == end:
                break
            lost += 1
        tag = stack[-1] if stack else ""
        if mark == "/>" and tag.startswith("</"):
            expected[stack.pop()] -= 1
        elif mark == ">" and last.get(tag[2:], -1) > match.start():
            raw = tag
    return lost + len(stack)


_CLOSING = {*_ENDS.values(), ">", "/>"}
