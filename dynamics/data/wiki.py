"""Clean articles from a MediaWiki XML dump, in the order of the dump, on all cores. No torch here.

The dump is cut at its `</page>` tags and every page is parsed by itself: a truncated dump (enwik8 ends in the middle of
a page) or a damaged page costs that page alone. Redirects and pages of other namespaces (`Talk:`, `Wikipedia:` ...) are
left out; the schema of 2006 marks neither, so both are recognised by their text and title too. Titles are not text.
"""

import html
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from xml.etree import ElementTree

from joblib import Parallel, cpu_count, delayed

from dynamics.data.wikitext import NAMESPACES, clean
from dynamics.parent import watch

SEPARATOR = "\n\n"  # between two articles, and nowhere else in the text
CHUNK = 1 << 20  # bytes of XML that a worker gets at a time
LONGEST = 1 << 24  # bytes of a page; MediaWiki stops at 2 MiB of wikitext
_END, _LAST = b"</page>", b"</mediawiki>"
_NAMESPACE = re.compile(rb'<namespace key="(-?\d+)"[^>]*>([^<]+)<')
_REDIRECT = re.compile(r"\s*#\s*redirect", re.IGNORECASE)


@dataclass
class Part:
    """The result of one chunk of the dump, of `size` bytes.

    `counts` has pages, articles, and the pages that are none; `removed` what was removed from the articles.
    """

    articles: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    size: int = 0


def clean_dump(dump: Iterable[bytes], processes: int | None = None) -> Iterator[Part]:
    """Clean a dump, given in blocks of any size, chunk by chunk and in order, on every core or `processes` of them.

    The last part counts `breaks off` where the dump lacks its end.
    """
    end = b""

    def watched() -> Iterator[bytes]:
        nonlocal end
        for block in dump:
            end = (end + block)[-len(_LAST) - 100 :]
            yield block

    chunks = _chunks(watched())
    workers = processes or cpu_count()
    head = list(islice(chunks, workers))
    declared = _NAMESPACE.findall(head[0][0].partition(b"<page>")[0] if head else b"")  # in <siteinfo>
    names = {html.unescape(name.decode("utf-8", "replace")).lower(): int(key) for key, name in declared}
    # joblib starts its workers afresh (nothing is forked under torch's threads) and needs no __main__ guard.
    pool = Parallel(max(1, min(workers, len(head))), return_as="generator", batch_size=1)
    one, known = os.getpid(), NAMESPACES | names
    yield from pool(delayed(_clean_chunk)(chunk, known, one) for chunk in chain(head, chunks))
    if _LAST not in end:
        yield Part(counts=Counter({"breaks off": 1}))


def _chunks(dump: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield lists of pages, each with what precedes it and without its `</page>`, which the very last may lack.

    What is too long to be a page is cut, and its parts count as damaged pages.
    """
    chunk, rest = list[bytes](), b""
    for block in dump:
        *pages, rest = (rest + block).split(_END)
        if len(rest) > LONGEST:
            pages, rest = [*pages, rest], b""
        chunk += pages
        if sum(map(len, chunk)) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
    if b"<page>" in rest:
        yield [rest]


@cache
def _end_with(parent: int) -> None:
    """Have this worker end soon after the process that started it: one that is killed cannot tell its workers."""
    if os.getppid() == parent:
        watch(parent, lambda: os._exit(1))


def _clean_chunk(pages: list[bytes], namespaces: dict[str, int], parent: int = 0) -> Part:
    _end_with(parent)
    part = Part(size=sum(len(page) + len(_END) for page in pages))
    for page in pages:
        part.counts["pages"] += 1
        if (lost := page.count(b"<page>") - 1) > 0:  # their </page> is damaged
            part.counts.update(pages=lost, damaged=lost)
        fault, wikitext = _wikitext(page, namespaces)
        article = "" if fault else clean(wikitext, namespaces, part.removed)
        part.counts[fault or ("articles" if article else "empty")] += 1
        if article:
            part.articles.append(article)
    return part


def _wikitext(page: bytes, namespaces: dict[str, int]) -> tuple[str, str]:
    """Return the reason why a page is no article, or nothing, and its wikitext."""
    try:
        root = ElementTree.fromstring(page[max(page.rfind(b"<page>"), 0) :] + _END)
    except ElementTree.ParseError:
        return "damaged", ""
    prefix, colon, _ = (root.findtext("title") or "").partition(":")
    named = colon and namespaces.get(prefix.strip().lower(), 0) != 0
    if named or (root.findtext("ns") or "0").strip() != "0":
        return "namespaced", ""
    if (text := root.findtext("revision/text")) is None:
        return "damaged", ""
    return "redirects" if root.find("redirect") is not None or _REDIRECT.match(text) else "", text
