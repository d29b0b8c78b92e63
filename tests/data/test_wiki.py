"""Dumps: which pages count as articles, whatever the blocks, the workers and the damage."""

import random
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from dynamics.data.sources import locate
from dynamics.data.wiki import Part, clean_dump

HEAD = """<mediawiki><siteinfo><namespaces>
<namespace key="0" /><namespace key="4">Wiki &amp; Co</namespace><namespace key="6">Bild</namespace>
</namespaces></siteinfo>"""


def page(title: str, text: str, extra: str = "") -> str:
    return f"<page><title>{title}</title>{extra}<revision><text>{text}</text></revision></page>\n"


def cleaned(xml: str | bytes, block: int = 1 << 20, processes: int = 1) -> Part:
    data = xml.encode() if isinstance(xml, str) else xml
    parts = list(clean_dump((data[i : i + block] for i in range(0, len(data), block)), processes))
    return Part(
        list(chain.from_iterable(part.articles for part in parts)),
        sum((part.counts for part in parts), Counter()),
        sum((part.removed for part in parts), Counter()),
        sum(part.size for part in parts),
    )


@pytest.fixture(scope="module")
def dump(shared_data: Path) -> bytes:
    return b"".join(locate(str(shared_data / "enwik8_prefix.xml.xz")).blocks())


def test_articles_alone_are_kept():
    part = cleaned(
        HEAD
        + page("Trees", "A tree, [[Bild:x.jpg|thumb]]&amp;lt;3.")
        + page("Oak", "\n #Redirect [[Trees]]")
        + page("Ash", "Text", "<redirect title='Trees' />")
        + page("Wiki &amp; Co:About", "Text")
        + page("Talk:Trees", "Text")
        + page("Elm", "Text", "<ns>118</ns>")
        + page("Fir", "{{stub}}")
        + page("2001: A Space Odyssey", "A film.", "<ns>0</ns>")
        + "</mediawiki>"
    )
    assert part.articles == ["A tree, <3.", "A film."]
    assert part.counts == {"pages": 8, "articles": 2, "redirects": 2, "namespaced": 3, "empty": 1}
    assert part.removed == {"files": 1, "templates": 1}


def test_a_dump_that_is_cut_off_loses_the_last_page():
    whole = HEAD + page("A", "one") + page("B", "zwei: é")
    for cut in range(len(HEAD), len(whole.encode())):
        articles = cleaned(whole.encode()[:cut]).articles
        assert articles in (["one", "zwei: é"][:n] for n in range(3))
    assert cleaned(whole[:-20]).counts["damaged"] == 1


def test_a_damaged_page_costs_no_other():
    middle = page("B", "two")
    for broken in ("<page>", "</page>", "<title>", "</text>"):
        part = cleaned(HEAD + page("A", "one") + middle.replace(broken, broken[:-1] + "?") + page("C", "three"))
        assert part.articles == ["one", "three"]
        assert part.counts["damaged"] == 1


@pytest.mark.parametrize("junk", [b"", b"no xml", b"<page>", b"</page>", b"</page>" * 9, b"\x00\xff<page></page>"])
def test_a_file_that_is_no_dump_has_no_articles(junk: bytes):
    assert cleaned(junk).articles == []


def test_thousand_truncations_and_flipped_bits(dump: bytes):
    """No damage raises, and most articles come through it."""
    chance = random.Random(0)
    pages = re.findall(rb"  <page>.*?</page>\n", dump, re.DOTALL)
    piece = b"".join([page for page in pages if 900 < len(page) < 2000 and b"#REDIRECT" not in page][:5])
    kept = 0
    for trial in range(1000):
        damaged = bytearray(piece[: chance.randrange(len(piece)) if trial % 2 else None])
        for _ in range(chance.choice((0, 1, 8)) if damaged else 0):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        part = cleaned(bytes(damaged), block=4096)
        assert part.counts["articles"] == len(part.articles) <= part.counts["pages"] <= 6, trial
        kept += len(part.articles)
    assert kept > 2000


def test_articles_do_not_depend_on_blocks_and_workers(dump: bytes):
    short = dump[:400_000]
    whole = cleaned(short)
    assert len(whole.articles) > 10
    for block in (997, 65_537):
        assert cleaned(short, block) == whole
    long = dump[:1_300_000]
    assert cleaned(long, processes=2) == cleaned(long)
