"""Work on a page is bounded: what is never closed is cut and counted, and real pages are left alone."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.data import bounds, wiki, wikitext
from dynamics.data.bounds import LIMIT, bounded, unpaired
from dynamics.data.wikitext import clean

OPEN = (
    "{{a|",
    "{{{a|",
    "[[a|",
    "<b>",
    "<ref name=a>",
    "<b ",
    "[http://a ",
    "[mailto:a ",
    "{|\n|",
    "<nowiki>",
    "\n*{{a|",
)
PAIRS = (("{{a|", "}}"), ("[[a|", "]]"), ("<b>", "</b>"), ("{|\n", "\n|}"), ("[http://a ", "]"), ("<!--", "-->"))


@pytest.mark.parametrize("mark", OPEN)
def test_what_is_never_closed_is_cut_and_counted(mark):
    page, removed = mark * (80_000 // len(mark)), Counter()
    kept = bounded(page)
    assert page.startswith(kept)
    assert unpaired(kept) * len(kept) <= 3 * LIMIT  # a tag counts for its bracket and for its name
    clean(page, removed=removed)
    assert removed["articles that are cut"] == 1


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_a_long_page_whose_marks_are_closed_is_whole(left, right):
    page = f"{left}x{right} and some words. " * 20_000
    assert unpaired(page) == 0
    assert bounded(page) == page


def test_raw_text_and_tags_without_an_end_open_nothing():
    assert unpaired("<math>{{a</math><nowiki>[[</nowiki><br><li>a<ref name=x /><pre>{|</pre>") == 0


@given(st.lists(st.sampled_from([*"{}ab\n", "{{", "}}", "{{{", "}}}"])))
def test_templates_are_removed_as_one_by_one(parts):
    text, count, total = "".join(parts), 1, 0
    counted = Counter()
    found = wikitext._without_templates(text, counted)
    while count:
        text, count = re.subn(r"\{\{[^{}]*\}\}", "", text)
        total += count
    assert (found, counted["templates"]) == (text, total)


@given(st.text(alphabet="|=\"' \ta.-+}1{#x", max_size=14))
def test_marks_of_a_table_are_those_of_the_plain_pattern(line):
    plain = re.compile(r"[ \t:*#]*(?:\{\||\|(?:\}|[-+](?![\d.])|\s*$|\s*[\w .-]+=|[^|]*=\s*[\"'][^|]*\|(?!\|)))")
    assert bool(wikitext._TABLE_MARK.match(line)) == bool(plain.match(line))


@pytest.mark.parametrize(
    "page",
    [
        "\n|" + " " * 80_000 + "x]",
        "\n|" + '="' * 40_000,
        "&#" + "1" * 80_000 + ";",
        "{" * 40_000 + "}" * 40_000,
        "{'''" * 10_000 + "}'''" * 10_000,
        "".join(map(chr, range(0xF0000, 0xFFFFE))),
    ],
    ids=["spaces", "attributes", "number", "braces", "quotes", "private"],
)
def test_a_long_page_of_anything_is_cleaned(page):  # in minutes, or with an error, once
    assert len(clean(page)) <= len(page)


def test_a_dump_whose_page_never_ends_is_read_in_bounded_pieces(monkeypatch):
    monkeypatch.setattr(wiki, "LONGEST", 1000)
    page = b"<page><title>a</title><revision><text>words</text></revision></page>"
    dump = [page, b"<page><title>b", *[b"x" * 100] * 100, b"</page>", page]
    parts = list(wiki.clean_dump(dump, processes=1))
    assert [article for part in parts for article in part.articles] == ["words", "words"]
    assert sum((part.counts for part in parts), Counter())["damaged"] > 0
    assert max(len(piece) for chunk in wiki._chunks(dump) for piece in chunk) <= 1200


def test_the_limit_is_far_above_real_pages(shared_data):
    import lzma

    dump = lzma.decompress((shared_data / "enwik8_prefix.xml.xz").read_bytes())
    texts = [wiki._wikitext(page, wiki.NAMESPACES)[1] for chunk in wiki._chunks([dump]) for page in chunk]
    assert max(unpaired(text) * len(text) for text in texts) < bounds.LIMIT / 10
